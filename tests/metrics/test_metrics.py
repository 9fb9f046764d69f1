"""Each metric against other people's code and against cases worked out by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, Noisy, make_linear
from PIL import Image, ImageFilter
from scipy import special
from skimage.metrics import structural_similarity

import deepsec_jax.metrics
from deepsec_jax.evaluation.measured import (
    _bare_gradient,
    bare_gradient_seconds,
    measure_cell,
    record_of,
)
from deepsec_jax.metrics import METRICS, measure
from deepsec_jax.metrics.table import MODULES
from deepsec_jax.randomness import example_keys

SHAPE, CLASSES = (12, 9, 3), 4
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(20, *SHAPE)).astype(np.float32)
X[:4] = 0.0  # black
X[4:8, :6] = 1.0  # half of it flat and bright
X_ADV = np.clip(X + 0.3 * RNG.normal(size=X.shape) * (RNG.uniform(size=X.shape) < 0.5), 0, 1).astype(
    np.float32
)
MODEL = make_linear(SHAPE, CLASSES, scale=0.3)
LABELS = np.asarray(MODEL(jnp.asarray(X))).argmax(axis=1).astype(np.int32)  # right before the attack
TARGETS = ((LABELS + 1) % CLASSES).astype(np.int32)


@pytest.fixture(scope="module")
def values():
    """Every column, measured in batches of 8, which do not divide 20."""
    arrays = {"x": X, "x_adv": X_ADV, "labels": LABELS, "targets": np.full(20, -1, np.int32)}
    costs = {"seconds": 0.5, "gradients": 3.0, "forwards": 1.0, "gradient_seconds": 0.125}
    return measure_cell(MODEL, arrays, batch_size=8, **costs)


def probabilities():
    logits = np.asarray(X_ADV, np.float64).reshape(20, -1) @ np.asarray(MODEL.weights, np.float64)
    return special.softmax(logits + np.asarray(MODEL.bias, np.float64), axis=1)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_success_and_confidence(values):
    p = probabilities()
    np.testing.assert_array_equal(values["mr"], p.argmax(1) != LABELS)
    hit = values["mr"] == 1
    close(values["acac"][hit], p.max(1)[hit])
    close(values["actc"][hit], p[np.arange(20), LABELS][hit])
    close(values["nte"][hit], (np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2])[hit])
    assert all(np.isnan(values[name][~hit]).all() for name in ("acac", "actc", "nte"))
    assert 0 < values["mr"].mean() < 1


def test_targeted_success_is_the_target_alone():
    record = record_of(MODEL, X, X_ADV, LABELS, targets=TARGETS)
    np.testing.assert_array_equal(measure(record, ["mr"])["mr"], probabilities().argmax(1) == TARGETS)


def test_distances(values):
    delta = (X_ADV.astype(np.float64) - X).reshape(20, -1)
    levels = np.round(X_ADV * 255) != np.round(X * 255)
    close(values["l0"], levels.reshape(20, -1).mean(1))
    close(values["l0_pixels"], levels.any(3).reshape(20, -1).mean(1))
    close(values["l2"], np.linalg.norm(delta, axis=1))
    close(values["linf"], np.abs(delta).max(1))
    size = np.linalg.norm(X.astype(np.float64).reshape(20, -1), axis=1)
    close(values["l2_relative"][4:], np.linalg.norm(delta, axis=1)[4:] / size[4:])
    assert np.isnan(values["l2_relative"][:4]).all() and np.isnan(values["linf_relative"][:4]).all()


def test_similarity_is_scikit_images(values):
    expected = [
        structural_similarity(a, b, channel_axis=2, data_range=1.0) for a, b in zip(X, X_ADV, strict=True)
    ]
    close(values["ass"], expected)
    levels = [np.round(images * 255).astype(np.float32) for images in (X, X_ADV)]
    original = [
        structural_similarity(a, b, channel_axis=2, data_range=2.0) for a, b in zip(*levels, strict=True)
    ]
    close(values["ass_original"], original)
    same = measure(record_of(MODEL, X, X, LABELS), ["ass", "psd", "l2"])
    np.testing.assert_allclose(same["ass"], 1, atol=1e-6)
    assert not same["psd"].any() and not same["l2"].any()


def test_short_variance_is_seen():
    """Planted: E[x^2] - E[x]^2 in float32 loses flat bright areas, and the bound above sees it."""
    flat = np.float32(1.0) - np.float32(1e-4) * RNG.uniform(size=(64, 64)).astype(np.float32)
    short = np.mean(flat**2, dtype=np.float32) - np.mean(flat, dtype=np.float32) ** 2
    assert abs(short / np.var(flat.astype(np.float64)) - 1) > 1e-2


def test_sensitivity_distance_by_loops(values):
    expected = np.zeros((2, 20))
    for i in range(20):
        for c in range(3):
            padded = np.pad(X[i, :, :, c].astype(np.float64), 1, "reflect")
            for row in range(SHAPE[0]):
                for column in range(SHAPE[1]):
                    std = padded[row : row + 3, column : column + 3].std()
                    change = abs(float(X_ADV[i, row, column, c]) - float(X[i, row, column, c]))
                    expected[:, i] += change * (1 - std), change / max(std, 1 / 255)
    close(values["psd"], expected[0])
    close(values["psd_inverse"], expected[1])


def test_blur_and_compression_are_pillows(values):
    levels = np.round(X_ADV * 255).astype(np.uint8)
    blurred = [np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.5))) for image in levels]
    seen = np.stack(blurred).astype(np.float32) / 255
    np.testing.assert_array_equal(values["rgb"], np.asarray(MODEL(jnp.asarray(seen))).argmax(1) != LABELS)
    for name in ("rgb", "ric"):  # the device form agrees but for images near a boundary
        assert (values[name] != values[f"{name}_device"]).mean() <= 0.1
    assert set(np.unique(values["ric"])) <= {0.0, 1.0}


@pytest.mark.parametrize(("value", "survives"), [(0.5003, True), (0.4995, False)])
def test_rounding_to_8_bits(value, survives):
    """One pixel a little above the boundary: rounding lifts 127.6 to 128 and drops 127.4 to 127."""
    model = Linear(jnp.array([[0.0, 1.0]]), jnp.array([0.499, 0.0]))
    x, x_adv = (np.full((1, 1, 1, 1), pixel, np.float32) for pixel in (0.4, value))
    found = measure(record_of(model, x, x_adv, np.zeros(1, np.int32)), ["mr", "mr_8bit"])
    assert found["mr"] == 1 and found["mr_8bit"] == survives


def test_costs(values):
    assert (values["cc"] == 0.5).all() and (values["cc_gradients"] == 3).all()
    assert (values["cc_forwards"] == 1).all() and (values["cc_bare"] == 4).all()
    assert bare_gradient_seconds(MODEL, X, LABELS, repeats=2) > 0


class Voting(Linear):
    """One vote for the largest logit: no gradient, but a forward pass that takes time."""

    def __call__(self, x):
        return jax.nn.one_hot(jnp.argmax(super().__call__(x), axis=-1), self.bias.shape[0])


def test_the_bare_gradient_of_a_model_without_gradient_is_its_forward_pass():
    keys = example_keys(jax.random.key(0), len(X))
    loss, gradient = _bare_gradient(Voting(MODEL.weights, MODEL.bias), X, LABELS, keys)
    np.testing.assert_allclose(loss, np.log(CLASSES - 1) - 1, rtol=1e-5)  # all others have logit 0
    assert not np.any(gradient)


def test_order_of_figures(values):
    """Invariant G.12."""
    hit = values["mr"] == 1
    acac, actc, nte = (values[name][hit] for name in ("acac", "actc", "nte"))
    assert ((nte >= 0) & (nte <= acac + 1e-6) & (acac + actc <= 1 + 1e-6)).all()
    p = probabilities()
    both = p.max(1) + p[np.arange(20), LABELS]
    assert (both[hit] <= 1 + 1e-6).all() and not (both <= 1 + 1e-6).all()  # planted: over all it is false


def test_a_randomised_model_is_averaged_over_draws():
    record = record_of(Noisy(MODEL, jax.random.split(jax.random.key(0), 20), scale=0.3), X, X_ADV, LABELS)
    found = measure(record, ["mr", "mr_8bit", "acac"])
    assert ((found["mr"] > 0) & (found["mr"] < 1)).any()
    np.testing.assert_allclose(found["mr"], found["mr_8bit"], atol=0.5)
    again = record_of(Noisy(MODEL, jax.random.split(jax.random.key(1), 20), scale=0.3), X, X_ADV, LABELS)
    np.testing.assert_array_equal(found["mr"], measure(again, ["mr"])["mr"])


def test_the_table_is_complete_and_explains_itself():
    folder = Path(deepsec_jax.metrics.__file__).parent
    with_columns = {path.stem for path in folder.glob("*.py") if "\nCOLUMNS = (" in path.read_text()}
    assert with_columns == {module.__name__.rpartition(".")[2] for module in MODULES}
    assert {column.metric for column in METRICS.values()} >= {
        "mr", "acac", "actc", "ald", "ass", "psd", "nte", "rgb", "ric", "cc"
    }  # fmt: skip
    for name, column in METRICS.items():
        assert column.name == name and column.formula and column.section and column.unit
        assert column.better in ("higher", "lower", "neither") and column.over in ("all", "successful")


def test_no_column_is_a_copy_of_another(values):
    """Two columns of the same figures would be one figure under two names."""
    seen = {}
    for name, column in values.items():
        if name.startswith("cc") or METRICS[name].rate:  # shares of 20 yes-or-noes meet by chance
            continue
        key = column.tobytes()
        assert key not in seen, f"{name} repeats {seen[key]}"
        seen[key] = name


def test_an_unknown_column_names_its_neighbour():
    with pytest.raises(KeyError, match="Did you mean"):
        measure(record_of(MODEL, X, X, LABELS), ["acacc"])


def test_no_images():
    nothing = {"x": X[:0], "x_adv": X[:0], "labels": LABELS[:0], "targets": LABELS[:0]}
    assert all(len(column) == 0 for column in measure_cell(MODEL, nothing).values())
