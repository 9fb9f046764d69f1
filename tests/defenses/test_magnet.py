"""MagNet: autoencoders learnt by the training loop, errors and divergences, quantiles, reformer, folder."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_linear
from few import base, digits, few  # noqa: F401
from flax import nnx
from scipy.spatial import distance
from scipy.special import log_softmax

from deepsec_jax import attacks, defenses, training
from deepsec_jax.data import Split
from deepsec_jax.defenses import DefenseError, reformed
from deepsec_jax.defenses.detector import fitting_and_validation
from deepsec_jax.defenses.detector_files import ARRAYS, kept_arrays
from deepsec_jax.defenses.divergence import divergence_excess
from deepsec_jax.defenses.folders import CARD as CARD_FILE
from deepsec_jax.defenses.fs import FS
from deepsec_jax.defenses.magnet import ERROR, Denoising, MagNet, Parts, mean_error, part_of
from deepsec_jax.defenses.quantiles import fit_quantiles
from deepsec_jax.models.autoencoder import Autoencoder
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.training import CheckpointError, load_network

CARD = {"name": "magnet", "preset": "paper", "base": "tests", "seed": 0}
BOTH = few("magnet").replace(
    temperatures=(10.0,), changes=(("epochs", 2), ("batch_size", 32), ("learning_rate", 0.02))
)


def autoencoder(kind, channels=1, seed=0):
    made = Autoencoder(channels, kind=kind, rngs=nnx.Rngs(seed))
    made.eval()
    return made


@pytest.fixture(scope="module")
def folder(base, digits, tmp_path_factory):
    """A detector in its folder, its autoencoders trained for two epochs."""
    path = tmp_path_factory.mktemp("magnet") / "magnet"
    with jax.numpy_dtype_promotion("standard"):
        defenses.fit_into(path, BOTH, base, digits, key=jax.random.key(0), card=CARD)
    return path


@pytest.fixture(scope="module")
def detector(folder):
    return BOTH.restore(load_network(folder), folder)


def test_the_autoencoders_are_the_authors():
    def sizes(kind, channels):
        return [conv.kernel.shape for conv in autoencoder(kind, channels).convs]

    assert sizes("pooled", 1) == [(3, 3, 1, 3), *[(3, 3, 3, 3)] * 3, (3, 3, 3, 1)]
    assert sizes("flat", 1) == [(3, 3, 1, 3), (3, 3, 3, 3), (3, 3, 3, 1)]
    assert sizes("flat", 3) == [(3, 3, 3, 3)] * 3
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 1)), jnp.float32)
    for kind, reach in (("pooled", 7), ("flat", 3)):
        made = autoencoder(kind)
        out = made(x)
        assert out.shape == x.shape and 0 < float(out.min()) and float(out.max()) < 1
        seen = np.abs(np.asarray(jax.grad(lambda x: made(x)[0, 0, 0, 0])(x)))[..., 0]  # noqa: B023
        assert (seen[0, reach + 1 :] == 0).all() and (seen[1] == 0).all() and seen[0, reach - 1].any()
    with pytest.raises(ValueError, match="even sides, got 7 x 8"):
        autoencoder("pooled")(x[:, :7])
    with pytest.raises(ValueError, match="must be one of pooled, flat"):
        autoencoder("deep")


def test_between_the_halves_of_a_pooled_one_pixels_come_in_fours():
    made = autoencoder("pooled")
    made.convs[4].kernel[...] = jnp.zeros((3, 3, 3, 1)).at[1, 1].set(1.0)  # the last two see one pixel only
    made.convs[3].kernel[...] = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    out = np.asarray(made(jnp.asarray(np.random.default_rng(0).uniform(size=(1, 8, 8, 1)), jnp.float32)))
    fours = out.reshape(4, 2, 4, 2)
    assert (np.ptp(fours, axis=(1, 3)) < 1e-6).all() and np.ptp(out) > 1e-4


def test_the_loss_falls_and_is_that_of_noisy_images(folder, digits):
    for number, kind in enumerate(BOTH.autoencoders):
        saved = load_network(folder / part_of(number), build=lambda r, c: BOTH.build(kind, r, c))  # noqa: B023
        losses = [epoch["loss"] for epoch in saved.figures["history"]]
        assert losses[1] < 0.95 * losses[0]
        assert saved.figures[ERROR] == pytest.approx(mean_error(saved.model, digits.test))
        x = digits.test.images.astype(np.float64)
        by_numpy = np.mean((np.asarray(saved.model(jnp.asarray(x, jnp.float32))) - x) ** 2)
        assert mean_error(saved.model, digits.test) == pytest.approx(by_numpy, rel=1e-4)
    still = [
        Denoising(noise)(saved.model, jnp.asarray(x, jnp.float32), None, jax.random.key(0))
        for noise in (0.0, 0.3)
    ]
    assert float(still[0]) == pytest.approx(by_numpy, rel=1e-4) and abs(still[1] - still[0]) > 1e-5


def test_held_out_images_are_not_learned_from(folder, base, digits):
    """The digest of what the autoencoders saw is that of the data without the held-out images."""
    fitting, held_out = fitting_and_validation(base, digits)
    saved = load_network(folder / part_of(1), build=lambda r, c: BOTH.build("flat", r, c))
    learned = saved.figures["trained_on"]["data"]
    assert learned == replace(digits, train=fitting).digest() != digits.digest()
    rows = {image.tobytes() for image in fitting.images}
    assert not any(image.tobytes() in rows for image in held_out.images)


def test_errors_and_divergences_are_numpys_and_scipys():
    model, x = make_linear((8, 8, 1), 10), np.random.default_rng(0).uniform(size=(6, 8, 8, 1))
    x = x.astype(np.float32)
    made = autoencoder("pooled"), autoencoder("flat", seed=1)
    parts = np.asarray(Parts(model, made, (2, 1), (10.0, 40.0))(jnp.asarray(x)))
    first, second = (np.asarray(each(jnp.asarray(x))) for each in made)
    assert np.allclose(parts[:, 0], np.mean((x - first) ** 2, axis=(1, 2, 3)), rtol=1e-4)
    assert np.allclose(parts[:, 1], np.mean(np.abs(x - second), axis=(1, 2, 3)), rtol=1e-4)
    for number, temperature in ((2, 10.0), (3, 40.0)):
        p, q = (np.exp(log_softmax(np.asarray(model(jnp.asarray(i))) / temperature, -1)) for i in (x, first))
        divergence = distance.jensenshannon(p, q, axis=-1) ** 2  # scipy's is the root, in nats
        assert np.allclose(parts[:, number], -np.log1p(-divergence / np.log(2)), atol=1e-6)


@pytest.mark.parametrize("scale", [0.03, 1.0, 5.0, 20.0])
def test_the_divergence_is_scipys_and_does_not_saturate(scale):
    p, q = (log_softmax(scale * np.random.default_rng(seed).normal(size=(100, 10)), -1) for seed in (0, 1))
    ours = np.asarray(divergence_excess(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32)))
    divergence = distance.jensenshannon(np.exp(p), np.exp(q), axis=-1) ** 2
    assert np.allclose(np.log(2) * -np.expm1(-ours), divergence, atol=2e-6)


def test_the_divergence_where_a_class_is_masked():
    """A class without probability has no term, as in scipy; NaN stays NaN."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 50, 10))
    logits[:, :, 3] = -np.inf  # in both
    logits[0, :25, 5] = logits[1, 25:, 6] = -np.inf  # in one
    p, q = log_softmax(logits, axis=-1)
    ours = np.asarray(divergence_excess(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32)))
    divergence = distance.jensenshannon(np.exp(p), np.exp(q), axis=-1) ** 2
    assert np.allclose(np.log(2) * -np.expm1(-ours), divergence, atol=2e-6)
    slope = jax.grad(lambda p: divergence_excess(p, jnp.asarray(q, jnp.float32)).sum())(
        jnp.asarray(p, jnp.float32)
    )
    assert np.isfinite(slope).all()
    assert np.isnan(divergence_excess(jnp.asarray([[np.nan, 0.0]]), jnp.asarray([[0.0, 0.0]]))).all()


