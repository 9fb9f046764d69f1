"""JSMA both ways: what one direction cannot reach, within the same budget, each feature once."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear

from deepsec_jax.attacks import JSMA


def ink_is_the_label(size=6):
    """Class 0 has the ink in the first half, class 1 has none there: only removing it leads to class 1."""
    first = jnp.arange(size) < size // 2
    return Linear(jnp.stack([jnp.where(first, 4.0, 0.0), jnp.zeros(size)], axis=1), jnp.array([0.0, 1.0]))


def test_what_must_lose_ink_is_reached_both_ways_only():
    model = ink_is_the_label()
    x, target = jnp.array([1.0, 0.9, 0.1, 0.2, 0.2, 0.2]).reshape(1, 6, 1, 1), jnp.array([1])
    up = JSMA(gamma=1.0)(model, x, target)
    np.testing.assert_array_equal(up, x)  # planted: one direction fails, and returns the clean image
    both = JSMA(gamma=1.0, either=True)(model, x, target)
    # The two with the most ink bring the most, although all three have the same derivative.
    np.testing.assert_allclose(both.ravel(), [0.0, 0.0, 0.1, 0.2, 0.2, 0.2], atol=1e-7)


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_the_budget_holds_and_no_feature_moves_twice(gamma):
    model, x = make_linear(scale=3.0), make_images(rows=12)
    target = (model(x).argmax(-1) + 1) % 3
    x_adv = JSMA(gamma=gamma, either=True)(model, x, target)
    changed = np.asarray(x_adv != x).reshape(12, -1)
    assert changed.sum(axis=1).max() <= gamma * 16
    values = np.asarray(x_adv).reshape(12, -1)[changed]
    assert set(np.unique(values)) <= {0.0, 1.0}  # theta is 1: to one bound or the other, and never back


def test_both_ways_succeed_where_one_does():
    model, x = make_linear(scale=3.0), make_images(rows=40)
    target = (model(x).argmax(-1) + 1) % 3

    def hits(**options):
        return np.asarray(model(JSMA(gamma=0.5, **options)(model, x, target)).argmax(-1) == target)

    assert hits(either=True).mean() > hits().mean()


def test_logits_rank_pairs_not_moves():
    with pytest.raises(ValueError, match="needs saliency='probabilities'"):
        JSMA(saliency="logits", either=True)
