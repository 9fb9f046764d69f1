"""A fitted detector: one threshold, set on clean images alone, and what lies above it is flagged."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few import base, digits  # noqa: F401
from flax import struct
from guards import Brightness

from deepsec_jax.data import Split
from deepsec_jax.defenses import Base, DefenseError, FittedDetector
from deepsec_jax.defenses.detector import FPR, draw, fitting_and_validation, score_all
from deepsec_jax.pytree import Struct

RNG = np.random.default_rng(0)


def pixels(scores):
    """Images of one pixel, whose mean is the score."""
    return np.asarray(scores, np.float32).reshape(-1, 1, 1, 1)


def flagged(detector, images):
    return int(np.asarray(detector.flags(jnp.asarray(images))).sum())


@pytest.mark.parametrize("fpr", [0.0, 0.01, FPR, 0.1, 1 / 3, 0.5, 0.999])
@pytest.mark.parametrize("n", [100, 101, 300, 1000])
def test_without_ties_exactly_the_share_is_flagged(n, fpr):
    images = pixels(RNG.permutation(n) / n)
    assert flagged(FittedDetector(Brightness()).at_fpr(images, fpr), images) == math.floor(round(fpr * n, 9))


@pytest.mark.parametrize("levels", [1, 2, 5, 30])
def test_with_ties_it_is_never_more(levels):
    scores = RNG.integers(0, levels, 200) / levels
    images = pixels(scores)
    for fpr in (0.0, FPR, 0.3):
        detector = FittedDetector(Brightness()).at_fpr(images, fpr)
        found = flagged(detector, images)
        assert found <= fpr * 200
        # No lower threshold would do: everything at the threshold itself would come on top.
        assert found + (scores.astype(np.float32) == np.float32(detector.threshold)).sum() > fpr * 200


def test_the_spread_reaches_from_the_median_to_the_threshold():
    scores = np.arange(101) / 100
    detector = FittedDetector(Brightness()).at_fpr(pixels(scores), 0.1)
    assert detector.threshold == pytest.approx(0.9) and detector.spread == pytest.approx(0.4)
    assert FittedDetector(Brightness()).at_fpr(pixels(np.full(50, 0.5))).spread > 0  # all alike


def test_a_threshold_on_other_images_flags_about_as_many():
    scores = RNG.uniform(size=20_000)
    detector = FittedDetector(Brightness()).at_fpr(pixels(scores[:10_000]))
    assert flagged(detector, pixels(scores[10_000:])) / 10_000 == pytest.approx(FPR, abs=0.01)


def test_bytes_are_the_same_images():
    images = RNG.integers(0, 256, (120, 3, 3, 1)).astype(np.uint8)
    as_bytes, as_floats = (
        FittedDetector(Brightness()).at_fpr(part, 0.1)
        for part in (images, images.astype(np.float32) / np.float32(255))
    )
    assert as_bytes == as_floats and 0 < flagged(as_floats, images.astype(np.float32) / 255) <= 12


def test_what_cannot_show_the_rate_is_refused():
    few = FittedDetector(Brightness())
    with pytest.raises(DefenseError, match=r"24 clean images cannot show .* of 0\.04: give at least 25"):
        few.at_fpr(pixels(np.arange(24) / 24))
    assert flagged(few.at_fpr(pixels(np.arange(25) / 25)), pixels(np.arange(25) / 25)) == 1
    for rate in (-0.1, 1.0):
        with pytest.raises(DefenseError, match="lies in"):
            few.at_fpr(pixels(np.arange(50) / 50), rate)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_an_error_when_fitting_and_suspicious_after(wrong):
    scores = np.arange(50) / 50
    scores[7] = wrong
    with pytest.raises(DefenseError, match="1 of 50 clean images have a score that is no number"):
        FittedDetector(Brightness()).at_fpr(pixels(scores))
    detector = FittedDetector(Brightness(), 0.5)
    assert flagged(detector, pixels([np.nan, np.inf, -np.inf, 0.5, np.nextafter(np.float32(0.5), 1)])) == 3
    assert flagged(FittedDetector(Brightness()), pixels([0.1, 1e30])) == 0  # no threshold yet


class Calls(Struct):
    """Brightness that counts how often it was traced."""

    seen: list = struct.field(pytree_node=False, hash=False, compare=False, default_factory=list)

    def __call__(self, x):
        self.seen.append(x.shape)
        return jnp.mean(x, axis=(1, 2, 3))


def test_all_images_are_scored_in_batches_of_one_size():
    scorer = Calls()
    scores = RNG.uniform(size=105).astype(np.float32)
    np.testing.assert_allclose(score_all(scorer, pixels(scores), batch_size=20), scores, rtol=1e-6)
    assert scorer.seen == [(20, 1, 1, 1)]
    assert score_all(scorer, pixels([])).shape == (0,)


def test_nothing_is_learned_from_the_test_split(base, digits):
    fit, validation = fitting_and_validation(base, digits)
    assert len(fit) + len(validation) == len(digits.train)
    together = np.concatenate([fit.images, validation.images])
    assert {row.tobytes() for row in together} == {row.tobytes() for row in digits.train.images}
    bare = Base(None, None, base.trained)
    fit, validation = fitting_and_validation(bare, digits)
    # No image sets the threshold that the detector has learned from.
    assert len(fit) + len(validation) == len(digits.train) and len(validation) == len(digits.train) // 10
    assert np.array_equal(np.concatenate([fit.images, validation.images]), digits.train.images)
    assert len(validation) == len(digits.train) // 10
    other = fitting_and_validation(
        base, replace(digits, test=Split(digits.test.images * 0, digits.test.labels))
    )
    assert np.array_equal(other[1].images, fitting_and_validation(base, digits)[1].images)


def test_a_draw_has_no_image_twice(digits):
    drawn = draw(digits.train, 30, jax.random.key(1))
    assert len({row.tobytes() for row in drawn.images}) == 30
    assert len(draw(digits.train, 10**6, jax.random.key(1))) == len(digits.train)