def test_where_the_divergence_is_at_its_end_its_form_is_not():
    # By hand: p is on one class and q on the other, each but for e^-a: 1 - JS / ln 2 is about
    # e^-a (1 + a + ln 1) / (2 ln 2) x 2, and the root of scipy's own has lost all of it in float32.
    a = 60.0
    p = jnp.asarray([[0.0, -a]])
    excess = float(divergence_excess(p, p[:, ::-1])[0])
    assert excess == pytest.approx(a - np.log((1 + a) / np.log(2)), rel=1e-4)
    slope = jax.grad(lambda p: divergence_excess(p, p[:, ::-1]).sum())(p)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0.5
    assert float(divergence_excess(p, p)[0]) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(jax.grad(lambda p: divergence_excess(p, p).sum())(p)).all()


def test_quantiles_rise_strictly_and_go_on_at_both_ends():
    clean = np.random.default_rng(0).gamma(2.0, size=400).round(2).astype(np.float32)  # with ties
    quantile = fit_quantiles(clean)
    at = np.sort(np.concatenate([np.unique(clean), np.linspace(-3, 30, 500)]))
    levels = np.asarray(quantile(jnp.asarray(at, jnp.float32)), np.float64)
    apart = np.diff(at) > 1e-4
    assert (np.diff(levels)[apart] > 0).all()
    inside = (at > clean.min()) & (at < clean.max())
    shares = np.array([np.mean(clean < value) + np.mean(clean == value) / 2 for value in at])
    assert np.abs(levels - shares)[inside].max() < 0.01
    assert levels[-1] > 2 and levels[0] < -1  # far beyond the ends it still moves
    slopes = np.asarray(jax.vmap(jax.grad(lambda s: quantile(s[None])[0]))(jnp.asarray(at, jnp.float32)))
    assert (slopes > 0).all() and np.isfinite(slopes).all()
    # Planted: NumPy's own is flat there.
    assert np.ptp(np.interp([20.0, 30.0], quantile.scores, quantile.levels)) == 0
    for useless in (np.ones(5), np.array([1.0, np.nan]), np.zeros(0)):
        with pytest.raises(DefenseError, match="distinct scores"):
            fit_quantiles(useless)


