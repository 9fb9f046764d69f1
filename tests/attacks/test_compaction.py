"""Compaction: the same result as stepping every row to its end, with less work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepsec_jax.attacks.compaction import PHASES, in_phases, phase_sizes, rows_where, while_live


def test_at_most_three_falling_sizes():
    for rows in range(1, 200):
        sizes = phase_sizes(rows)
        assert len(sizes) <= len(PHASES) + 1 == 3
        assert sizes[0] == rows and list(sizes) == sorted(set(sizes), reverse=True)
    assert phase_sizes(100) == (100, 50, 13)


def count_down(left, note=lambda size: None, fault=0):
    """Each row counts down from its number and sums what it saw; ``note`` is told every batch's size."""

    def step(state):
        left, total = state
        note(left.shape[0])
        return rows_where(left > 0, (left - 1, total + left.astype(jnp.float32)), state)

    return in_phases(step, lambda state: state[0] > fault, (left, jnp.zeros(len(left))))


counted = jax.jit(count_down, static_argnames=("note", "fault"))  # one program per size, not per example
SIZES = st.sampled_from((1, 2, 7, 16, 40))


@given(SIZES.flatmap(lambda size: st.lists(st.integers(0, 9), min_size=size, max_size=size)))
def test_every_row_is_taken_to_its_end_and_comes_back_in_its_place(rows):
    left, total = counted(jnp.asarray(rows))
    assert (left == 0).all()
    np.testing.assert_array_equal(total, [n * (n + 1) / 2 for n in rows])


def test_a_planted_early_stop_is_seen():
    left, _ = counted(jnp.array([3, 1, 2]), fault=1)
    assert left.max() > 0


def test_finished_rows_cost_nothing_once_half_are_done():
    rows = [1] * 60 + [100] * 4
    with jax.disable_jit():
        seen = []
        count_down(jnp.asarray(rows), seen.append)
    assert set(seen) <= set(phase_sizes(64)) and seen.count(64) == 1
    assert sum(seen) <= 64 + 99 * 8, "four long rows go on in a batch of eight"


def test_rows_may_carry_keys():
    keys = jax.random.split(jax.random.key(0), 20)
    state = (jnp.arange(20), keys)
    left, kept = in_phases(lambda s: (rows_where(s[0] > 0, s[0] - 1, s[0]), s[1]), lambda s: s[0] > 0, state)
    assert (np.asarray(left) == 0).all()
    np.testing.assert_array_equal(jax.random.key_data(kept), jax.random.key_data(keys))


@pytest.mark.parametrize("rows", [1, 3, 8, 33])
def test_one_trace(rows):
    traces = []

    @jax.jit
    def run(left):
        traces.append(1)
        return while_live(lambda s: (jnp.maximum(s[0] - 1, 0),), lambda s: s[0] > 0, (left,))

    run(jnp.arange(rows))
    run(jnp.arange(rows) * 2)
    assert len(traces) == 1
