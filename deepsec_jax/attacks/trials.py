"""The search over the constant c that CW2, EAD, OptMargin and BLB share.

All four minimise distance + c * (how far the goal is missed) and want the smallest distance that still
succeeds.  c rises tenfold until a run under it succeeds, then it is bisected; each row has its own c, its
own step and its own end, so one loop carries rows in different runs and no row waits for another.

A row may then settle: one more run at the smallest c that succeeded, from where the row stands, through the
last steps of a run.  Bisection leaves a row wherever its last run ended, often under a c that fails, and an
early end leaves the late, small steps untaken.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.closest import Closest, closer, none_yet
from deepsec_jax.attacks.live import rows_where, while_live
from deepsec_jax.protocols import Images, Keys, Labels, Scalar

LARGEST = 1e10
"""No success yet: the upper end of the search (Carlini and Wagner's value)."""

STUCK = 50.0
"""A constant that outweighs any distance in reach: where it fails, the start is at fault."""


class Problem(NamedTuple):
    """What the rows of a batch are about; the same in all runs."""

    x: Images  # clean images, in their own dtype
    labels: Labels
    model_keys: Keys | None
    c: jax.Array  # float32 [B]
    step: jax.Array  # int32 [B], 0 at the start of every run
    calls: jax.Array  # int32 [B], steps of all runs so far: what a randomised model draws from
    fixed: Any = ()  # the method's own, rows first, the same in all runs


class Progress(NamedTuple):
    """What one step of one run tells."""

    state: Any  # the method's own, rows first
    x_adv: Images  # candidate, in the dtype of the clean images
    success: jax.Array  # bool [B], the candidate's
    distances: tuple[jax.Array, ...]  # float32 [B] each: one per decision rule
    objective: jax.Array  # float32 [B]: what the run minimises
    converged: jax.Array  # bool [B]: nothing is left to gain in this run
    holds: jax.Array | None = None  # bool [B]: c is large enough; None: it is if anything succeeded


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
    run: jax.Array  # int32 [B]: which c this is
    state: Any
    hit: jax.Array  # bool [B]: success under this c
    lowest: jax.Array  # objective, over this run
    checked: jax.Array  # what it was at the last look
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
    """Run the method under up to ``search_steps`` constants per row and keep the closest successes.

    Args:
        method: the optimiser.
        problem: the batch, with the first c of each row, ``step`` and ``calls`` at 0.
        solved: rows whose clean image succeeds already, bool [B]; nothing is spent on them.
        rules: number of decision rules, i.e. of distances that the method reports.
        search_steps: constants tried per row.
        steps: steps of a run at most.
        abort_early: end a run whose objective fell by less than ``least_gain`` over a tenth of its steps.
        least_gain: share of the objective.
        warm: a row that has succeeded goes on from where its last run ended.  Until then every run has a
            fresh start: what fails under any c may be stuck where it stands.
        settle: steps of the last run, from where the row stands, even if not warm: the last ones of the
            ``steps`` of any run, without an early end.  Fewer where search_steps x steps would be exceeded:
            only what early ends have saved is spent.

    Returns:
        The closest successes, one record per rule, and the steps that each row took, int32 [B].
    """
    rows = problem.x.shape[0]
    look = max(1, steps // 10)
    runs = search_steps + 1 if settle else search_steps

    def live(search: _Search) -> jax.Array:
        return search.run < runs

    def settling(search: _Search) -> _Search:
        """Let rows whose search has just ended settle, or end here where that cannot be."""
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
        # The lowest so far, not the latest: accelerated methods swing, and a swing is no standstill.
        lowest = jnp.fmin(search.lowest, progress.objective)  # an objective that is no number tells nothing
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
    """Return where a run starts, float32: the clean image, or half-way to grey where that leads nowhere.

    From an image whose entries stand at 0 and 1, a run under a large c can end in a corner of the box where
    no gradient is left, whatever c; from half-way to grey every entry can move both ways.
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
