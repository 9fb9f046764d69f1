"""The search over c, by a method whose every step is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax.attacks.constant_search import Progress, first_problem, search_constant


class Walk:
    """One step closer per step from 100 away; reaches the goal under c of 0.5 and more."""

    def start(self, problem):
        return jnp.full(problem.c.shape, 100.0)

    def advance(self, state, problem):
        state, nothing = state - 1.0, jnp.zeros(state.shape, bool)
        return Progress(state, problem.x, problem.c >= 0.5, (state,), state, nothing)


class LateWalk(Walk):
    """Stands still but in the last five of ten steps."""

    def advance(self, state, problem):
        progress = super().advance(state, problem)
        state = jnp.where(problem.step >= 5, progress.state, state)
        return progress._replace(state=state, distances=(state,))


class From(Walk):
    """Reaches the goal under c of 0.37 and more, at the distance c."""

    def advance(self, state, problem):
        done = jnp.ones(problem.c.shape, bool)
        return Progress(state, problem.x, problem.c >= 0.37, (problem.c,), state, done)


@pytest.mark.parametrize(
    ("first", "tried", "smallest"),
    [
        (0.1, 1, np.inf),
        (0.1, 2, 1.0),
        (0.1, 3, 0.55),
        (0.1, 5, 0.4375),
        (0.1, 12, 0.370703125),
        (4.0, 2, 2.0),
    ],
)
def test_c_rises_tenfold_and_is_then_bisected(first, tried, smallest, images):
    """From 0.1: 1, 0.55, 0.325 (fails), 0.4375, 0.38125, ... until 0.37 is met from above."""
    (best,), _ = search_constant(
        From(), first_problem(images, jnp.zeros(8, jnp.int32), None, first), jnp.zeros(8, bool),
        search_steps=tried, steps=10, abort_early=False,
    )  # fmt: skip
    np.testing.assert_allclose(best.distance, np.full(8, smallest), rtol=1e-5)


class Overshoots(From):
    """As ``From``, but says itself whether c is large enough: from 5 on."""

    def advance(self, state, problem):
        return super().advance(state, problem)._replace(holds=problem.c >= 5.0)


def test_what_a_method_says_of_c_counts_and_not_a_chance_success(images):
    problem = first_problem(images, jnp.zeros(8, jnp.int32), None, 1.0)
    (best,), _ = search_constant(
        Overshoots(), problem, jnp.zeros(8, bool), search_steps=2, steps=10, abort_early=False, settle=1
    )
    np.testing.assert_array_equal(best.distance, np.full(8, 1.0))
    (best,), _ = search_constant(
        Overshoots(), problem._replace(c=jnp.full(8, 0.2)), jnp.zeros(8, bool),
        search_steps=2, steps=10, abort_early=False,
    )  # fmt: skip
    np.testing.assert_array_equal(best.distance, np.full(8, 2.0))  # 0.2 and 2: it rises, and is not bisected


@pytest.mark.parametrize(
    ("settle", "c", "ends", "taken"),
    [(0, 0.1, 96.0, 8), (5, 0.1, 89.0, 13), (50, 0.1, 84.0, 18), (5, 1e-9, np.inf, 8)],
)
def test_a_row_settles_at_the_smallest_c_that_succeeded(settle, c, ends, taken, images):
    """c is 0.1, 1, 0.55, 0.325, each left after two steps of one percent; then 0.55 once more, to its end."""
    (best,), steps = search_constant(
        Walk(), first_problem(images, jnp.zeros(8, jnp.int32), None, c), jnp.zeros(8, bool),
        search_steps=4, steps=10, abort_early=True, least_gain=0.02, warm=True, settle=settle,
    )  # fmt: skip
    np.testing.assert_array_equal(best.distance, np.full(8, ends))
    np.testing.assert_array_equal(steps, np.full(8, taken))


def test_settling_takes_the_last_steps_of_a_run(images):
    """LateWalk is left at its second look: three runs of two steps, none of which moves it."""
    (best,), steps = search_constant(
        LateWalk(), first_problem(images, jnp.zeros(8, jnp.int32), None, 1.0), jnp.zeros(8, bool),
        search_steps=3, steps=10, abort_early=True, least_gain=0.02, warm=True, settle=4,
    )  # fmt: skip
    np.testing.assert_array_equal(best.distance, np.full(8, 96.0))
    np.testing.assert_array_equal(steps, np.full(8, 10))


def test_nothing_is_spent_beyond_the_budget(images):
    _, steps = search_constant(
        Walk(), first_problem(images, jnp.zeros(8, jnp.int32), None, 1.0), jnp.zeros(8, bool),
        search_steps=2, steps=10, abort_early=False, warm=True, settle=5,
    )  # fmt: skip
    np.testing.assert_array_equal(steps, np.full(8, 20))


def test_rows_that_are_solved_do_not_settle(images):
    solved = jnp.arange(8) < 4
    _, steps = search_constant(
        Walk(), first_problem(images, jnp.zeros(8, jnp.int32), None, 1.0), solved,
        search_steps=2, steps=10, abort_early=True, least_gain=0.02, settle=5,
    )  # fmt: skip
    np.testing.assert_array_equal(steps, np.where(solved, 0, 9))


@pytest.mark.parametrize(("warm", "ends"), [(True, 80.0), (False, 90.0)])
def test_a_warm_run_goes_on_from_where_a_success_ended(warm, ends, images):
    """c is 0.1, 1, 0.55, 0.325: the first fails and is forgotten, the next two make 10 steps each."""
    labels = jnp.zeros(8, jnp.int32)
    (best,), steps = search_constant(
        Walk(), first_problem(images, labels, None, 0.1), jnp.zeros(8, bool),
        search_steps=4, steps=10, abort_early=False, warm=warm,
    )  # fmt: skip
    np.testing.assert_array_equal(best.distance, np.full(8, ends))
    np.testing.assert_array_equal(steps, np.full(8, 40))


def test_a_run_that_gains_too_little_is_left(images):
    """Walk gains 1 % in its first step, more later."""
    problem = first_problem(images, jnp.zeros(8, jnp.int32), None, 1.0)
    for least_gain, taken in ((0.02, 2), (0.005, 10)):
        _, steps = search_constant(
            Walk(), problem, jnp.zeros(8, bool),
            search_steps=1, steps=10, abort_early=True, least_gain=least_gain,
        )  # fmt: skip
        np.testing.assert_array_equal(steps, np.full(8, taken))
