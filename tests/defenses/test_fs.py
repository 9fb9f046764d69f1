"""FS: its score by NumPy and SciPy, its threshold, and a surrogate that flags the same without saturating."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few import base, digits, few  # noqa: F401
from scipy import ndimage, special

from deepsec_jax import defenses
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.defenses import DefenseError, FittedDetector
from deepsec_jax.defenses.detector import score_all
from deepsec_jax.defenses.detector_files import ARRAYS
from deepsec_jax.defenses.fs import FS, IDENTICAL, Rounded, SmoothlyRounded, log_odds, odds_of
from deepsec_jax.defenses.rc import RegionVotes
from deepsec_jax.models.wrappers import EOT, Scaled
from deepsec_jax.training import load_network


def images(rows=12, seed=0):
    return np.random.default_rng(seed).uniform(size=(rows, 8, 8, 1)).astype(np.float32)


def by_scipy(x, weights):
    """The score of two squeezers, in float64."""

    def softmax(x):
        return special.softmax(x.reshape(len(x), -1).astype(np.float64) @ weights, axis=-1)

    squeezed = np.round(x), ndimage.median_filter(x, size=(1, 2, 2, 1))
    return np.max([np.abs(softmax(x) - softmax(s)).sum(-1) for s in squeezed], axis=0)


class Dense:
    """A linear model whose weights NumPy has, too."""

    weights = np.random.default_rng(5).normal(size=(64, 10)).astype(np.float32)
    model = jax.tree_util.Partial(lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(weights))


def plain(model, **options):
    return FittedDetector(FS(**options)._score(model))


def test_the_score_is_the_largest_l1_distance():
    x = images()
    scores = np.asarray(plain(Dense.model).score(x))
    assert np.allclose(scores, by_scipy(x, Dense.weights), atol=1e-5)
    alone = [np.asarray(plain(Dense.model, **one).score(x)) for one in ({"bits": 0}, {"median": False})]
    assert np.array_equal(scores, np.maximum(*alone)) and not np.array_equal(*alone)


def test_non_local_means_are_a_third_squeezer():
    x = images() * 0.05 + 0.5  # noise on grey, which they smooth
    three = plain(Dense.model, bits=5, search=5, strength=20.0)
    alone = plain(Dense.model, bits=0, median=False, search=5, strength=20.0)
    assert (np.asarray(three.score(x)) >= np.asarray(alone.score(x))).all()
    assert len(three.scorer.squeezers) == 3 and float(alone.score(x).min()) > 0.01


def test_rows_do_not_see_each_other():
    x = jnp.asarray(images())
    for detector in (plain(Dense.model), FS().surrogate(plain(Dense.model).at_fpr(images(50)))):
        assert np.allclose(detector.score(x[3:5]), detector.score(x)[3:5], atol=1e-5)
        assert not np.allclose(detector.score(x[5:7]), detector.score(x)[3:5], atol=1e-5)


def outputs(rows, scale, seed):
    logits = np.random.default_rng(seed).normal(size=(rows, 10)) * scale
    return special.log_softmax(logits, axis=-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_log_odds_are_those_of_half_the_distance(scale):
    p, q = outputs(200, scale, 0), outputs(200, scale, 1)
    half = np.abs(np.exp(p) - np.exp(q)).sum(-1) / 2
    rest = np.minimum(np.exp(p), np.exp(q)).sum(-1)  # 1 - half would round
    ours = np.asarray(log_odds(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32)))
    assert np.allclose(ours, np.log(half) - np.log(rest), rtol=1e-4, atol=1e-4)


def test_log_odds_keep_their_digits_at_both_ends():
    # By hand: one class holds all but e^-30 of p and all but e^-40 of q, then they differ by e^-30 - e^-40.
    p, q = (jnp.asarray([[0.0, -far]]) for far in (30.0, 40.0))
    assert float(log_odds(p, q)[0]) == pytest.approx(-30 - np.exp(-10), abs=1e-4)
    # Different classes: what both share is e^-40 + e^-30.
    assert float(log_odds(p, q[:, ::-1])[0]) == pytest.approx(30 - np.exp(-10), abs=1e-4)
    assert IDENTICAL <= float(log_odds(p, p)[0]) < IDENTICAL + 1
    for other in (q, q[:, ::-1], p):
        assert np.isfinite(jax.grad(lambda p, other: log_odds(p, other).sum())(p, other)).all()


def test_the_surrogate_flags_the_same_images():
    detector = plain(Dense.model).at_fpr(images(100, seed=1), 0.5)
    surrogate = FS().surrogate(detector)
    x = images(200, seed=2)
    flags = np.asarray(detector.flags(x))
    assert np.array_equal(flags, surrogate.flags(x)) and 40 < flags.sum() < 160
    # Planted: at another threshold it would not.
    assert not np.array_equal(flags, surrogate.replace(threshold=surrogate.threshold + 0.5).flags(x))
    order = np.argsort(detector.score(x))
    assert (np.diff(np.asarray(surrogate.score(x))[order]) > -1e-3).all()
    assert surrogate.threshold == pytest.approx(odds_of(detector.threshold))
    apart = FS().surrogate(detector.replace(spread=detector.threshold - 0.01))
    assert apart.threshold - apart.spread == pytest.approx(odds_of(0.01)) and surrogate.spread == 1
    assert odds_of(2.0) > 17 and odds_of(0.0) < -17 and odds_of(1.0) == 0


def test_its_gradient_stays_where_that_of_the_distance_vanishes():
    """Planted: the plain score of a model with a thousand times its logits has none but rounding."""
    confident, x = Scaled(Dense.model, 1000.0), jnp.asarray(images())
    detector = plain(confident).replace(threshold=1.0, spread=0.5)
    surrogate = FS().surrogate(detector)
    gradients = [
        np.abs(np.asarray(jax.grad(lambda x: fitted.score(x).sum())(x))).sum((1, 2, 3))  # noqa: B023
        for fitted in (detector, surrogate)
    ]
    flagged = np.asarray(detector.flags(x))
    assert np.array_equal(flagged, surrogate.flags(x)) and flagged.sum() >= 3
    assert np.isfinite(gradients).all() and (gradients[1][flagged] > 1e3).all()
    assert (gradients[0] < 1e-2).all()  # what is left of it is rounding


def test_rounding_is_the_same_forward_and_a_staircase_back():
    x = jnp.linspace(0, 1, 1001)
    for bits in (1, 5):
        smooth, levels = SmoothlyRounded(bits), 2**bits - 1
        assert np.allclose(smooth(x), Rounded(bits)(x), atol=1e-7)
        slopes = np.asarray(jax.vmap(jax.grad(smooth))(x))
        assert slopes.min() > 0.05 and slopes.max() == pytest.approx(2.5, rel=0.01)
        assert slopes.mean() == pytest.approx(1, abs=0.05)  # all stairs together rise by 1
        steepest = np.argmin(np.abs(np.asarray(x) * levels - 0.5))  # half-way to the second level
        assert slopes[steepest] == pytest.approx(2.5, rel=0.1)


def test_the_gradient_brings_the_squeezed_images_to_the_images_class():
    x = jnp.asarray(images())
    scorer = FS(median=False).surrogate(plain(Dense.model, median=False).at_fpr(images(50))).scorer
    said = jax.nn.one_hot(jnp.argmax(Dense.model(x), -1), 10)

    def by_hand(x):  # log((1 - q_a) / q_a) of the squeezed output, a being what the model says of x
        q = jnp.sum(said * jax.nn.softmax(Dense.model(SmoothlyRounded(1)(x))), axis=-1)
        return jnp.sum(jnp.log1p(-q) - jnp.log(q))

    ours = jax.grad(lambda x: scorer(x).sum())(x)
    assert np.allclose(ours, jax.grad(by_hand)(x), rtol=1e-3, atol=1e-3)
    # Where the model is certain of x the score itself has this slope.
    certain = jnp.where(said > 0, 0.0, -200.0)
    squeezed = jax.nn.log_softmax(Dense.model(SmoothlyRounded(1)(x)))
    assert np.allclose(log_odds(certain, squeezed), logit_gap(squeezed, jnp.argmax(said, -1)), atol=1e-4)


def test_the_false_positive_rate_holds_on_other_clean_images(base):
    from deepsec_jax import data

    whole = data.load("digits")
    detector = FS(fpr=0.04).fit(base, whole, key=jax.random.key(0))
    flagged = score_all(detector.scorer, whole.test.images) > detector.threshold
    # 99 % intervals of both samples: 143 held-out training images set the threshold.
    sizes = 1 / 143 + 1 / len(flagged)
    assert abs(flagged.mean() - 0.04) < 2.58 * np.sqrt(0.04 * 0.96 * sizes)


def test_a_folder_brings_the_detector_back(base, digits, tmp_path):
    card = {"name": "fs", "preset": "paper", "base": "tests", "seed": 0}
    squeezing = few("fs").replace(images=16)
    defenses.fit_into(tmp_path / "fs", squeezing, base, digits, key=jax.random.key(0), card=card)
    fitted = squeezing.fit(base, digits, key=jax.random.key(0))
    again = squeezing.restore(load_network(tmp_path / "fs"), tmp_path / "fs")
    assert (again.threshold, again.spread) == (fitted.threshold, fitted.spread)
    assert np.array_equal(again.score(digits.test.images), fitted.score(digits.test.images))
    whole = (tmp_path / "fs" / ARRAYS).read_bytes()
    for damage in (whole[:50], whole[:100] + b"x" + whole[101:]):
        (tmp_path / "fs" / ARRAYS).write_bytes(damage)
        with pytest.raises(DefenseError, match=r"is damaged .*fit the detector again"):
            squeezing.restore(load_network(tmp_path / "fs"), tmp_path / "fs")
    (tmp_path / "fs" / ARRAYS).unlink()  # killed between network and arrays: the same command goes on
    squeezing.fit(base, digits, key=jax.random.key(0), folder=tmp_path / "fs")
    assert squeezing.restore(load_network(tmp_path / "fs"), tmp_path / "fs").threshold == fitted.threshold


@pytest.mark.parametrize("options", [{"bits": 0, "median": False}, {"bits": 17}, {"bits": -1}])
def test_squeezers_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"no squeezer|FS.bits must be an integer from 0 to 16"):
        FS(**options)


@pytest.mark.parametrize("detector", [FS(), defenses.MagNet(temperatures=(10.0,))])
def test_detectors_that_compare_confidences_refuse_votes(detector, base, digits):
    votes = RegionVotes(base.trained, 0.1, jax.random.split(jax.random.key(0), 1), 5)
    message = f"{type(detector).__name__} compares confidences, and RegionVotes gives votes"
    for model in (votes, EOT(votes, 2)):
        with pytest.raises(DefenseError, match=message if model is votes else "and EOT gives votes"):
            detector.fit(replace(base, trained=model), digits, key=jax.random.key(0))
