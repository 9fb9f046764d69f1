"""What a defense does to clean images: cases worked out by hand, SciPy's divergence, and bounds."""

import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, Scaled, make_images, make_linear
from scipy.spatial.distance import jensenshannon

import deepsec_jax.metrics
from deepsec_jax.metrics import (
    DEFENSE_METRICS,
    METRICS,
    DefenseRecord,
    both_correct,
    defense_record_of,
    measure_defense,
    not_applicable,
    summarise,
)
from deepsec_jax.metrics.cos import divergence
from deepsec_jax.metrics.defense_table import DEFENSE_MODULES
from deepsec_jax.pytree import Struct

RNG = np.random.default_rng(0)
RAW, DEFENDED = make_linear(seed=0), make_linear(seed=7)
X = make_images(rows=40)
LABELS = jnp.argmax(make_linear(seed=3)(X), axis=-1).astype(jnp.int32)  # neither model's own


def record(labels, p_raw, p, *, confidences=True) -> DefenseRecord:
    """The record of two deterministic models with these probabilities."""
    labels = jnp.asarray(labels, jnp.int32)
    p_raw, p = jnp.asarray(p_raw, jnp.float32), jnp.asarray(p, jnp.float32)

    def correct(probabilities):
        return (jnp.argmax(probabilities, axis=1) == labels).astype(jnp.float32)

    return DefenseRecord(
        labels=labels, logits_raw=jnp.log(p_raw), logits=jnp.log(p), probabilities_raw=p_raw, probabilities=p,
        correct_raw=correct(p_raw), correct=correct(p), confidences=confidences,
    )  # fmt: skip


def means(found: DefenseRecord) -> dict:
    values, mask = measure_defense(found), np.asarray(both_correct(found))
    return {name: summarise(DEFENSE_METRICS[name], values[name], mask) for name in values}


# Four images of class 0: kept, set right, given up, wrong before and behind.
BY_HAND = record(
    [0, 0, 0, 0],
    [[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.9, 0.1, 0.0], [0.2, 0.3, 0.5]],
    [[0.5, 0.3, 0.2], [0.7, 0.3, 0.0], [0.1, 0.9, 0.0], [0.2, 0.5, 0.3]],
)


def test_by_hand():
    values = measure_defense(BY_HAND)
    np.testing.assert_array_equal(values["cav"], [0, 1, -1, 0])
    np.testing.assert_array_equal(values["crr"], [0, 1, 0, 0])
    np.testing.assert_array_equal(values["csr"], [0, 0, 1, 0])
    np.testing.assert_allclose(values["ccv"], [0.3, 0.3, 0.8, 0.0], atol=1e-6)
    p, q, m = (0.8, 0.2), (0.5, 0.3), (0.65, 0.25)
    by_hand = sum(a * math.log(a / b) for row in (p, q) for a, b in zip(row, m, strict=True)) / 2
    by_hand += 0.2 * math.log(0.2 / 0.1) / 2  # the third class: 0 before, 0.2 behind
    assert values["cos"][0] == pytest.approx(by_hand, abs=1e-6)
    found = means(BY_HAND)
    assert [found[name].n for name in ("cav", "crr", "csr", "ccv", "cos")] == [4, 4, 4, 1, 1]
    assert (found["cav"].mean, found["crr"].mean, found["csr"].mean) == (0, 0.25, 0.25)
    assert found["ccv"].mean == pytest.approx(0.3) and found["cos"].mean == pytest.approx(by_hand, abs=1e-6)
    assert found["ccv"].mean != pytest.approx(np.mean(values["ccv"])), "planted: over all images"


def test_the_original_s_largest_probability_is_the_true_one_s_on_these_images():
    """The code compares the largest probabilities; over both correct that is P_y, over all it is not."""
    largest = np.abs(
        np.max(BY_HAND.probabilities_raw, axis=1) - np.max(BY_HAND.probabilities, axis=1)
    )  # fmt: skip
    ccv, mask = measure_defense(BY_HAND)["ccv"], np.asarray(both_correct(BY_HAND)) == 1
    np.testing.assert_array_equal(ccv[mask], largest[mask])
    assert not np.allclose(ccv, largest)


