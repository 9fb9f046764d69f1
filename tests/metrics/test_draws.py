"""Success and confidence draw by draw: what a model gets wrong anyway is nobody's success."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear
from guards import Brightness, guarded
from scipy.special import softmax

from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.catalog import Card
from deepsec_jax.data import Candidates
from deepsec_jax.defenses.rc import RegionVotes
from deepsec_jax.evaluation import judge
from deepsec_jax.evaluation.attack_jobs import attacked
from deepsec_jax.evaluation.judge import judging_keys
from deepsec_jax.evaluation.measured import measure_cell, record_of
from deepsec_jax.metrics import METRICS, measure, summarise
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import is_randomised, reseed
from deepsec_jax.runs.cells import KINDS, Cell
from deepsec_jax.studies.table import STUDIES

ROWS, CLASSES = 24, 3
LINEAR = make_linear()
X = make_images(rows=ROWS, seed=3)
X_ADV = jnp.clip(X + 0.4 * jnp.sign(make_images(rows=ROWS, seed=4) - 0.5), 0.0, 1.0)
LABELS = jnp.argmax(LINEAR(X), axis=-1).astype(jnp.int32)
TARGETS = (LABELS + 1) % CLASSES


class Shifted(Struct):
    """RT in small: each row is rolled by as many pixels as its key says."""

    model: object
    keys: jax.Array

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        places = jax.vmap(lambda key: jax.random.randint(key, (), 0, 3))(self.keys)
        return self.model(jax.vmap(lambda image, place: jnp.roll(image, place, axis=0))(x, places))


class Moody(Struct):
    """Right and sure of it in most draws; on bright images wrong, in a little more than half of them."""

    keys: jax.Array

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        wrong = jax.vmap(lambda key: jax.random.bernoulli(key, 0.6))(self.keys) & (x[:, 0, 0, 0] > 0.5)
        return jnp.where(wrong[:, None], jnp.array([[0.0, 0.4]]), jnp.array([[5.0, 0.0]]))


def keys(rows=ROWS):
    return jax.random.split(jax.random.key(1), rows)


MODELS = {
    "linear": LINEAR,
    "noise": Noisy(LINEAR, keys(), 0.4),
    "shifts": Shifted(LINEAR, keys()),
    "rejects": guarded(Brightness(), fpr=0.3),
    "noise, rejects": Shifted(guarded(Brightness(), fpr=0.3), keys()),
    "votes": RegionVotes(LINEAR, 0.3, keys(), 20),
}


def draws_of(model, x):
    """The logits [D, B, K] that the judge sees, one call after the other."""
    drawn = judging_keys(model, len(x))
    chosen = [model] if drawn is None else [reseed(model, row) for row in drawn]
    return np.stack([np.asarray(one(x), np.float64) for one in chosen])


# --- success


class Still(Struct):
    """The attack that changes nothing."""

    targeted: bool = static(False)

    card: ClassVar[Card] = Card(
        name="Still", title="Nothing", reference="none", goal="untargeted", kind="budget"
    )
    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        return x


@pytest.mark.parametrize("targets", [None, LABELS], ids=["any", "target"])
@pytest.mark.parametrize("kind", MODELS)
def test_an_attack_that_returns_its_input_has_no_success(kind, targets):
    """Also with labels that the model never finds, targets that it always does, images of other levels."""
    model = MODELS[kind]
    outcome = judge(model, X, X, TARGETS, targets=targets)
    assert not np.asarray(outcome.success).any()
    found = measure(record_of(model, X, X, TARGETS, targets=targets), ["mr", "mr_8bit", "clean_error"])
    assert not found["mr"].any() and not found["mr_8bit"].any()
    np.testing.assert_array_equal(found["clean_error"], outcome.before)
    assert np.asarray(outcome.before).any()  # planted: what would count as a success, if before did not


@pytest.mark.parametrize("kind", ["noise", "votes"])
def test_the_tables_show_the_clean_error_and_do_not_count_it(kind):
    candidates = Candidates(
        images=np.asarray(X), labels=np.asarray(LABELS), targets=np.asarray(TARGETS),
        least_likely=np.asarray(TARGETS), rows=np.arange(ROWS), seed=0,
    )  # fmt: skip
    shown = {}
    for name, model in (("wrong", MODELS[kind]), ("calm", LINEAR)):
        _, arrays = attacked(Still(), model, candidates, key=jax.random.key(0), batch_size=ROWS)
        columns = measure_cell(model, arrays, names=("mr", "mr_8bit", "clean_error"), batch_size=ROWS)
        assert not arrays["success"].any() and not columns["mr"].any() and not columns["mr_8bit"].any()
        about = {"name": "still", "class": "Still", "preset": "own", "hyperparameters": {}}
        config = {
            "data": "own", "model": {"name": "own"}, "attack": about, "n": ROWS, "seed": 0,
            "candidates": "own", "version": KINDS["attack"].version,
        }  # fmt: skip
        (section,) = STUDIES["attacks"].sections([Cell("still", config, {}, arrays, columns)])
        headings = [column.name for span in section.tables[0].spans for column in span.columns]
        shown[name] = columns["clean_error"].mean() > 0, "clean_error" in headings
    assert shown["wrong"] == (True, True)  # planted: what success was
    assert shown["calm"] == (False, False)


@pytest.mark.parametrize("targets", [None, TARGETS], ids=["any", "target"])
@pytest.mark.parametrize("kind", MODELS)
def test_success_is_what_the_attack_adds_draw_by_draw(kind, targets):
    model = MODELS[kind]

    def reached(images):
        found = draws_of(model, images).argmax(axis=2)
        hit = found == np.asarray(targets) if targets is not None else found != np.asarray(LABELS)
        return hit & (found < CLASSES)

    outcome = judge(model, X, X_ADV, LABELS, targets=targets)
    np.testing.assert_allclose(outcome.success, (reached(X_ADV) & ~reached(X)).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(outcome.before, reached(X).mean(axis=0), atol=1e-6)
    right = draws_of(model, X_ADV).argmax(axis=2) == np.asarray(LABELS)
    np.testing.assert_allclose(outcome.correct, right.mean(axis=0), atol=1e-6)
    if targets is None and not np.isfinite(np.asarray(outcome.rejected)).any():
        clean = draws_of(model, X).argmax(axis=2) == np.asarray(LABELS)
        lost = 1.0 * clean - np.minimum(clean, right)  # as the tables of defenses take it
        np.testing.assert_allclose(outcome.success, lost.mean(axis=0), atol=1e-6)


# --- confidence


@pytest.mark.parametrize("targets", [None, TARGETS], ids=["any", "target"])
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "votes"])
def test_confidences_describe_the_class_found_in_each_draw_that_succeeded(kind, targets):
    model = MODELS[kind]
    record = record_of(model, X, X_ADV, LABELS, targets=targets)
    found = measure(record, ["mr", "acac", "actc", "nte"])
    clean, after = draws_of(model, X), draws_of(model, X_ADV)
    goal = np.asarray(LABELS if targets is None else targets)
    for row in range(ROWS):
        values = []
        for before, logits in zip(clean[:, row], after[:, row], strict=True):
            named = before.argmax(), logits.argmax()
            reached = [n < CLASSES and (n != goal[row] if targets is None else n == goal[row]) for n in named]
            if reached[1] and not reached[0]:
                p = softmax(logits[:CLASSES])
                values.append((p.max(), p[LABELS[row]], np.diff(np.sort(p)[-2:])[0]))
        expected = np.mean(values, axis=0) if values else np.full(3, np.nan)
        ours = [found[name][row] for name in ("acac", "actc", "nte")]
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        assert found["mr"][row] == pytest.approx(len(values) / len(after))
    if not is_randomised(model):  # the same bits as the plain formulas
        p, hit = np.asarray(record.probabilities), found["mr"] == 1
        np.testing.assert_array_equal(found["acac"][hit], p.max(axis=1)[hit])
        np.testing.assert_array_equal(found["actc"][hit], p[np.arange(ROWS), LABELS][hit])


MOODY = Moody(keys(40))
BRIGHT = jnp.ones((40, 1, 1, 1))


@pytest.mark.parametrize("targets", [None, TARGETS], ids=["any", "target"])
@pytest.mark.parametrize("kind", [*(kind for kind in MODELS if kind != "votes"), "moody"])
def test_order_of_figures_on_randomised_models(kind, targets):
    """Invariant G.12: 0 <= NTE <= ACAC, ACAC + ACTC <= 1."""
    if kind == "moody":
        zeros = jnp.zeros(40, jnp.int32)
        record = record_of(MOODY, 0 * BRIGHT, BRIGHT, zeros, targets=None if targets is None else zeros + 1)
    else:
        record = record_of(MODELS[kind], X, X_ADV, LABELS, targets=targets)
    found = measure(record, ["mr", "acac", "actc", "nte"])
    some = found["mr"] > 0
    assert some.any()
    for name in ("acac", "actc", "nte"):
        np.testing.assert_array_equal(np.isnan(found[name]), ~some)
    acac, actc, nte = (found[name][some] for name in ("acac", "actc", "nte"))
    assert ((nte >= 0) & (nte <= acac + 1e-6) & (acac + actc <= 1 + 1e-6)).all()


def test_todays_formula_would_describe_the_true_class():
    """Planted: the largest mean probability of a hit may be the true class's, and counts it twice."""
    zeros = jnp.zeros(40, jnp.int32)
    record = record_of(MOODY, 0 * BRIGHT, BRIGHT, zeros)
    hits = np.asarray(record.success) >= 0.5
    mean = np.asarray(record.probabilities)[hits]
    assert (mean.max(axis=1) + mean[:, 0]).max() > 1.2
    for name, expected in (("acac", 0.5987), ("actc", 0.4013), ("nte", 0.1974)):
        found = summarise(METRICS[name], measure(record, [name])[name], np.asarray(record.success))
        assert found.mean == pytest.approx(expected, abs=1e-4) and found.n == hits.sum()
    outcome = judge(MOODY, 0 * BRIGHT, BRIGHT, zeros)
    assert (np.asarray(outcome.predicted)[hits] == 1).all()  # what a picture says of a hit
    np.testing.assert_allclose(np.asarray(outcome.confidence)[hits], 0.5987, atol=1e-4)


def test_the_batch_does_not_matter():
    arrays = {
        "x": np.asarray(X), "x_adv": np.asarray(X_ADV), "labels": np.asarray(LABELS),
        "targets": np.full(ROWS, -1),
    }  # fmt: skip
    names = ("mr", "clean_error", "mr_8bit", "acac", "actc", "nte", "rgb_device")
    whole, parts = (measure_cell(MODELS["noise"], arrays, names=names, batch_size=size) for size in (ROWS, 7))
    for name in names:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-6)


def test_memory_does_not_grow_with_draws():
    """The compiled program of 64 draws needs no more room than that of 8, but for what each draw says."""
    from deepsec_jax.metrics import classify

    def room(count):
        model = Noisy(make_linear((8, 8, 3), 50), keys(64))
        x = jnp.zeros((64, 8, 8, 3))
        drawn = jax.random.split(jax.random.key(0), (count, 64))
        compiled = jax.jit(classify).lower(model, x, jnp.zeros(64, jnp.int32), None, drawn).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert room(64) < room(8) + 64 * 64 * 50  # a quarter of the logits of the further draws
