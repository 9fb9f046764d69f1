"""Rows in turns: the same result as all together, in fewer places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax.attacks.compaction import WIDTH, few_at_a_time, rows_where


def count_down(rows, sizes_seen):
    """Each row counts down from its number and sums what it saw; the sizes of the batches are noted."""

    def step(state):
        left, total, name = state
        jax.debug.callback(lambda: sizes_seen.append(left.shape[0]))
        return rows_where(left > 0, (left - 1, total + left.astype(jnp.float32), name), state)

    count = len(rows)
    state = (jnp.asarray(rows, jnp.int32), jnp.zeros(count), jnp.arange(count))
    return jax.jit(lambda state: few_at_a_time(step, lambda state: state[0] > 0, state))(state)


@pytest.mark.parametrize("count", [1, WIDTH, WIDTH + 1, 3 * WIDTH + 5])
def test_every_row_is_taken_to_its_end_and_comes_back_in_its_place(count):
    rows = np.random.default_rng(count).integers(0, 9, count)
    left, total, name = count_down(rows, [])
    assert (np.asarray(left) == 0).all()
    np.testing.assert_array_equal(total, rows * (rows + 1) / 2)
    np.testing.assert_array_equal(name, np.arange(count))


def test_places_are_kept_filled():
    rows, seen = [5, 6, 7, 8] * 20, []
    jax.block_until_ready(count_down(rows, seen))
    jax.effects_barrier()
    assert set(seen) == {WIDTH} and sum(seen) <= 1.15 * sum(rows)
