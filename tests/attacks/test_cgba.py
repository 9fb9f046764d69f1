"""CGBA against closed forms, from decisions alone, and its own count of queries."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import Linear, Noisy, make_images, make_linear
from scipy import fft

from deepsec_jax.attacks import CGBA, count_calls
from deepsec_jax.attacks.cgba import low_frequencies
from deepsec_jax.evaluation import judge
from deepsec_jax.pytree import Struct

KEY = jax.random.key(1)
ATTACK = CGBA(queries=1200)


class Decisions(Struct):
    """The class that wins, and nothing else of a model."""

    model: Linear

    def __call__(self, x):
        logits = self.model(x)
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])


def distances(x, x_adv):
    return np.sqrt(np.sum((np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)) ** 2, axis=(1, 2, 3)))


def test_on_a_linear_model_it_comes_to_the_closed_form_from_decisions_alone():
    """The nearest face in L2 lies at gap / ||w||_2."""
    model = make_linear(classes=2, seed=4)
    x = 0.45 + 0.1 * make_images(rows=8, seed=5)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    lead = np.asarray(model.weights, np.float64) @ [1, -1]
    exact = np.abs(np.asarray(model(x), np.float64) @ [1, -1]) / np.linalg.norm(lead)
    spent = count_calls(ATTACK, Decisions(model), x, labels, key=KEY)
    assert np.asarray(judge(model, x, spent.x, labels).success).all()
    found = distances(x, spent.x)
    ratio = found / exact
    assert ratio.min() >= 0.999 and ratio.max() <= 1.05 and np.median(ratio) < 1.02
    np.testing.assert_array_equal(spent.forwards, np.full(8, 1200))
    np.testing.assert_array_equal(spent.gradients, np.zeros(8))
    few = distances(x, CGBA(queries=60)(Decisions(model), x, labels, key=KEY))
    assert np.median(few / found) > 1.1, "planted: the search does nothing"


def test_a_curved_boundary_and_a_box_that_is_active():
    """On an L2 ball around the clean image every point is the closest one."""
    center = make_images(rows=4, seed=3).at[:, 0].set(0.0)
    model = Ball(jnp.asarray(0.7))
    x_adv = ATTACK(Shifted(model, center), center, jnp.zeros(4, jnp.int32), key=KEY)
    np.testing.assert_allclose(distances(center, x_adv), 0.7, rtol=1e-3)
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1


class Ball(Struct):
    """Class 1 from this distance on."""

    radius: jax.Array

    def __call__(self, change):
        far = jnp.sqrt(jnp.sum(change**2, axis=(1, 2, 3))) - self.radius
        return jnp.stack([jnp.zeros_like(far), far], axis=1)


class Shifted(Struct):
    """A model of the change of each row."""

    model: Ball
    center: jax.Array

    def __call__(self, x):
        return self.model(x - self.center)


def test_without_success_or_with_enough_it_stops_and_draws_are_fresh():
    model = make_linear(classes=2)
    never = model.replace(bias=jnp.array([1e4, 0.0]))
    x, labels = make_images(rows=3), jnp.zeros(3, jnp.int32)
    np.testing.assert_array_equal(CGBA(queries=30)(never, x, labels, key=KEY), x)
    noisy = Noisy(model, jax.random.split(KEY, 3))
    assert bool(jnp.isfinite(CGBA(queries=30)(noisy, x, labels, key=KEY)).all())
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32).at[0].add(1) % 2
    done = count_calls(CGBA(queries=400, enough=1.0), model, x, labels, key=KEY)
    spent = np.asarray(done.forwards)
    assert spent[0] == 1 and (spent[1:] < 400).all() and (distances(x, done.x) <= 1.0).all()


def test_low_frequencies_are_those_of_scipys_cosine_transform():
    noise = jax.random.normal(KEY, (2, 6, 5, 3))
    smooth = fft.dctn(np.asarray(low_frequencies(noise, 2)), axes=(1, 2), norm="ortho")
    kept = fft.dctn(np.asarray(noise), axes=(1, 2), norm="ortho")
    kept[:, 3:], kept[:, :, 3:] = 0.0, 0.0
    np.testing.assert_allclose(smooth, kept, atol=1e-5)
