"""PixelCNN++: a likelihood that adds up to one, causal, and the same when walked through pixel by pixel."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

from deepsec_jax.models import pixelcnn, pixelcnn_scan
from deepsec_jax.models.logistic_mixture import (
    log_likelihood,
    log_of_bins,
    mixture,
    most_likely,
    nearest_level,
    parameters,
)
from deepsec_jax.models.pixelcnn import PixelCNN, bits_per_dim, log_likelihoods
from deepsec_jax.models.pixelcnn_scan import purify, walk

CASES = {"grey": (1, 3, (2, 2)), "colour": (3, 2, (1, 2))}  # channels, levels, size
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def network(channels, levels, *, blocks=1, dtype=jnp.float64):
    """A PixelCNN whose every weight matters: as drawn, its blocks hardly add to their inputs."""
    model = nnx.eval_shape(
        lambda: PixelCNN(channels, filters=4, blocks=blocks, mixtures=2, levels=levels, rngs=nnx.Rngs(0))
    )
    model.eval()
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda w: jnp.asarray(0.4 * rng.standard_normal(w.shape), dtype), model)


def random_images(channels, levels, rows=2, size=(4, 5), dtype=jnp.float64):
    x = np.random.default_rng(2).integers(0, levels, (rows, *size, channels))
    return jnp.asarray(x / (levels - 1), dtype)


def traced_anew(function, *args):
    """The compiled function's result, with what is patched in now; op by op would compile a hundred times."""
    return jax.jit(lambda *args: function(*args))(*args)


# --- the likelihood


def total_probability(case):
    channels, levels, size = CASES[case]
    every = np.array(list(itertools.product(range(levels), repeat=size[0] * size[1] * channels)), np.float64)
    images = jnp.asarray(every.reshape(-1, *size, channels) / (levels - 1))
    return float(np.exp(traced_anew(log_likelihoods, network(channels, levels), images)).sum())


@cases
def test_probabilities_of_all_images_add_up_to_one(case, double, monkeypatch):
    assert total_probability(case) == pytest.approx(1.0, abs=1e-12)
    if case == "grey":
        monkeypatch.setattr(pixelcnn, "right", lambda x: x)  # planted: a pixel sees itself
        assert abs(total_probability(case) - 1.0) > 1e-3


def test_bins_are_differences_of_the_logistic_distribution(double):
    levels, half = 17, 1 / 16
    x = np.linspace(-1, 1, levels)
    mean, log_scale = 0.3, -1.5
    cdf = stats.logistic(loc=mean, scale=np.exp(log_scale)).cdf
    bins = np.diff(np.concatenate([[0.0], cdf(x[:-1] + half), [1.0]]))
    means, log_scales = jnp.full(levels, mean), jnp.full(levels, log_scale)
    ours = log_of_bins(jnp.asarray(x), means, log_scales, levels)
    assert np.allclose(ours, np.log(bins), rtol=1e-9)


def test_unlikely_levels_keep_their_order_in_float32():
    x = jnp.linspace(-1, 1, 256)
    far = log_of_bins(x, jnp.full(256, -1.0), jnp.full(256, -7.0), 256)
    assert np.all(np.isfinite(far)) and np.all(np.diff(np.asarray(far)[2:-1]) < 0)
    scale = np.float32(np.exp(-7))
    plainly = special.expit((x + 1 / 255 + 1) / scale) - special.expit((x - 1 / 255 + 1) / scale)
    assert np.sum(np.asarray(plainly) == 0) > 200  # planted: a plain difference has nothing left of them


def test_a_pixels_likelihood_by_hand(double):
    channels, levels, mixtures = 3, 5, 2
    numbers = jax.random.normal(jax.random.key(0), (parameters(channels, mixtures),), jnp.float64)
    n = np.asarray(numbers)
    weights, means, log_scales, slopes = special.softmax(n[:2]), n[2:8], n[8:14], np.tanh(n[14:20])
    x = np.array([0.5, -1.0, 1.0])
    total = 0.0
    for k in range(mixtures):
        m = means[k::2].copy()
        m[1] += slopes[0 + k] * x[0]
        m[2] += slopes[2 + k] * x[0] + slopes[4 + k] * x[1]
        p = weights[k]
        for c in range(channels):
            cdf = stats.logistic(loc=m[c], scale=np.exp(log_scales[2 * c + k])).cdf
            low = 0.0 if x[c] == -1 else cdf(x[c] - 0.25)
            p *= (1.0 if x[c] == 1 else cdf(x[c] + 0.25)) - low
        total += p
    ours = log_likelihood(mixture(numbers, channels), jnp.asarray(x), levels)
    assert float(ours) == pytest.approx(math.log(total), rel=1e-12)


def test_bits_per_dim_is_in_bits_and_per_value(double):
    model, x = network(3, 4, blocks=0), random_images(3, 4)
    nats, bits = traced_anew(lambda model: (log_likelihoods(model, x), bits_per_dim(model, x)), model)
    assert np.allclose(bits, -np.asarray(nats) / np.log(2) / (4 * 5 * 3))


# --- causality