def accuracy_is_rectified_minus_sacrificed(values) -> bool:
    return np.array_equal(values["cav"], values["crr"] - values["csr"])


def test_accuracy_is_rectified_minus_sacrificed():
    found = defense_record_of(RAW, DEFENDED, X, LABELS)
    values = measure_defense(found)
    assert accuracy_is_rectified_minus_sacrificed(values)
    assert min(values["crr"].sum(), values["csr"].sum()) > 0
    correct = [np.asarray(jnp.argmax(model(X), axis=-1) == LABELS) for model in (RAW, DEFENDED)]
    assert means(found)["cav"].mean == pytest.approx(correct[1].mean() - correct[0].mean(), abs=1e-12)
    of_the_wrong = values["crr"] / (1 - correct[0].mean())  # planted: a share of the wrong images only
    assert not accuracy_is_rectified_minus_sacrificed({**values, "crr": of_the_wrong})


def dirichlet(rows, classes, concentration):
    return RNG.dirichlet(np.full(classes, concentration), rows).astype(np.float32)


def agrees_with_scipy(ours, p, q) -> bool:
    pairs = zip(p.astype(np.float64), q.astype(np.float64), strict=True)
    with np.errstate(invalid="ignore"):  # the root of a sum that rounding left below 0
        theirs = np.nan_to_num(np.array([jensenshannon(*pair) for pair in pairs]), nan=0.0) ** 2
    return bool(np.allclose(ours, theirs, rtol=0, atol=1e-5))


@pytest.mark.parametrize("concentration", [10.0, 1.0, 0.01], ids=["flat", "uniform", "peaked"])
@pytest.mark.parametrize("classes", [2, 10])
def test_divergence_is_scipys_squared(concentration, classes):
    p, q = (dirichlet(200, classes, concentration) for _ in range(2))
    ours = np.asarray(divergence(jnp.asarray(p), jnp.asarray(q)))
    assert agrees_with_scipy(ours, p, q)
    np.testing.assert_allclose(ours, divergence(jnp.asarray(q), jnp.asarray(p)), atol=1e-7)
    assert not agrees_with_scipy(np.sqrt(ours), p, q)  # planted: the distance, not the divergence
    assert not agrees_with_scipy(ours / math.log(2), p, q)  # planted: bits


def test_divergence_of_near_outputs_keeps_its_digits():
    """Both of an image's outputs differ in the fourth digit: the divergence is near 1e-8."""
    p = dirichlet(50, 10, 5.0).astype(np.float64)
    q = p * (1 + 1e-4 * RNG.normal(size=p.shape))
    p, q = p.astype(np.float32), q.astype(np.float32)
    middle = (p.astype(np.float64) + q) / 2
    expected = (p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=1) / 2
    ours = np.asarray(divergence(jnp.asarray(p), jnp.asarray(q)), np.float64)
    assert np.abs(ours - expected).max() < 1e-7


def within_bounds(values) -> bool:
    values = np.asarray(values, np.float64)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values <= math.log(2)).all())


def test_divergence_at_its_ends():
    one_hot = np.eye(4, dtype=np.float32)
    other = np.roll(one_hot, 1, axis=0)
    tiny = np.float32(1e-45)  # the smallest float32: half of it is 0
    hard = np.array([[1, tiny, 0, 0], [1, 0, 0, 0]], np.float32)
    for p, q in ((one_hot, other), (one_hot, one_hot), (hard, hard[::-1].copy()), (hard, other[:2])):
        assert within_bounds(divergence(jnp.asarray(p), jnp.asarray(q)))
    furthest = np.asarray(divergence(jnp.asarray(one_hot), jnp.asarray(other)))
    np.testing.assert_allclose(furthest, math.log(2), atol=1e-7)
    # Planted: the formula as it is written, in float32, and float32's own ln 2, which is above ln 2.
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (one_hot + other) / 2
        assert not within_bounds(one_hot * np.log(one_hot / middle))
    assert not within_bounds(np.float32(math.log(2)))


