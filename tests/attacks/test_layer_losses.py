"""Losses that see activations: against NumPy and jax.grad by hand, on linear and convolutional networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_linear
from flax import nnx

from deepsec_jax import attacks
from deepsec_jax.attacks import APGD, DDN, FGSM, PGD, FeatureDistance, Square, run_in_batches
from deepsec_jax.attacks.cost import cost
from deepsec_jax.attacks.settings import hyperparameters
from deepsec_jax.models import SmallCNN
from deepsec_jax.pytree import Struct

SHAPE = (4, 4, 1)
ROWS = 6


class TwoLayers(Struct):
    """A linear network that shows its hidden layer."""

    first: jax.Array  # [16, 5]
    second: jax.Array  # [5, 3]

    def __call__(self, x):
        return self.activations(x)[-1]

    def activations(self, x):
        hidden = jax.lax.collapse(x, 1).astype(jnp.float32) @ self.first
        return hidden, hidden @ self.second


class Guided(Struct):
    """A network that also shows the hidden layer of one guide per class."""

    network: TwoLayers
    guides: jax.Array  # [3, 4, 4, 1]

    def __call__(self, x):
        return self.network(x)

    def activations(self, x):
        hidden, logits = self.network.activations(x)
        guides = self.network.activations(self.guides)[0]
        distances = jnp.sum((hidden[:, None] - guides[None]) ** 2, axis=-1)  # [B, 3]
        return hidden, distances, logits


def to_the_guide(logits, labels, activations, clean):
    """Grows with the distance from the label's guide: a targeted attack goes there."""
    del logits, clean
    return jnp.take_along_axis(activations[1], labels[:, None], axis=1)[:, 0]


to_the_guide.sees_activations = True


def nudged(keys, x, eps, norm):
    """A start that is known: up by a tenth of eps everywhere."""
    del keys, norm
    return jnp.clip(x + 0.1 * eps, min=0.0, max=1.0)


@pytest.fixture(scope="module")
def two_layers():
    rng = np.random.default_rng(0)
    return TwoLayers(*(jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((16, 5), (5, 3))))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0.3, 0.7, size=(ROWS, *SHAPE)).astype(np.float32)


