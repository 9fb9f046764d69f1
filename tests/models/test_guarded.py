"""A guarded model rejects exactly what its detector flags, and its gradient never vanishes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, Scaled, make_images, make_linear
from guards import Blind, Brightness, Far, Given, Saturated, guarded

from deepsec_jax.answers import answered
from deepsec_jax.attacks import PGD
from deepsec_jax.defenses import FittedDetector
from deepsec_jax.defenses.transformed import Transformed
from deepsec_jax.model_traits import classes_of, rejects
from deepsec_jax.models import wrappers
from deepsec_jax.models.guarded import Guarded

LINEAR = make_linear()
THRESHOLD = np.float32(0.3)
SCORES = np.array(
    [THRESHOLD, np.nextafter(THRESHOLD, np.float32(1)), np.nextafter(THRESHOLD, np.float32(0)), np.nan,
     np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, 1e-30, 0.31, 0.29], np.float32
)  # fmt: skip


@pytest.mark.parametrize("spread", [1e-6, 0.1, 1e6])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e4, 1e8])
def test_the_last_class_wins_exactly_where_the_detector_flags(scale, weight, spread):
    x = make_images(rows=len(SCORES), seed=2)
    detector = FittedDetector(Given(jnp.asarray(SCORES)), THRESHOLD, spread)
    logits = np.asarray(Guarded(Scaled(LINEAR, scale), detector, weight)(x))
    assert logits.shape == (len(SCORES), 4) and np.asarray(answered(jnp.asarray(logits))).all()
    flagged = ~(SCORES <= THRESHOLD)
    classes = logits[:, :3]
    np.testing.assert_array_equal(classes, np.asarray(Scaled(LINEAR, scale)(x)))
    np.testing.assert_array_equal(logits.argmax(axis=1), np.where(flagged, 3, classes.argmax(axis=1)))
    np.testing.assert_array_equal(flagged, np.asarray(detector.flags(x)))
    assert (logits[:, 3] != classes.max(axis=1)).all()  # no tie that an order of classes would decide


def test_no_answer_of_the_network_is_none_of_the_guard():
    x = make_images(rows=2, seed=2)
    for scores in (0.0, 1.0, np.nan):  # not flagged, flagged, flagged
        detector = FittedDetector(Given(jnp.full(2, scores)), THRESHOLD, 1.0)
        for broken in (np.nan, np.inf):
            logits = Guarded(Scaled(LINEAR, broken), detector)(x)
            assert not np.asarray(answered(logits)).any()


def test_it_is_the_formula_away_from_the_threshold():
    x = make_images(rows=20)
    model = guarded(Brightness(), fpr=0.3, weight=0.7)
    classes, scores = np.asarray(LINEAR(x), np.float64), np.asarray(x, np.float64).mean(axis=(1, 2, 3))
    wanted = classes.max(axis=1) + 0.7 * (scores - model.detector.threshold) / model.detector.spread
    np.testing.assert_allclose(np.asarray(model(x))[:, 3], wanted, rtol=1e-4, atol=1e-4)
    assert 0 < np.asarray(model.detector.flags(x)).mean() < 1


def last_gradient(model, x):
    """The gradient of "rejected" less the largest class, [B, ...]."""
    return jax.grad(lambda x: jnp.sum(model(x)[:, 3] - jnp.max(model(x)[:, :3], axis=-1)))(x)


def test_the_gradient_is_that_of_the_score_near_the_threshold_and_far_from_it():
    x = make_images(rows=6).at[0].set(0.5)
    brightness = np.asarray(Brightness()(x))
    for threshold in (brightness[0], brightness[0] - 1e-7, -1e3, 1e3):
        model = Guarded(LINEAR, FittedDetector(Brightness(), float(threshold), 0.02))
        np.testing.assert_allclose(last_gradient(model, x), 1 / 0.02 / 16, rtol=1e-3)


def test_planted_a_guard_that_saturates_has_no_gradient():
    model = guarded(Brightness(), fpr=0.3, kind=Saturated)
    x = make_images(rows=20)
    flagged = np.asarray(model.detector.flags(x))
    np.testing.assert_array_equal(np.asarray(model(x)).argmax(axis=1) == 3, flagged)
    assert flagged.any() and not np.asarray(last_gradient(model, x)).any()


def test_without_a_threshold_nothing_is_rejected():
    x = make_images(rows=8)
    model = Guarded(LINEAR, FittedDetector(Far(jnp.zeros((4, 4, 1)))))
    assert np.array_equal(np.asarray(model(x)).argmax(axis=1), np.asarray(LINEAR(x)).argmax(axis=1))


def test_half_precision_images():
    x = make_images(rows=8).astype(jnp.bfloat16)
    model = guarded(Brightness(), fpr=0.3)
    logits = model(x)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(jnp.argmax(logits, axis=1) == 3, model.detector.flags(x))


def test_who_rejects():
    model = guarded()
    noisy = Noisy(LINEAR, jax.random.split(jax.random.key(0), 4))
    assert rejects(model) and rejects(Guarded(noisy, model.detector))
    transformed = Transformed(model, Scaled(LINEAR), jax.random.split(jax.random.key(0), 4))
    for wrapped in (wrappers.EOT(model, 2), wrappers.Scaled(model), wrappers.EOT(wrappers.Scaled(model), 2),
                    transformed):  # fmt: skip
        assert rejects(wrapped)
    for other in (LINEAR, noisy, wrappers.EOT(noisy, 2), guarded(kind=Blind), jax.tree_util.Partial(jnp.sum),
                  None):  # fmt: skip
        assert not rejects(other)
    x = make_images(rows=2)
    assert classes_of(model, x) == 3 and classes_of(LINEAR, x) == 3


def test_two_detectors_are_not_stacked():
    model = guarded()
    with pytest.raises(ValueError, match="rejects already: give one detector both scores"):
        PGD(steps=1)(Guarded(model, model.detector), make_images(rows=2), jnp.zeros(2, jnp.int32))