class Same(Struct):
    """A defense that changes nothing."""

    base: object

    def __call__(self, x):
        return self.base(x)


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["usual", "confident"])
def test_no_defense_is_all_zeros(scale):
    """Another pytree of the same arithmetic: every figure is exactly 0, without rounding."""
    raw = Scaled(RAW, scale)
    values = measure_defense(defense_record_of(raw, Same(raw), X, LABELS))
    assert all(not values[name].any() for name in DEFENSE_METRICS)
    moved = measure_defense(defense_record_of(raw, Scaled(RAW, 1.1 * scale), X, LABELS))  # planted
    assert not moved["cav"].any()
    # Confident probabilities are all but 0 and 1; whether their last digit moves is the processor's choice.
    assert scale > 1 or (moved["ccv"].any() and moved["cos"].any())


def test_no_confidences_no_figures():
    votes = record(BY_HAND.labels, BY_HAND.probabilities_raw, BY_HAND.probabilities, confidences=False)
    values = measure_defense(votes)
    for name, column in DEFENSE_METRICS.items():
        reason, summary = not_applicable(votes, column), means(votes)[name]
        assert not_applicable(BY_HAND, column) is None
        if name in ("ccv", "cos"):
            assert np.isnan(values[name]).all() and "no confidences" in reason
            assert summary.n == 0 and math.isnan(summary.mean)
        else:
            assert reason is None and summary.n == 4
            np.testing.assert_array_equal(values[name], measure_defense(BY_HAND)[name])
    assert not np.isnan(measure_defense(BY_HAND)["cos"]).any()  # planted: the same outputs as confidences


def test_a_class_more_for_rejected():
    """A defended model that may reject: its own number of columns, and a rejected image is not correct."""
    rejects = make_linear(classes=4, seed=7)
    found = defense_record_of(RAW, rejects, X, LABELS, confidences=False)
    values = measure_defense(found)
    assert found.probabilities.shape == (40, 4) and np.isnan(values["cos"]).all()
    assert accuracy_is_rectified_minus_sacrificed(values)
    np.testing.assert_array_equal(found.correct, jnp.argmax(rejects(X), axis=-1) == LABELS)
    with pytest.raises(ValueError, match="3 classes, the defended one 4: pass confidences=False"):
        defense_record_of(RAW, rejects, X, LABELS)


