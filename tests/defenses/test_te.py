"""TE: the encoding and back, what the surrogate differentiates, and LS-PGA against the best code there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images
from few import asked_of_training, base, digits  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from deepsec_jax import attacks, training
from deepsec_jax.attacks import losses
from deepsec_jax.defenses import TE
from deepsec_jax.defenses.te import LSPGA, Encoded, OnCodes, within_reach
from deepsec_jax.defenses.thermometer import SmoothThermometer, Thermometer, decode, encode, smooth_encode

LEVELS = 4
pixels = npst.arrays(np.float32, (2, 2, 2, 3), elements=st.floats(0, 1, width=32))


def on_codes(channels=1, classes=3, seed=0, levels=LEVELS, scale=1.0):
    """A linear network of the codes of 4x4 images."""
    rng = np.random.default_rng(seed)
    weights = scale * rng.standard_normal((4 * 4 * channels * levels, classes))
    return Linear(jnp.asarray(weights, jnp.float32), jnp.zeros(classes))


# --- the encoding


@settings(max_examples=30)
@given(pixels, st.sampled_from([2, 3, 16]))
def test_encoding_and_back(x, levels):
    code = np.asarray(encode(jnp.asarray(x), levels))
    bits = code.reshape(2, 2, 2, 3, levels)
    assert np.all(bits[..., 0] == 1) and np.all(np.diff(bits, axis=-1) <= 0)  # a thermometer
    middle = np.asarray(decode(jnp.asarray(code), levels))
    assert np.abs(middle - x).max() <= 0.5 / levels + 1e-6
    assert np.array_equal(encode(jnp.asarray(middle), levels), code)
    flipped = np.asarray(decode(jnp.asarray(bits[..., ::-1].reshape(code.shape)), levels))
    assert np.array_equal(flipped, middle)  # only counts matter to decode, so the order has its own check:
    if np.any(bits[..., -1] == 0):
        assert not np.array_equal(bits, bits[..., ::-1])


def test_the_code_by_hand():
    x = jnp.array([0.0, 0.24, 0.25, 0.5, 0.99, 1.0]).reshape(1, 1, 6, 1)
    rows = np.asarray(encode(x, 4))[0, 0].astype(int).tolist()
    assert rows == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_channels_keep_their_bits_together():
    x = jnp.array([0.0, 0.6, 1.0]).reshape(1, 1, 1, 3)
    assert np.asarray(encode(x, 2)).astype(int).ravel().tolist() == [1, 0, 1, 1, 1, 1]


# --- the surrogate


def gradient(model, x):
    return np.asarray(jax.grad(lambda x: model(x)[:, 0].sum())(x))


def test_the_surrogate_has_a_gradient_where_the_encoding_has_none():
    x = make_images().at[0].set(0.0).at[1].set(1.0)
    network = on_codes()
    exact, smooth = Thermometer(network, LEVELS), SmoothThermometer(network, LEVELS)
    assert np.array_equal(exact(x), smooth(x))
    assert not np.any(gradient(exact, x))
    assert np.all(gradient(smooth, x) != 0)

    # By hand: half a level's slope on the bit that is next above, and on the last one that is set.
    weights = np.asarray(network.weights)[:, 0].reshape(16, LEVELS)
    level = np.minimum(np.floor(np.asarray(x).reshape(-1, 16) * LEVELS), LEVELS - 1).astype(int)
    slopes = np.pad(weights[:, 1:], ((0, 0), (1, 1)))  # no slope on bit 0, nor beyond the last
    rows = np.arange(16)[None]
    by_hand = LEVELS / 2 * (slopes[rows, level] + slopes[rows, level + 1])
    assert np.allclose(gradient(smooth, x).reshape(-1, 16), by_hand, rtol=1e-5)

    def ramp(x, levels):  # planted: Athalye et al.'s formula as it stands leaves black pixels without any
        every = jnp.arange(levels, dtype=x.dtype).reshape(1, 1, 1, 1, levels)
        return jnp.clip(x[..., None] * levels - every, min=0.0, max=1.0)

    one_sided = jax.grad(lambda x: ramp(x, LEVELS)[..., 1:].sum())(x)
    both = jax.grad(lambda x: smooth_encode(x, LEVELS).sum())(x)
    assert not np.any(one_sided[0]) and np.all(both[0] != 0)


def test_an_adaptive_attack_moves_what_a_plain_one_leaves():
    x, network = make_images(rows=16), on_codes(scale=0.3)
    te = TE(levels=LEVELS)
    classifier = te.restore(training.Saved(network, None, {}), None)
    labels = jnp.argmax(classifier(x), axis=-1)
    pgd = attacks.PGD(eps=0.3, step_size=0.1, steps=10)
    fooled = {}
    for name, attack in (("plain", pgd), ("adaptive", attacks.Transfer(pgd, te.surrogate(classifier)))):
        x_adv = attack(classifier, x, labels, key=jax.random.key(0))
        assert float(jnp.abs(x_adv - x).max()) <= 0.3 + 1e-6
        fooled[name] = float((classifier(x_adv).argmax(-1) != labels).mean())
    assert fooled["adaptive"] > 0.9 > fooled["plain"]


# --- LS-PGA


@settings(max_examples=20)
@given(npst.arrays(np.float32, (1, 2, 2, 1), elements=st.floats(0, 1, width=32)), st.floats(0.01, 0.5))
def test_levels_within_reach_by_brute_force(x, eps):
    eps = np.float32(eps)
    reach = np.asarray(within_reach(jnp.asarray(x), eps, 16))
    low, high = np.maximum(x - eps, 0), np.minimum(x + eps, 1)
    points = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, 400, dtype=np.float32)
    levels = np.minimum(np.floor(points * 16), 15).astype(int)
    found = np.zeros_like(reach)
    for place in np.ndindex(*x.shape):
        found[place][levels[place]] = True
    differ = found != reach
    at_the_edge = np.abs((np.stack([low, high]) * 16) % 1 - 0.5).max(axis=0) > 0.5 - 1e-4
    assert not np.any(differ & ~at_the_edge[..., None])


def best_gap(network, x, label, eps):
    """The largest logit gap of two classes over all codes within reach, value by value: a linear network."""
    reach = np.asarray(within_reach(x, eps, LEVELS)).reshape(-1, LEVELS)
    weights = np.asarray(network.weights)
    harm = (weights[:, 1 - label] - weights[:, label]).reshape(-1, LEVELS).cumsum(axis=-1)
    return np.where(reach, harm, -np.inf).max(axis=-1).sum()


def test_ls_pga_nears_the_most_harmful_code_and_xi_of_deepsec_does_not():
    network, x, eps = on_codes(classes=2, scale=0.5), make_images(rows=8), 0.3
    labels = jnp.argmax(network(encode(x, LEVELS)), axis=-1)
    best = np.array([best_gap(network, x[i : i + 1], int(labels[i]), eps) for i in range(8)])
    run = jax.jit(
        lambda attack: losses.logit_gap(network(attack(network, x, labels, jax.random.key(0))), labels)
    )
    clean = np.asarray(losses.logit_gap(network(encode(x, LEVELS)), labels))

    def share(attack):
        return float(((np.asarray(run(attack)) - clean) / (best - clean)).mean())

    along, by_sign = (
        LSPGA(eps=eps, levels=LEVELS, steps=40),
        LSPGA(eps=eps, levels=LEVELS, steps=40, sign=True),
    )
    assert share(along) > 0.85 and share(by_sign) > 0.95
    assert share(by_sign.replace(step_size=0.01)) < 0.6  # DEEPSEC's
    assert share(along.replace(step_size=0.0)) < 0.5  # planted: no attack, random codes


def test_ls_pgas_codes_are_thermometers_within_reach_row_by_row():
    network, x, labels = on_codes(channels=2), make_images(rows=6, shape=(4, 4, 2)), jnp.arange(6) % 3
    attack, keys = LSPGA(eps=0.2, levels=LEVELS, steps=3), jax.random.split(jax.random.key(1), 6)
    run = jax.jit(lambda x, labels, keys: attack(network, x, labels, keys))
    codes = np.asarray(run(x, labels, keys))
    bits = codes.reshape(6, 4, 4, 2, LEVELS)
    level = bits.sum(axis=-1).astype(int) - 1
    assert set(np.unique(codes)) <= {0.0, 1.0} and np.all(np.diff(bits, axis=-1) <= 0)
    reach = np.asarray(within_reach(x, 0.2, LEVELS))
    assert np.all(np.take_along_axis(reach, level[..., None], axis=-1))
    assert not np.array_equal(codes, encode(x, LEVELS))
    order = np.array([3, 1, 5, 0, 2, 4])
    assert np.array_equal(run(x[order], labels[order], keys[order]), codes[order])
    assert not np.array_equal(run(x, labels, keys[order]), codes)


# --- training


class WithRngs(Linear):
    """A linear network that takes what networks in training are given."""

    def __call__(self, x, *, rngs=None):
        return Linear.__call__(self, x)


def test_the_loss_is_the_weighted_mean_of_clean_and_attacked_codes():
    linear = on_codes()
    network = WithRngs(linear.weights, linear.bias)
    x, labels, key = make_images(rows=5), jnp.arange(5) % 3, jax.random.key(3)
    attack = LSPGA(eps=0.2, levels=LEVELS, steps=2)
    clean = float(Encoded(LEVELS)(network, x, labels, key))

    def cross_entropy(codes):
        return float(losses.cross_entropy(linear(codes), labels).mean())

    assert clean == pytest.approx(cross_entropy(encode(x, LEVELS)), rel=1e-5)
    codes = jax.jit(lambda key: attack(linear, x, labels, key))(jax.random.split(key)[0])
    attacked = cross_entropy(codes)
    assert attacked > clean
    whole = jax.jit(lambda natural: OnCodes(attack, natural)(network, x, labels, key))
    for natural in (0.0, 1.0, 3.0):
        loss = float(whole(natural))
        assert loss == pytest.approx((natural * clean + attacked) / (natural + 1), rel=1e-5)


def test_fitted_into_a_folder_and_back(base, digits, tmp_path):
    te = TE(levels=LEVELS, adversarial=False)
    with jax.numpy_dtype_promotion("standard"):
        classifier = te.fit(base, digits, key=jax.random.key(0), folder=tmp_path / "te")
    saved = training.load_network(tmp_path / "te")
    again = te.restore(saved, tmp_path / "te")
    x = jnp.asarray(digits.test.images)
    assert np.array_equal(again(x), classifier(x))
    # What the folder calls its accuracy is of images, and of the encoded ones.
    assert saved.figures["test_accuracy"] == training.accuracy(classifier, digits.test)
    assert saved.model.conv1.kernel.shape[2] == LEVELS


def test_the_epoch_is_chosen_on_images(base, digits, monkeypatch):
    (asked,) = asked_of_training(TE(levels=LEVELS, adversarial=False), base, digits, monkeypatch)
    weights = np.random.default_rng(3).standard_normal((8 * 8 * LEVELS, 10))
    network = Linear(jnp.asarray(weights, jnp.float32), jnp.zeros(10))
    codes = encode(jnp.asarray(digits.test.images), LEVELS)
    right = np.asarray(network(codes)).argmax(1) == digits.test.labels
    assert 0 < right.mean() < 1
    assert asked["score"](network, digits.test) == pytest.approx(right.mean())
    assert asked["tested"]["test_accuracy"](network, digits.test) == pytest.approx(right.mean())


def test_one_compile_for_all_weights_and_vmap(compiles):
    x, labels = make_images(), jnp.zeros(8, jnp.int32)
    pgd = attacks.PGD(eps=0.2, step_size=0.1, steps=2)
    with compiles() as count:
        for seed in range(2):
            pgd(SmoothThermometer(on_codes(seed=seed), LEVELS), x, labels, key=jax.random.key(0))
        assert count("PGD") == 1
    model = SmoothThermometer(on_codes(), LEVELS)
    one_by_one = jax.vmap(lambda row: model(row[None])[0])(x)
    assert np.allclose(one_by_one, model(x), atol=1e-5)


@pytest.mark.parametrize(("field", "value"), [("levels", 1), ("steps", 0)])
def test_senseless_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"TE\.{field} must be an integer of at least"):
        TE(**{field: value})
