"""Ensembles as models: means of logits and probabilities, votes, and gradients of confident members."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, Scaled, make_images, make_linear

from deepsec_jax import models
from deepsec_jax.attacks import BIM, losses
from deepsec_jax.models.averaged import log_probabilities
from deepsec_jax.randomness import example_keys, reseed

MEMBERS = tuple(make_linear(seed=seed) for seed in (0, 1, 2))
X = make_images(rows=7)
EACH = np.stack([np.asarray(member(X), np.float64) for member in MEMBERS])


def softmax(z):
    raised = np.exp(z - z.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def test_means_of_logits_and_of_probabilities():
    np.testing.assert_allclose(models.AveragedLogits(MEMBERS)(X), EACH.mean(axis=0), atol=1e-5)
    z = models.AveragedProbabilities(MEMBERS)(X)
    np.testing.assert_allclose(jnp.exp(z), softmax(EACH).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(z), jnp.exp(z), atol=1e-6)  # a softmax of its own logits


def test_votes_count_and_ties_go_to_the_more_probable_class():
    votes = np.asarray(models.MajorityVote(MEMBERS)(X))
    counted = np.stack([(EACH.argmax(-1) == k).sum(0) for k in range(3)], axis=1)
    np.testing.assert_array_equal(np.floor(votes), counted)
    tied = counted.max(axis=1) == 1  # three members, three classes
    mean = softmax(EACH).mean(axis=0)
    np.testing.assert_array_equal(votes.argmax(1)[tied], mean.argmax(1)[tied])
    assert models.MajorityVote(MEMBERS).confidences is False


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_gradient_of_log_probabilities_matches_float64(factor):
    z = factor * jnp.asarray([[2.0, 0.5, -1.0, 0.0], [0.1, 0.2, 0.3, 2.5]])
    for k in range(4):
        found = jax.grad(lambda z, k=k: log_probabilities(z)[:, k].sum())(z)
        exact = np.eye(4)[[k, k]] - softmax(np.asarray(z, np.float64))
        # The entry of k itself is a sum of small numbers; 1 - p_k in float64 has lost some digits, too.
        exact[:, k] = np.delete(softmax(np.asarray(z, np.float64)), k, axis=1).sum(axis=1)
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-37)
    # Planted: log_softmax loses the term of a class with probability 1 in float32.
    lost = jax.grad(lambda z: jax.nn.log_softmax(z)[0, 0])(30.0 * z)
    assert lost[0, 0] == 0 and jax.grad(lambda z: log_probabilities(z)[0, 0])(z * 1.5)[0, 0] > 0


def test_confident_members_keep_their_gradients():
    """BIM follows the mean probabilities where every member is sure, and one of them is fooled already."""
    sure = tuple(Scaled(member, 8.0) for member in MEMBERS)
    ensemble = models.AveragedProbabilities(sure)
    labels = jnp.argmax(ensemble(X), axis=-1)

    def gap(x):
        return losses.logit_gap(ensemble(x), labels).sum()

    assert bool((jnp.abs(jax.grad(gap)(X)).max(axis=(1, 2, 3)) > 0).all())
    x_adv = BIM(eps=0.3, step_size=0.1, steps=10)(ensemble, X, labels)
    assert float((jnp.argmax(ensemble(x_adv), axis=-1) != labels).mean()) > 0.8


def test_random_members_draw_apart():
    noisy = Noisy(MEMBERS[0], jax.random.split(jax.random.key(1), 7), 0.3)
    both = reseed(models.AveragedLogits((noisy, noisy)), example_keys(jax.random.key(2), 7))
    first, second = (np.asarray(member(X)) for member in both.members)
    assert np.abs(first - second).max() > 0.01


def test_no_members_are_refused():
    with pytest.raises(ValueError, match="at least one model"):
        models.AveragedLogits(())
