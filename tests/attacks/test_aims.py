"""The classes that aimed attacks drive to: by logit, and by distance to the linearised boundary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear

from attacks.optima import closest_l1, closest_l2, closest_linf
from deepsec_jax.attacks import APGD, count_calls
from deepsec_jax.attacks.aims import likeliest_wrong, nearest_wrong
from deepsec_jax.evaluation import judge

CLOSEST = {"l1": closest_l1, "l2": closest_l2, "linf": closest_linf}
KEY = jax.random.key(0)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_of_a_linear_model_the_nearest_come_in_order(norm):
    """Against scipy's distance to each plane alone, where the box is out of the way."""
    model = make_linear(classes=5, seed=4)
    x = 0.45 + 0.1 * make_images(rows=6, seed=1)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    found = np.asarray(nearest_wrong(model, x, labels, 4, norm))
    weights = np.asarray(model.weights, np.float64)
    logits = np.asarray(model(x), np.float64)
    for row, label in enumerate(np.asarray(labels)):
        wrong = [other for other in range(5) if other != label]
        distance = {
            other: CLOSEST[norm](
                np.asarray(x[row], np.float64).ravel(),
                (weights[:, other] - weights[:, label])[None],
                np.array([logits[row, label] - logits[row, other]]),
            )
            for other in wrong
        }
        assert list(found[row]) == sorted(wrong, key=distance.get)
    by_logit = np.asarray(likeliest_wrong(model, x, labels, 4)[0])
    assert (by_logit != found).any(), "planted: the order of the logits is another one"


def test_what_cannot_move_brings_nobody_nearer():
    """Class 1 has the steeper slope, but all of it would leave the box."""
    weights = jnp.zeros((16, 3)).at[:, 1].set(-5.0).at[:, 2].set(1.0)
    model = Linear(weights, jnp.array([2.0, 1.0, 0.0]))
    x, labels = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32)
    assert nearest_wrong(model, x, labels, 1, "linf").tolist() == [[2], [2]]


def test_the_nearest_is_tried_first_and_its_gradients_are_counted():
    """Class 1 is ahead of class 2 on the clean image, but nothing moves it; class 2 is in reach."""
    weights = jnp.zeros((16, 3)).at[:, 2].set(1.0)
    model = Linear(weights, jnp.array([12.0, 11.0, 0.0]))
    x, labels = jnp.full((2, 4, 4, 1), 0.5), jnp.zeros(2, jnp.int32)
    near = APGD(eps=0.4, steps=10, aims=1, nearest=True)

    def success(attack):
        return np.asarray(judge(model, x, attack(model, x, labels, key=KEY), labels).success)

    assert success(near).all() and not success(near.replace(nearest=False)).any()
    plain = count_calls(near.replace(eps=1e-4, nearest=False), model, x, labels, key=KEY)
    spent = count_calls(near.replace(eps=1e-4), model, x, labels, key=KEY)
    np.testing.assert_array_equal(spent.gradients - plain.gradients, [3, 3])
    with pytest.raises(ValueError, match="set aims="):
        APGD(nearest=True)