def reach(blocks):
    """Which pixels' distributions change with which pixel, bool [from 20, to 20] in raster order."""
    model, x = network(1, 4, blocks=blocks), random_images(1, 4, rows=1)
    moved = np.tile(x, (20, 1, 1, 1))
    pixels = moved.reshape(20, 20)
    pixels[np.diag_indices(20)] = 1.0 - pixels[np.diag_indices(20)]
    numbers = np.asarray(traced_anew(lambda model, x: model(x), model, jnp.concatenate([x, moved])))
    return (np.abs(numbers[1:] - numbers[:1]).max(axis=-1) > 0).reshape(20, 20)


def test_a_pixel_reaches_the_pixels_behind_it_only(double, monkeypatch):
    reached = reach(blocks=1)
    assert not np.any(np.tril(reached))
    assert reached[7, 8] and np.all(reached[7, 10:15])  # the next one, and those below
    for shift in ("down", "right"):
        with monkeypatch.context() as patched:
            patched.setattr(pixelcnn, shift, lambda x: x)
            assert np.any(np.tril(reach(blocks=0)))  # planted: a row or a column sees itself


# --- walking


@pytest.mark.parametrize(("channels", "blocks"), [pytest.param(3, 2, marks=pytest.mark.long), (1, 0)])
def test_walking_meets_the_distributions_of_the_full_pass(channels, blocks, double, monkeypatch):
    model, x = network(channels, 4, blocks=blocks), random_images(channels, 4)
    given = nearest_level(x, 4)

    def walked():
        return traced_anew(lambda model: walk(model, lambda numbers, level: level, given), model)

    full = traced_anew(lambda model: model(x), model)
    levels, numbers = walked()
    assert np.array_equal(levels, given)
    assert np.allclose(numbers, full, rtol=1e-10, atol=1e-12)
    if blocks == 0:
        monkeypatch.setattr(pixelcnn_scan, "_shifted", lambda row: row)
        assert not np.allclose(walked()[1], full, rtol=1e-3)  # planted


def purify_by_brute_force(model, x, eps):
    """A full pass for every value, and sums over all that may follow in the pixel."""
    top, channels = model.levels - 1, model.channels
    x, every = np.array(x), list(itertools.product(range(model.levels), repeat=model.channels))
    places = jnp.asarray(every, jnp.float64) * (2 / top) - 1

    @jax.jit
    def probabilities(model, x, r, c):
        numbers = jnp.repeat(model(x)[:, r, c][:, None], len(every), axis=1)
        values = jnp.broadcast_to(places, (x.shape[0], *places.shape))
        return jnp.exp(log_likelihood(mixture(numbers, channels), values, model.levels))

    for row, r, c in np.ndindex(x.shape[:3]):
        p = np.asarray(probabilities(model, jnp.asarray(x), r, c)[row])
        p = p.reshape((model.levels,) * channels)
        for channel in range(channels):
            marginal = p.sum(axis=tuple(range(1, p.ndim)))
            allowed = np.abs(np.arange(top + 1) / top - x[row, r, c, channel]) <= eps + 1e-9
            level = int(np.argmax(np.where(allowed, marginal, -1.0)))
            x[row, r, c, channel], p = level / top, p[level]
    return x


def test_purifying_is_the_greedy_search_by_full_passes(double):
    model = network(3, 4)
    x, eps = random_images(3, 4, size=(2, 3)), 0.35
    purified = jax.jit(purify)(model, x, eps)
    assert np.allclose(purified, purify_by_brute_force(model, x, eps), atol=1e-12)
    assert not np.allclose(purified, x, atol=1e-3)


def test_the_component_is_inferred_from_the_channels_before():
    # Two components of equal weight, one black and one white in both channels; forced to white in the first,
    # the second is white, too.  Planted: by the weights alone both would be as likely, and black comes first.
    means = [-1.0, 1.0, -1.0, 1.0]
    distribution = mixture(jnp.array([0.0, 0.0, *means, *[-3.0] * 4, 0.0, 0.0]), 2)
    low, high = jnp.array([4, 0]), jnp.array([4, 4])
    assert most_likely(distribution, low, high, 5).tolist() == [4, 4]
    assert most_likely(distribution, jnp.array([0, 0]), high, 5).tolist() == [0, 0]


def test_purified_values_stay_within_eps_and_on_levels():
    model, purified = network(1, 17, dtype=jnp.float32), jax.jit(purify)
    x = np.random.default_rng(3).random((4, 4, 5, 1), np.float32)
    nearest = np.abs(np.round(x * 16) / 16 - x)
    for eps in (0.0, 0.02, 0.1, 1.0):
        found = np.asarray(purified(model, jnp.asarray(x), eps))
        assert np.all(np.abs(found - x) <= np.maximum(eps + 1e-3 / 16, nearest) + 1e-6)
        assert np.allclose(found * 16, np.round(found * 16), atol=1e-5)
    assert np.abs(found - x).max() > 0.3  # eps of 1 leaves the model free


def test_sizes_of_the_authors():
    model = nnx.eval_shape(lambda: PixelCNN(3, rngs=nnx.Rngs(0)))
    model.eval()
    shapes = jax.eval_shape(
        lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    )
    assert shapes.shape == (2, 32, 32, 100)
    weights = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert 15e6 < weights < 25e6


@pytest.mark.parametrize(
    ("field", "value"), [("filters", 0), ("levels", 1), ("mixtures", 2.5), ("blocks", -1)]
)
def test_senseless_sizes_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"PixelCNN\.{field} must be an integer of at least"):
        PixelCNN(1, **{field: value}, rngs=nnx.Rngs(0))
