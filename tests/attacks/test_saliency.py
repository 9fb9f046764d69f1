"""JSMA's pair against all pairs, gone through by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax.attacks import saliency
from deepsec_jax.attacks.saliency import best_pair, top_two, undominated


def brute_force(gain, loss, allowed):
    """Return the first best admissible pair of one row in lexicographic order, or None."""
    features = len(gain)
    pairs = (gain[:, None] + gain[None]) * (loss[:, None] + loss[None])
    admissible = (gain[:, None] + gain[None] > 0) & (loss[:, None] + loss[None] > 0)
    admissible &= allowed[:, None] & allowed[None] & np.triu(np.ones((features, features), bool), 1)
    if not admissible.any():
        return None
    return divmod(int(np.argmax(np.where(admissible, pairs, -np.inf))), features)


def agree(gain, loss, allowed, pair):
    for row in range(len(gain)):
        expected = brute_force(gain[row], loss[row], allowed[row])
        found = (int(pair.first[row]), int(pair.second[row])) if bool(pair.found[row]) else None
        if found != expected:
            return False
    return True


def draw(kind, rng, rows, features):
    if kind == "random":
        return rng.normal(size=(2, rows, features)).astype(np.float32)
    if kind == "ties":
        return rng.integers(-2, 3, size=(2, rows, features)).astype(np.float32)
    if kind == "no admissible pair":
        gain = -np.abs(rng.normal(size=(rows, features)))
        return np.stack([gain, rng.normal(size=(rows, features))]).astype(np.float32)
    # Gains rise as losses fall, so that nobody dominates anybody.
    gain = np.sort(rng.uniform(0.1, 1, size=(rows, features)), axis=1)
    return np.stack([gain, 1.0 - gain**2]).astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "ties", "no admissible pair", "all on the frontier"])
@pytest.mark.parametrize("features", [2, 5, 64, 150])
def test_equals_brute_force(kind, features):
    rows = 250  # x 4 sizes = 1000 Jacobians of each kind
    rng = np.random.default_rng(features)
    gain, loss = draw(kind, rng, rows, features)
    allowed = rng.uniform(size=gain.shape) < 0.9
    pair = jax.jit(best_pair)(gain, loss, allowed)
    assert agree(gain, loss, allowed, pair)
    if kind == "no admissible pair":
        assert not np.asarray(pair.found).any()


def test_planted_top_two_of_the_target_is_seen():
    """What ART does: the two largest gradients of the target, whatever the other classes do."""
    rng = np.random.default_rng(0)
    gain, loss = draw("random", rng, 100, 30)
    allowed = np.ones_like(gain, bool)
    assert not agree(gain, loss, allowed, top_two(jnp.asarray(gain), jnp.asarray(allowed)))


@pytest.mark.long  # 15 s, about speed
def test_random_jacobians_leave_few_candidates():
    rng = np.random.default_rng(1)
    gain, loss = draw("random", rng, 100, 3072)
    kept = np.asarray(undominated(jnp.asarray(gain), jnp.asarray(loss), jnp.ones(gain.shape, bool)))
    assert kept.sum(axis=1).max() <= saliency.CAPACITY
    frontier = draw("all on the frontier", rng, 2, 200)
    assert np.asarray(undominated(*jnp.asarray(frontier), jnp.ones((2, 200), bool))).all()


def test_probabilities_need_only_the_top_two():
    rng = np.random.default_rng(2)
    gain = rng.normal(size=(200, 40)).astype(np.float32)
    allowed = rng.uniform(size=gain.shape) < 0.5
    pair = top_two(jnp.asarray(gain), jnp.asarray(allowed))
    for row in range(200):
        expected = brute_force(gain[row], gain[row], allowed[row])
        found = (int(pair.first[row]), int(pair.second[row])) if bool(pair.found[row]) else None
        assert found == expected


def test_a_pair_is_admissible_by_its_sum():
    gain = jnp.asarray([[3.0, -1.0, -2.0], [1.0, -1.0, -2.0], [1.0, -2.0, -3.0]])
    pair = top_two(gain, jnp.ones((3, 3), bool))
    assert np.asarray(pair.found).tolist() == [True, False, False]
    assert (int(pair.first[0]), int(pair.second[0])) == (0, 1)


def test_fewer_than_two_allowed_features():
    gain = jnp.ones((3, 4))
    allowed = jnp.asarray([[True, False, False, False], [False] * 4, [True, True, False, False]])
    for pair in (top_two(gain, allowed), best_pair(gain, gain, allowed)):
        assert np.asarray(pair.found).tolist() == [False, False, True]