def test_nobody_correct_is_no_crash():
    wrong = record([2, 2], [[0.8, 0.2, 0.0]] * 2, [[0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])
    found = means(wrong)
    assert (found["ccv"].n, found["cos"].n) == (0, 0) and math.isnan(found["cos"].mean)
    assert found["crr"].mean == 0.5 and found["crr"].n == 2
    nothing = jax.tree.map(lambda leaf: leaf[:0], wrong)
    assert all(len(column) == 0 for column in measure_defense(nothing).values())
    assert all(summary.n == 0 for summary in means(nothing).values())


def test_the_record_is_both_models_outputs():
    found = defense_record_of(RAW, DEFENDED, X, LABELS)
    np.testing.assert_allclose(found.logits_raw, RAW(X), atol=1e-6)
    np.testing.assert_allclose(found.probabilities, jax.nn.softmax(DEFENDED(X)), atol=1e-6)
    both = (jnp.argmax(RAW(X), axis=-1) == LABELS) & (jnp.argmax(DEFENDED(X), axis=-1) == LABELS)
    np.testing.assert_array_equal(both_correct(found), both)
    assert 0 < both.sum() < 40
    halves = [defense_record_of(RAW, DEFENDED, X[part], LABELS[part]) for part in (slice(20), slice(20, 40))]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *halves)
    for one, other in zip(jax.tree.leaves(joined), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def draws_of(seed, draws=5):
    keys = jax.random.split(jax.random.key(seed), draws * len(X))
    return keys.reshape(draws, len(X))


def test_a_randomised_defense_is_a_mean_over_draws():
    noisy, draws = Noisy(RAW, jax.random.split(jax.random.key(0), 40), scale=0.4), draws_of(1)
    found = defense_record_of(RAW, noisy, X, LABELS, draws=draws)
    singles = [defense_record_of(RAW, noisy, X, LABELS, draws=keys[None]) for keys in draws]
    values, each = measure_defense(found), [measure_defense(one) for one in singles]
    assert ((found.correct > 0) & (found.correct < 1)).any()
    for name in ("cav", "crr", "csr"):
        np.testing.assert_allclose(values[name], np.mean([one[name] for one in each], axis=0), atol=1e-6)
    np.testing.assert_allclose(
        found.probabilities, np.mean([one.probabilities for one in singles], axis=0), atol=1e-6
    )  # fmt: skip
    assert accuracy_is_rectified_minus_sacrificed(values)
    # The mean output moves no further than the outputs do on average (both figures are convex).
    for name in ("ccv", "cos"):
        assert (values[name] <= np.mean([one[name] for one in each], axis=0) + 1e-6).all()
    half = np.asarray(found.correct) >= 0.5
    assert means(found)["ccv"].n == (half & (np.asarray(found.correct_raw) == 1)).sum()


def test_a_randomised_raw_model_too():
    noisy = Noisy(RAW, jax.random.split(jax.random.key(0), 40), scale=0.4)
    found = defense_record_of(noisy, noisy, X, LABELS, raw_draws=draws_of(1), draws=draws_of(2))
    values = measure_defense(found)
    np.testing.assert_allclose(values["cav"], values["crr"] - values["csr"], atol=1e-6)
    for asked in ({}, {"raw_draws": draws_of(1)}):
        with pytest.raises(ValueError, match=r"randomised: pass (raw_)?draws= keys \[draws, 40\]"):
            defense_record_of(noisy, noisy, X, LABELS, **asked)


def test_the_table_is_complete_and_explains_itself():
    folder = Path(deepsec_jax.metrics.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "\nDEFENSE_COLUMNS = (" in path.read_text()}
    assert files == {module.__name__.rpartition(".")[2] for module in DEFENSE_MODULES}
    assert tuple(DEFENSE_METRICS) == ("cav", "crr", "csr", "ccv", "cos")
    assert not set(DEFENSE_METRICS) & set(METRICS)
    for name, column in DEFENSE_METRICS.items():
        assert column.name == name and column.formula and column.section == "II-D" and column.unit
        assert column.better in ("higher", "lower") and column.over in ("all", "both correct")
        assert column.needs_confidences == (column.over == "both correct") and not column.host
    better = {name: column.better for name, column in DEFENSE_METRICS.items()}
    assert better == {"cav": "higher", "crr": "higher", "csr": "lower", "ccv": "lower", "cos": "lower"}


def test_shares_and_their_difference_have_intervals_that_fit_each_other():
    found = means(defense_record_of(RAW, DEFENDED, X, LABELS))
    for name in ("crr", "csr"):
        assert 0 <= found[name].low < found[name].mean < found[name].high <= 1
    assert -found["csr"].high < found["cav"].low < found["cav"].mean < found["cav"].high < found["crr"].high


def test_an_unknown_column_names_its_neighbour():
    with pytest.raises(KeyError, match="Did you mean"):
        measure_defense(BY_HAND, ["ccvv"])


def test_one_compile_for_all_records(compiles):
    measure_defense(BY_HAND)
    with compiles() as count:
        measure_defense(jax.tree.map(lambda leaf: leaf[::-1], BY_HAND))
        assert count("_on_device") == 0


def test_the_page_shows_the_table():
    docs = Path(__file__).resolve().parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("hooks", docs / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = (docs / "metrics.md").read_text()
    shown = hooks.on_page_markdown(page)
    for name in DEFENSE_METRICS:
        assert f"| `{name}` |" in shown and f"| `{name}` |" not in page
    assert "better for the defender" in shown and "both correct" in shown
