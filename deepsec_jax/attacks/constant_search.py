"""The search over the constant c of CW2, EAD, OptMargin and BLB.

All four minimise distance + c * shortfall, to find the smallest distance that still succeeds.  c is
multiplied by ten until a run succeeds, and then bisected.  Each row has its own c, its own step and its own
end, so rows in different runs share one loop and no row waits for another.

A row may then settle: one more run at the smallest successful c, from the row's current image, with the last
steps of a run only.  Without it the row ends with its last run, often at a c that fails, and an early end
skips the late, small steps.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.best_so_far import Closest, closer, none_yet
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.protocols import Images, Keys, Labels, Scalar

LARGEST = 1e10
"""Upper end of the search before any success (Carlini and Wagner's value)."""

STUCK = 50.0
"""A constant that outweighs every possible distance: if it fails, the start is the reason."""


class Problem(NamedTuple):
    """Images, labels and constants of a batch."""

    x: Images  # clean images, in their own dtype
    labels: Labels
    model_keys: Keys | None
    c: jax.Array  # float32 [B]
    step: jax.Array  # int32 [B], 0 at the start of every run
    calls: jax.Array  # int32 [B], steps of all runs so far, for the draws of a randomised model
    fixed: Any = ()  # the method's own data, rows first, the same in all runs


class Progress(NamedTuple):
    """Result of one step of one run."""

    state: Any  # the method's own state, rows first
    x_adv: Images  # candidate, in the dtype of the clean images
    success: jax.Array  # bool [B], the candidate's
    distances: tuple[jax.Array, ...]  # float32 [B] each: one per decision rule
    objective: jax.Array  # float32 [B], minimised by the run
    converged: jax.Array  # bool [B]: the run cannot improve
    holds: jax.Array | None = None  # bool [B]: c is large enough; None: if any step succeeded


class Method(Protocol):
    """An optimiser of distance + c * shortfall, step by step, row by row."""

    def start(self, problem: Problem) -> Any:
        """Return the state before the first step, rows first."""
        ...

    def advance(self, state: Any, problem: Problem) -> Progress:
        """Take one step."""
        ...


class _Search(NamedTuple):
    problem: Problem
    lower: jax.Array  # the largest c that failed
    upper: jax.Array  # the smallest c that succeeded
    run: jax.Array  # int32 [B]: number of the c
    state: Any
    hit: jax.Array  # bool [B]: success under this c
    lowest: jax.Array  # objective, over this run
    checked: jax.Array  # its value at the last check
    best: tuple[Closest, ...]


def search_constant(
    method: Method,
    problem: Problem,
    solved: jax.Array,
    *,
    rules: int = 1,
    search_steps: int,
    steps: int,
    abort_early: bool,
    least_gain: Scalar = 1e-4,
    warm: bool = False,
    settle: int = 0,
) -> tuple[tuple[Closest, ...], jax.Array]:
    """Run the method with up to ``search_steps`` constants per row and keep the closest successes.

    Args:
        method: the optimiser.
        problem: the batch, with the first c of each row, ``step`` and ``calls`` at 0.
        solved: rows with a successful clean image, bool [B]; they take no steps.
        rules: number of decision rules, that is of distances that the method reports.
        search_steps: number of constants per row.
        steps: maximum number of steps of a run.
        abort_early: end a run whose objective decreased by less than ``least_gain`` over a tenth of its
            steps.
        least_gain: share of the objective.
        warm: after its first success, a row starts each run from the end of the last one.  Before that, every
            run starts anew, since a failed row may be stuck.
        settle: number of steps of the last run, which starts from the row's current image even if not warm.
            They are the last ones of the ``steps`` of a run, without an early end.  The total is at most
            search_steps x steps: only steps saved by early ends are spent.

    Returns:
        The closest successes, one record per rule, and the number of steps of each row, int32 [B].
    """
    rows = problem.x.shape[0]
    look = max(1, steps // 10)
    runs = search_steps + 1 if settle else search_steps

    def live(search: _Search) -> jax.Array:
        return search.run < runs

    def settling(search: _Search) -> _Search:
        """Let rows whose search has just ended settle, if possible."""
        problem = search.problem
        begins = (search.run == search_steps) & (problem.step == 0)
        length = jnp.minimum(min(settle, steps), search_steps * steps - problem.calls)
        can = (search.upper < LARGEST) & (length > 0)
        return search._replace(
            problem=problem._replace(
                c=jnp.where(begins, search.upper, problem.c),
                step=jnp.where(begins & can, steps - length, problem.step),
            ),
            run=jnp.where(begins & ~can, runs, search.run),
        )

    def step(search: _Search) -> _Search:
        return rows_where(live(search), _advanced(search), search)

    def _advanced(search: _Search) -> _Search:
        problem = search.problem
        progress = method.advance(search.state, problem)
        best = tuple(
            closer(record, progress.x_adv, progress.success, distance)
            for record, distance in zip(search.best, progress.distances, strict=True)
        )
        hit = search.hit | progress.success if progress.holds is None else progress.holds
        looks = (problem.step % look == 0) if abort_early else jnp.zeros_like(search.hit)
        looks &= search.run < search_steps
        # The lowest so far, not the latest: accelerated methods oscillate without having converged.
        lowest = jnp.fmin(search.lowest, progress.objective)  # a NaN objective is ignored
        stuck = looks & (lowest > (1.0 - least_gain) * search.checked)
        checked = jnp.where(looks, lowest, search.checked)
        taken = problem.step + 1
        ended = (taken >= steps) | stuck | progress.converged
        lower = jnp.where(ended & ~hit, jnp.maximum(search.lower, problem.c), search.lower)
        upper = jnp.where(ended & hit, jnp.minimum(search.upper, problem.c), search.upper)
        next_c = jnp.where(upper < LARGEST, (lower + upper) / 2, problem.c * 10)
        problem = problem._replace(
            c=jnp.where(ended, next_c, problem.c),
            step=jnp.where(ended, 0, taken),
            calls=problem.calls + 1,
        )
        restarts = ended & ((upper >= LARGEST) if warm else (search.run + 1 != search_steps))
        after = _Search(
            problem=problem,
            lower=lower,
            upper=upper,
            run=search.run + ended.astype(jnp.int32),
            state=rows_where(restarts, method.start(problem), progress.state),
            hit=hit & ~ended,
            lowest=jnp.where(ended, jnp.inf, lowest),
            checked=jnp.where(ended, jnp.inf, checked),
            best=best,
        )
        return settling(after) if settle else after

    nothing = none_yet(problem.x)
    search = _Search(
        problem=problem,
        lower=jnp.zeros(rows, jnp.float32),
        upper=jnp.full(rows, LARGEST, jnp.float32),
        run=jnp.where(solved, runs, 0),
        state=method.start(problem),
        hit=jnp.zeros(rows, bool),
        lowest=jnp.full(rows, jnp.inf, jnp.float32),
        checked=jnp.full(rows, jnp.inf, jnp.float32),
        best=(nothing,) * rules,
    )
    last = while_live(step, live, search)
    return last.best, last.problem.calls


def starting_images(problem: Problem) -> Images:
    """Return the start of a run, float32: the clean image, or half-way to grey for a large c.

    From an image with entries at 0 and 1, a run with a large c can end in a corner of the box without a
    gradient for any c.  From half-way to grey every entry can move in both directions.
    """
    clean = problem.x.astype(jnp.float32)
    return jnp.where((problem.c > STUCK)[:, None, None, None], 0.5 * clean + 0.25, clean)


def first_problem(
    x: Images, labels: Labels, model_keys: Keys | None, c: Scalar, *, fixed: Any = ()
) -> Problem:
    """Return the problem before the first run: every row at the same c."""
    rows = x.shape[0]
    nothing = jnp.zeros(rows, jnp.int32)
    constant = jnp.broadcast_to(jnp.asarray(c, jnp.float32), (rows,))
    return Problem(x, labels, model_keys, constant, nothing, nothing, fixed)