def test_linf_ascent_by_numpy(two_layers, images):
    labels = np.asarray(two_layers(jnp.asarray(images))).argmax(1)
    eps, step, steps = 0.1, 0.03, 5
    attack = PGD(eps=eps, step_size=step, steps=steps, loss=FeatureDistance(layer=0), start=nudged)
    x_adv = np.asarray(attack(two_layers, images, labels, key=jax.random.key(0)))

    first, second = np.float64(two_layers.first), np.float64(two_layers.second)
    for row in range(ROWS):
        clean = images[row].ravel().astype(np.float64)
        delta, seen = np.full(16, 0.1 * eps), []
        for _ in range(steps + 1):
            hidden = delta @ first
            fooled = ((clean + delta) @ first @ second).argmax() != labels[row]
            seen.append((fooled, hidden @ hidden, delta))
            delta = np.clip(delta + step * np.sign(2 * first @ hidden), -eps, eps)
        expected = max(seen, key=lambda each: each[:2])[2]
        np.testing.assert_allclose(x_adv[row].ravel() - clean, expected, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_one_step_on_the_digits_network_by_autodiff(layer):
    model = SmallCNN((8, 8, 1), 10, rngs=nnx.Rngs(0))
    model.eval()
    x = jax.random.uniform(jax.random.key(1), (ROWS, 8, 8, 1), minval=0.3, maxval=0.7)
    labels = jnp.argmax(model(x), axis=-1)
    attack = PGD(eps=0.2, step_size=0.05, steps=1, norm=2, loss=FeatureDistance(layer=layer), start=nudged)
    x_adv = attack(model, x, labels, key=jax.random.key(0))

    start = x + 0.02
    outputs = model.layers(x)  # not flattened: the sum of squares is the same

    def distance(point):
        return jnp.sum((model.layers(point)[layer] - outputs[layer]) ** 2)

    gradient = jax.grad(distance)(start)
    lengths = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
    moved = start + 0.05 * gradient / lengths - x
    length = jnp.sqrt(jnp.sum(moved**2, axis=(1, 2, 3), keepdims=True))
    expected = x + moved * jnp.minimum(1.0, 0.2 / length)
    np.testing.assert_allclose(x_adv, expected, atol=2e-6)


@pytest.mark.parametrize(
    "attack", [PGD(eps=0.1, loss=FeatureDistance()), APGD(eps=0.1, loss=FeatureDistance())]
)
def test_rows_are_independent_and_the_layer_moves(two_layers, images, attack):
    labels = np.asarray(two_layers(jnp.asarray(images))).argmax(1)
    whole = attack.replace(start=attacks.parts.in_ball)
    options = {"key": jax.random.key(3)}
    together = run_in_batches(whole, two_layers, images, labels, batch_size=ROWS, **options)
    apart = run_in_batches(whole, two_layers, images, labels, batch_size=4, **options)
    np.testing.assert_allclose(together, apart, atol=1e-6)
    assert np.abs(together - images).max() <= 0.1 + 1e-6

    def moved(x):
        hidden, clean = (two_layers.activations(jnp.asarray(each))[0] for each in (x, images))
        return np.linalg.norm(np.asarray(hidden - clean), axis=1)

    by_logits = run_in_batches(whole.replace(loss="logit_gap"), two_layers, images, labels, **options)
    assert (moved(together) >= moved(by_logits) - 1e-5).mean() > 0.5
    assert moved(together).mean() > moved(by_logits).mean()


def test_a_targeted_attack_goes_to_what_the_model_holds(two_layers, images):
    guides = np.random.default_rng(2).uniform(size=(3, *SHAPE)).astype(np.float32)
    model = Guided(two_layers, jnp.asarray(guides))
    targets = np.arange(ROWS) % 3
    pgd = PGD(eps=1.0, step_size=0.02, steps=200, norm="l2", targeted=True, loss=to_the_guide)
    x_adv = pgd(model, images, targets, key=jax.random.key(0))
    rows = np.arange(ROWS)
    before, after = (model.activations(jnp.asarray(x))[1][rows, targets] for x in (images, x_adv))
    assert np.all(after < 0.2 * before)
    # other guides are other arrays of the same program: the attack follows them
    other = model.replace(guides=model.guides[::-1])
    elsewhere = pgd(other, images, targets, key=jax.random.key(0))
    assert np.abs(np.asarray(elsewhere) - np.asarray(x_adv)).max() > 0.01


def test_the_network_is_not_run_twice():
    model = SmallCNN((8, 8, 1), 10, rngs=nnx.Rngs(0))
    model.eval()
    x, labels = jnp.full((ROWS, 8, 8, 1), 0.5), jnp.zeros(ROWS, jnp.int32)

    def flops(loss):
        attack = FGSM(loss=loss)
        compiled = jax.jit(lambda x: attack(model, x, labels)).lower(x).compile()
        return compiled.cost_analysis()["flops"]

    # a gradient is a forward and about two more; the clean image's activations are one forward
    assert flops(FeatureDistance()) < 1.5 * flops("logit_gap")


def test_from_the_clean_image_there_is_no_gradient(two_layers, images):
    labels = np.zeros(ROWS, int)
    np.testing.assert_array_equal(FGSM(loss=FeatureDistance())(two_layers, images, labels), images)


def test_it_is_a_field_like_any_loss():
    attack = PGD(loss=FeatureDistance(layer=0))
    assert repr(attack) == "PGD(loss=FeatureDistance(layer=0))" and attacks.parse(repr(attack)) == attack
    assert hash(FeatureDistance()) == hash(FeatureDistance()) and FeatureDistance() != FeatureDistance(
        layer=0
    )
    assert hyperparameters(attack)["loss"] == "FeatureDistance(layer=0)"
    assert attack.cost(10, 64).forwards == PGD().cost(10, 64).forwards + 1  # the clean image's activations
    assert attacks.preset("pgd", "mnist", loss=FeatureDistance()).loss == FeatureDistance()


@pytest.mark.parametrize(
    "name", ["fgsm", "rfgsm", "bim", "pgd", "umifgsm", "llc", "rllc", "illc", "tmifgsm", "apgd"]
)
def test_the_clean_images_activations_are_counted(name):
    plain, seeing = (attacks.ATTACKS[name](loss=loss) for loss in ("dlr", FeatureDistance()))
    before, after = (cost(attack, classes=10, entries=64) for attack in (plain, seeing))
    assert after == before.with_forwards(1)


def test_what_does_not_go_together_is_said(two_layers, images):
    labels = np.zeros(ROWS, int)
    with pytest.raises(TypeError, match=r"Linear has none: give the model a method activations\(x\)"):
        PGD(loss=FeatureDistance())(make_linear(SHAPE), images, labels, key=jax.random.key(0))
    for attack, loss in ((DDN, FeatureDistance()), (Square, to_the_guide)):
        with pytest.raises(ValueError, match="sees logits only: use PGD or APGD"):
            attack(loss=loss)