def test_the_score_is_the_largest_quantile(detector, digits):
    x = digits.test.images
    values = np.asarray(detector.scorer.parts(jnp.asarray(x)))
    levels = [np.asarray(q(jnp.asarray(values[:, i]))) for i, q in enumerate(detector.scorer.quantiles)]
    assert np.allclose(detector.score(x), np.max(levels, axis=0), atol=1e-5) and len(levels) == 3
    assert len({tuple(np.argmax(levels, axis=0) == part) for part in range(3)}) > 1
    assert np.allclose(detector.score(x[3:5]), detector.score(x)[3:5], atol=1e-5)


def test_noise_is_flagged_and_its_gradient_leads_out(detector, digits):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(20, 8, 8, 1)) > 0.5, jnp.float32)
    scores = detector.score(x)
    assert (np.asarray(scores) > 1).mean() > 0.9 and np.asarray(detector.flags(x)).mean() > 0.9
    gradient = np.asarray(jax.grad(lambda x: detector.score(x).sum())(x))
    assert np.isfinite(gradient).all() and (np.abs(gradient).sum((1, 2, 3)) > 0).all()
    assert (np.asarray(detector.score(x - 0.02 * np.sign(gradient))) < np.asarray(scores)).all()


def test_the_surrogate_flags_the_same_images(detector, digits):
    half = detector.at_fpr(digits.test.images, 0.5)  # a threshold that parts them
    surrogate = BOTH.surrogate(half)
    x = jnp.asarray(np.concatenate([digits.test.images, np.clip(digits.test.images + 0.1, 0, 1)]))
    flags = np.asarray(half.flags(x))
    assert np.array_equal(flags, surrogate.flags(x)) and 15 < flags.sum() < 75
    # Planted: at another threshold of one part it would not.
    moved = surrogate.scorer.replace(thresholds=surrogate.scorer.thresholds * 0.9)
    assert not np.array_equal(flags, surrogate.replace(scorer=moved).flags(x))
    for quantile in half.scorer.quantiles:
        for level in (-0.5, 0.2, 0.96, 1.5):
            at = jnp.asarray([quantile.score_at(level)], jnp.float32)
            assert float(quantile(at)[0]) == pytest.approx(level, abs=1e-3)
    # What a joint attack climbs is as steep far above the threshold as just above it.
    far = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 8, 8, 1)) > 0.5, jnp.float32)
    slopes = [np.abs(np.asarray(jax.grad(lambda x: surrogate.score(x).sum())(at))).max() for at in (x, far)]
    assert np.isfinite(slopes).all() and min(slopes) > 0.1


def test_the_reformer_is_a_classifier_and_the_whole_is_guarded(detector, digits):
    x, labels = jnp.asarray(digits.test.images[:8]), jnp.asarray(digits.test.labels[:8])
    network, first = detector.scorer.parts.model, detector.scorer.parts.autoencoders[0]
    reform = reformed(detector)
    assert np.allclose(reform(x), network(first(x)), atol=1e-4) and not np.allclose(reform(x), network(x))
    whole = Guarded(reform, detector)
    assert np.array_equal(np.argmax(whole(x), -1) == 10, detector.flags(x))
    x_adv = attacks.FGSM(eps=0.1)(reform, x, labels)
    assert 0 < float(jnp.abs(x_adv - x).max()) <= 0.1 + 1e-6
    with pytest.raises(DefenseError, match="only MagNet has a reformer"):
        reformed(defenses.FittedDetector(FS()._score(network)))


