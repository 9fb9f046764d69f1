"""RayS against a closed form, by hand, and its own count of queries."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import Linear, Noisy, make_images, make_linear

from deepsec_jax.attacks import RayS, Transfer, count_calls
from deepsec_jax.attacks.rays import _flipped
from deepsec_jax.evaluation import judge
from deepsec_jax.pytree import Struct

KEY = jax.random.key(1)


class Decisions(Struct):
    """The class that wins, and nothing else of a model."""

    model: Linear

    def __call__(self, x):
        logits = self.model(x)
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])


def distances(x, x_adv):
    return np.abs(np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)).max(axis=(1, 2, 3))


def test_on_a_linear_model_it_comes_to_the_closed_form_from_decisions_alone():
    """The nearest face in L-inf lies at gap / ||w||_1; its signs are found block by block."""
    model = make_linear(classes=2, seed=4)
    x = 0.45 + 0.1 * make_images(rows=8, seed=5)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    lead = np.asarray(model.weights, np.float64) @ [1, -1]
    exact = np.abs(np.asarray(model(x), np.float64) @ [1, -1]) / np.abs(lead).sum()
    x_adv = RayS(queries=400)(Decisions(model), x, labels)
    assert np.asarray(judge(model, x, x_adv, labels).success).all()
    found = distances(x, x_adv)
    assert (found >= exact * 0.999).all()
    assert (found <= exact + 0.02).all() and np.median(found - exact) < 0.005
    few = distances(x, RayS(queries=20)(Decisions(model), x, labels))
    assert np.median(few) > np.median(found) + 0.02, "planted: the search does nothing"


def test_queries_are_counted_per_image():
    model = make_linear(classes=3, seed=2)
    x = make_images(rows=6)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32).at[0].add(1)
    labels = labels % 3
    spent = count_calls(RayS(queries=50), model, x, labels)
    np.testing.assert_array_equal(spent.forwards, [1, *[50] * 5])
    np.testing.assert_array_equal(spent.gradients, np.zeros(6))
    np.testing.assert_array_equal(spent.x[0], x[0])  # wrong already
    done = count_calls(RayS(queries=500, enough=0.5), model, x, labels)
    assert (np.asarray(done.forwards)[1:] < 500).all() and (distances(x, done.x) <= 0.5).all()


def test_the_first_rays_by_hand():
    """Only darkening changes the class: the first ray fails, the whole flipped meets it at 0.25."""
    model = Linear(jnp.stack([jnp.ones(16), jnp.zeros(16)], 1), jnp.array([0.0, 4.0]))  # 1 where the sum < 4
    x, labels = jnp.full((1, 4, 4, 1), 0.5), jnp.zeros(1, jnp.int32)
    # Clean, the first ray, all flipped (all black, fooled), then bisections at 1/2 and 1/4 of the way.
    for queries, distance in ((2, 0.0), (3, 0.5), (4, 0.5), (5, 0.5), (6, 0.375)):
        x_adv = RayS(queries=queries)(model, x, labels)
        np.testing.assert_allclose(distances(x, x_adv), distance, atol=1e-6)
    np.testing.assert_allclose(distances(x, RayS(queries=14)(model, x, labels)), 0.25, atol=2e-3)


def test_blocks_cover_the_image_once_per_level():
    class State:
        x = jnp.zeros((1, 3, 2, 1))
        signs = jnp.ones((1, 3, 2, 1))

    for level, blocks in ((0, 1), (1, 2), (2, 3), (3, 6)):
        covered, ended = np.zeros(6), False
        for block in range(blocks):
            State.level, State.block = jnp.array([level]), jnp.array([block])
            signs, last = _flipped(State)
            covered += np.asarray(signs).ravel() < 0
            ended = bool(last[0])
            assert ended == (block == blocks - 1)
        np.testing.assert_array_equal(covered, 1)


def test_without_success_the_clean_image_comes_back_and_draws_are_fresh():
    model = make_linear(classes=2)
    never = model.replace(bias=jnp.array([1e4, 0.0]))
    x, labels = make_images(rows=3), jnp.zeros(3, jnp.int32)
    np.testing.assert_array_equal(RayS(queries=30)(never, x, labels), x)
    noisy = Noisy(model, jax.random.split(KEY, 3))
    assert bool(jnp.isfinite(RayS(queries=30)(noisy, x, labels, key=KEY)).all())
    moved = Transfer(RayS(queries=30), model)(never, x, jnp.argmax(model(x), -1).astype(jnp.int32))
    assert (np.asarray(moved) != np.asarray(x)).any()
