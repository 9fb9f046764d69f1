"""VMI-FGSM and SI-MI-FGSM: against closed forms, a transcription of the authors' loop, and U-MI-FGSM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from deepsec_jax.attacks import SIMIFGSM, UMIFGSM, VMIFGSM, losses
from deepsec_jax.attacks.cost import cost
from deepsec_jax.protocols import Images, Logits
from deepsec_jax.pytree import Struct

KEY = jax.random.key(3)
USUAL = {"eps": 0.2, "step_size": 0.06, "steps": 5}


class Bowl(Struct):
    """Two classes whose logit gap is -|x - centre|_4^4 / 4: the gradient is -(x - centre)^3."""

    centre: jax.Array

    def __call__(self, x: Images) -> Logits:
        gap = -jnp.sum((x - self.centre) ** 4, axis=(1, 2, 3)) / 4
        return jnp.stack([jnp.zeros_like(gap), 10.0 + gap], axis=1)  # class 1 stays ahead: nobody succeeds


CENTRE = 0.5 + 0.1 * jax.random.normal(jax.random.key(8), (1, 4, 4, 1))
BOWL = Bowl(CENTRE)
X = make_images(rows=6)
LABELS = jnp.ones(6, jnp.int32)


def gradient(x):
    """The gradient of z_0 - z_1 = |x - centre|^4 / 4 - 10, worked out by hand."""
    return (np.asarray(x, np.float64) - np.asarray(CENTRE, np.float64)) ** 3


def walked(corrected, x=X, eps=0.2, step_size=0.06, steps=5):
    """The authors' loop in NumPy: ``corrected(x_i, gradient, i)`` is the direction before momentum."""
    x = np.asarray(x, np.float64)
    x_i, momentum = x.copy(), np.zeros_like(x)
    for step in range(steps):
        found = corrected(x_i, gradient(x_i), step)
        momentum = momentum + found / np.abs(found).sum(axis=(1, 2, 3), keepdims=True)
        x_i = np.clip(np.clip(x_i + step_size * np.sign(momentum), x - eps, x + eps), 0, 1)
    return x_i


def test_scaled_copies_follow_the_authors_loop():
    def corrected(x_i, own, step):
        return sum(gradient(x_i / 2**k) / 2**k for k in range(3)) / 3

    made = SIMIFGSM(**USUAL, copies=3, loss=losses.max_margin)(BOWL, X, LABELS)
    np.testing.assert_allclose(made, walked(corrected), atol=1e-5)
    # Planted: without the chain rule's 1 / 2^k it is another attack.
    other = walked(lambda x_i, own, step: sum(gradient(x_i / 2**k) for k in range(3)))
    assert np.abs(np.asarray(made) - other).max() > 0.01


def test_variance_tuning_follows_the_authors_loop():
    """In L2, where lengths count: E (d + r)^3 - d^3 = 3 d E r^2 = 3 d (beta eps)^2 / (D + 2), D = 16."""
    x, beta, eps, step_size = 0.4 + 0.2 * np.asarray(X, np.float64), 1.5, 0.4, 0.15
    away = lambda x_i: x_i - np.asarray(CENTRE, np.float64)  # noqa: E731

    def walk(sign):
        x_i, momentum, variance = x.copy(), np.zeros_like(x), np.zeros_like(x)
        for _ in range(5):
            own = gradient(x_i)
            found = own + sign * variance
            variance = 3 * away(x_i) * (beta * eps) ** 2 / 18
            momentum = momentum + found / np.abs(found).sum(axis=(1, 2, 3), keepdims=True)
            step = momentum / np.sqrt((momentum**2).sum(axis=(1, 2, 3), keepdims=True))
            change = x_i + step_size * step - x
            length = np.sqrt((change**2).sum(axis=(1, 2, 3), keepdims=True))
            x_i = np.clip(x + change * np.minimum(1, eps / length), 0, 1)
        return x_i

    usual = {"eps": eps, "step_size": step_size, "steps": 5, "norm": "l2", "loss": losses.max_margin}
    attack = VMIFGSM(**usual, neighbours=1000, beta=beta)
    made = np.asarray(attack(BOWL, jnp.asarray(x, jnp.float32), LABELS, key=KEY))
    assert np.abs(made - walk(1.0)).max() < 6e-3  # 1000 draws
    # Planted: the momentum method alone, and the correction of the wrong sign, walk elsewhere.
    assert min(np.abs(made - walk(sign)).max() for sign in (0.0, -1.0)) > 0.012


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_refinement_both_are_the_momentum_method(norm):
    model = make_linear(seed=4)
    labels = jnp.argmax(model(X), axis=-1)
    usual = UMIFGSM(**USUAL, norm=norm)(model, X, labels)
    for attack in (
        VMIFGSM(**USUAL, norm=norm, beta=0.0, neighbours=2),
        SIMIFGSM(**USUAL, norm=norm, copies=1),
    ):
        np.testing.assert_allclose(attack(model, X, labels, key=KEY), usual, atol=1e-6)


def test_costs_count_every_gradient():
    assert cost(VMIFGSM(steps=15, neighbours=20), classes=10, entries=784).gradients == 15 * 21
    assert cost(VMIFGSM(steps=1, neighbours=20), classes=10, entries=784).gradients == 1
    assert cost(SIMIFGSM(steps=10, copies=5), classes=10, entries=784).gradients == 50


def test_draws_of_a_neighbourhood_are_its_own():
    """Another key gives other neighbours, and other images where the gradient is curved."""
    attack = VMIFGSM(**USUAL, neighbours=2, loss=losses.max_margin)
    one, other = (attack(BOWL, X, LABELS, key=jax.random.key(seed)) for seed in (0, 1))
    assert bool((one != other).any())