def test_a_folder_may_hold_the_whole_with_its_reformer(folder, detector, base, digits, tmp_path):
    """The very detector; what it lets pass is classified behind the reformer, and attacked through it."""
    alone = defenses.load_defended(folder)
    shutil.copytree(folder, tmp_path / folder.name)  # it is complete
    card = tmp_path / folder.name / CARD_FILE
    said = json.loads(card.read_text())
    card.write_text(json.dumps(said | {"settings": said["settings"] | {"reforms": True}}))
    whole = defenses.load_defended(tmp_path / folder.name)
    x = jnp.asarray(digits.test.images[:40])
    for found, guard in ((whole, whole.classifier), (whole, whole.surrogate)):
        np.testing.assert_array_equal(guard.model(x), reformed(detector)(x))
        assert found.detector.threshold == alone.detector.threshold
    np.testing.assert_array_equal(alone.classifier.model(x), detector.scorer.parts.model(x))
    np.testing.assert_array_equal(whole.detector.score(x), alone.detector.score(x))
    assert (whole.classifier(x).argmax(-1) == 10).tolist() == alone.detector.flags(x).tolist()
    for number in range(2):  # as if the fit had been killed before its own folder: nothing is trained again
        part = tmp_path / folder.name / part_of(number)
        part.rename(tmp_path / f"{folder.name}-{part.name}")
    shutil.rmtree(tmp_path / folder.name)
    with jax.numpy_dtype_promotion("standard"):
        BOTH.replace(reforms=True).fit(base, digits, key=jax.random.key(0), folder=tmp_path / folder.name)
    figures = load_network(tmp_path / folder.name).figures
    assert figures["test_accuracy"] == training.accuracy(reformed(detector), digits.test)
    assert figures["threshold"] == detector.threshold
    assert defenses.preset("magnet@reformed", "mnist", "small").reforms
    plain = defenses.preset("magnet", "mnist", "small")
    assert defenses.preset("magnet@reformed", "mnist", "small").replace(reforms=False) == plain


def test_a_folder_brings_the_detector_back(folder, detector, base, digits, tmp_path):
    with jax.numpy_dtype_promotion("standard"):  # all is there: nothing is trained
        again = BOTH.fit(base, digits, key=jax.random.key(0), folder=folder)
    assert (again.threshold, again.spread) == (detector.threshold, detector.spread)
    assert np.array_equal(again.score(digits.test.images), detector.score(digits.test.images))
    kept = kept_arrays(folder, "clean_parts", "threshold")
    assert kept["clean_parts"].shape == (8, 3) and kept["threshold"] == detector.threshold
    with pytest.raises(DefenseError, match=r"not of 2 parts: fit the detector again"):
        BOTH.replace(temperatures=()).restore(load_network(folder), folder)
    whole = (folder / ARRAYS).read_bytes()
    (folder / ARRAYS).write_bytes(whole[:-40])
    with pytest.raises(DefenseError, match=r"is damaged .*fit the detector again"):
        BOTH.restore(load_network(folder), folder)
    (folder / ARRAYS).write_bytes(whole)
    hidden = (folder / part_of(1)).rename(tmp_path / "hidden")
    with pytest.raises(CheckpointError, match="no model in"):
        BOTH.restore(load_network(folder), folder)
    hidden.rename(folder / part_of(1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"powers": (2,)}, "one power for every autoencoder"),
        ({"autoencoders": ("flat", "deep")}, "must be one of pooled, flat"),
        ({"temperatures": (0.0,)}, "must be finite and above 0"),
    ],
)
def test_settings_that_make_no_sense(options, said):
    with pytest.raises(ValueError, match=said):
        MagNet(**options)


def test_odd_sides_are_refused_before_work_is_spent(base, digits):
    odd = replace(
        digits,
        train=Split(digits.train.images[:, :7], digits.train.labels),
        test=Split(digits.test.images[:, :7], digits.test.labels),
    )
    with pytest.raises(DefenseError, match="needs even sides, and digits has images of 7 x 8"):
        BOTH.fit(base, odd, key=jax.random.key(0))
    assert training.accuracy(base.trained, digits.test) < 0.5  # the base is untrained; nothing hangs on it
