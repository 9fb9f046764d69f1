"""APGD: projected gradient ascent with an adaptive step size per image."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.attacks.aims import POOL, likeliest_wrong, nearest_wrong
from deepsec_jax.attacks.ascent import Best, Trace, better, split_keys
from deepsec_jax.attacks.best_so_far import at_steps, per_row
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32, project, steepest, stored_in_ball
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.layer_losses import Activations, clean_activations, loss_at, sees_activations
from deepsec_jax.attacks.losses import (
    AimedLoss,
    Loss,
    dlr_to,
    find_loss,
    logit_gap,
    max_margin,
    ranked,
    succeeded,
)
from deepsec_jax.attacks.parts import Start, at_input, at_radius
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, function, integer, share
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static

MOMENTUM = 0.75
"""Weight of the new step in a move; the rest repeats the last move (the authors' value)."""


class APGD(Struct):
    """Ascent that halves the step size per image when the loss stops increasing; no step size to choose.

        z       = project(x_i + s step(grad loss(x_i)))
        x_{i+1} = project(x_i + 0.75 (z - x_i) + 0.25 (x_i - x_{i-1}))

    with s = 2 eps at first.  At fixed checkpoints a row halves s and returns to its best point in two cases.
    The loss increased in at most ``rho`` of the moves since the last checkpoint; or the best loss has not
    changed since a checkpoint without halving.  The first checkpoint is after 22 % of the steps, the next
    intervals decrease from 19 % to 6 %.

    A row makes ``restarts`` runs, each of ``steps`` + 1 gradients.  With ``aims`` = k > 0 the runs target the
    k likeliest wrong classes of the clean image in turn, and the attack makes ``restarts`` x k runs; any
    wrong class is a success.  With ``nearest`` they are the k classes with the nearest linearised boundary
    (MALT), for at most one additional gradient per class.  With ``stops`` a row ends at its first success.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        steps: steps of a run, static.
        norm: "linf" or "l2", static.
        restarts: number of runs, or with ``aims`` rounds of runs, static.
        aims: number of target classes, static, at most K - 1; 0 maximises ``loss``.
        nearest: whether aims are chosen by distance to the linearised boundary instead of logits, static.
        targeted: ``labels`` are targets to reach, static; then ``aims`` must be 0.
        stops: whether a row ends with its first success, static; False returns the success with the highest
            loss.
        loss: loss to maximise without aims, or its name, static.
        aimed: loss to maximise with aims, static.
        start: returns the first iterate (:mod:`deepsec_jax.attacks.parts`), static; with ``at_input`` and
            without aims a restart repeats the previous run.
        rho: share of increasing moves below which the step size is halved.

    References:
        Croce, Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks", ICML 2020, arXiv:2003.01690.  Nearest: Melamed, Yehudai, Vardi, "MALT Powers
        Up Adversarial Attacks", NeurIPS 2024, arXiv:2407.02240.
    """

    eps: Scalar = 0.3
    steps: int = static(100, check=count)
    norm: Norm = static("linf", check=norm_of())
    restarts: int = static(1, check=count)
    aims: int = static(0, check=integer(0))
    nearest: bool = static(False)
    targeted: bool = static(False)
    stops: bool = static(True)
    loss: Loss | str = static(logit_gap, check=find_loss)
    aimed: AimedLoss = static(dlr_to, check=function)
    start: Start = static(at_radius, check=function)
    rho: Scalar = field(0.75, check=share)

    card: ClassVar[Card] = Card(
        name="APGD",
        title="Auto-PGD: projected gradient descent that sets its own step size",
        reference="Croce, Hein, ICML 2020, arXiv:2003.01690",
        goal="untargeted",
        kind="budget",
    )
    targets = label_targets

    @property
    def needs_key(self) -> bool:
        """Whether the start is random."""
        return self.start is not at_input

    def __post_init__(self) -> None:
        if self.targeted and self.aims:
            raise ValueError(
                f"APGD.aims must be 0 where targeted is True, got {self.aims}: the target is the label"
            )
        if self.nearest and not self.aims:
            raise ValueError("APGD.nearest chooses aims, of which there are none: set aims=")

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del entries
        runs = self.restarts * max(1, min(self.aims, classes - 1))
        chosen = min(classes, POOL + 1) if self.nearest else 0
        forwards = float(self.aims > 0) + sees_activations(self.loss)
        return Cost(forwards, runs * (self.steps + 1.0) + chosen, exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        search = _search(self, model, x, labels, keys)

        def step(state: _State) -> _State:
            return rows_where(search.live(state), _stepped(self, model, state)[0], state)

        last = while_live(step, search.live, search.first)
        gradients = last.gradients.astype(jnp.float32) + search.chosen
        return Counted(last.best.x, jnp.full(x.shape[0], search.forwards, jnp.float32), gradients)

    def trace(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Trace:
        """Return the images with the loss and success of every iterate; see :mod:`~.indicators`.

        The same run as a call, without compaction; rows that have ended repeat their last values.
        """
        search = _search(self, model, x, labels, keys)

        def step(state: _State, last: tuple[jax.Array, jax.Array]) -> tuple[_State, tuple[jax.Array, ...]]:
            live = search.live(state)
            moved, met = _stepped(self, model, state)
            return rows_where(live, moved, state), rows_where(live, met, last)

        def body(carry: Any, _: None) -> tuple[Any, Any]:
            carry = step(*carry)
            return carry, carry[1]

        rows = x.shape[0]
        nothing = (jnp.full(rows, -jnp.inf, jnp.float32), jnp.zeros(rows, bool))
        (last, _), (losses, success) = lax.scan(
            body, varying_alike((search.first, nothing)), None, length=search.runs * (self.steps + 1)
        )
        return Trace(last.best.x, losses, success)

    def reaches(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> jax.Array:
        """Return bool [B]: whether an iterate of the :meth:`trace` succeeds.

        The run ends as soon as every row has had a success.
        """
        search = _search(self, model, x, labels, keys)

        def unfinished(carry: tuple[_State, jax.Array, jax.Array]) -> jax.Array:
            _, met, taken = carry
            return (taken < search.runs * (self.steps + 1)) & ~jnp.all(met)

        def body(carry: tuple[_State, jax.Array, jax.Array]) -> tuple[_State, jax.Array, jax.Array]:
            state, met, taken = carry
            moved, (_, success) = _stepped(self, model, state)
            live = search.live(state)
            return rows_where(live, moved, state), met | (live & success), taken + 1

        nobody = jnp.zeros(x.shape[0], bool)
        met: jax.Array = lax.while_loop(
            unfinished, body, varying_alike((search.first, nobody, jnp.int32(0)))
        )[1]
        return met


class _Search(NamedTuple):
    """The start of all runs, and when a row ends."""

    first: "_State"
    live: Callable[["_State"], jax.Array]
    runs: int
    forwards: float  # before the first step
    chosen: int  # gradients that choose the aims


def _search(attack: APGD, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> _Search:
    """Return the state before the first gradient."""
    streams = split_keys(keys)
    rows = x.shape[0]
    aims, forwards, chosen = None, 0.0, 0
    if attack.aims:
        asked = at_steps(model, streams.model, _zeros(rows))
        forwards = 1.0
        if attack.nearest:
            aims = nearest_wrong(asked, x, labels, attack.aims, attack.norm)
            chosen = min(classes_of(model, x), POOL + 1)
        else:
            aims = likeliest_wrong(asked, x, labels, attack.aims)[0]
    clean_layers = clean_activations(attack.loss, at_steps(model, streams.model, _zeros(rows)), x)
    forwards += float(clean_layers is not None)
    runs = attack.restarts * (1 if aims is None else aims.shape[1])
    clean = x.astype(jnp.float32)
    eps = jnp.broadcast_to(jnp.asarray(attack.eps, jnp.float32), (rows, 1, 1, 1))
    nothing = Best(x, jnp.zeros(rows, bool), jnp.full(rows, -jnp.inf, jnp.float32))
    first = _State(
        x=x, labels=labels, eps=eps, aims=aims, keys=streams.attack, model_keys=streams.model,
        clean_layers=clean_layers,
        run=_zeros(rows), gradients=_zeros(rows), best=nothing,
        climb=_begin(attack, clean, eps, streams.attack, _zeros(rows)),
    )  # fmt: skip

    def live(state: _State) -> jax.Array:
        left = state.run < runs
        return left & ~state.best.success if attack.stops else left

    return _Search(first, live, runs, forwards, chosen)


class _Climb(NamedTuple):
    """One run of every row; images are float32, before rounding to the dtype of the clean ones."""

    x: Images  # point of the next gradient
    before: Images  # previous iterate
    moves: jax.Array  # int32 [B] in this run
    size: jax.Array  # float32 [B], step size
    loss: jax.Array  # of the last iterate
    rises: jax.Array  # int32 [B], since the last checkpoint
    best_x: Images  # of this run
    best_gradient: Images
    best_loss: jax.Array
    best_at_check: jax.Array  # best_loss at the last checkpoint
    halved: jax.Array  # bool [B], at the last checkpoint


class _State(NamedTuple):
    x: Images
    labels: Labels
    eps: jax.Array  # float32 [B, 1, 1, 1]
    aims: jax.Array | None  # int [B, k]: target classes
    keys: Keys | None
    model_keys: Keys | None
    clean_layers: Activations | None  # activations at x, for a loss that uses them
    run: jax.Array  # int32 [B]
    gradients: jax.Array  # int32 [B]
    best: Best  # of all runs
    climb: _Climb


def checkpoints(steps: int) -> dict[int, int]:
    """Return the checkpoints of a run, each with the number of moves since the last one."""
    span, shrink, least = max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    found, at = {}, span
    while at <= steps:
        found[at] = span
        span = max(span - shrink, least)
        at += span
    return found


def _zeros(rows: int) -> jax.Array:
    return jnp.zeros(rows, jnp.int32)


def _begin(attack: APGD, clean: Images, eps: jax.Array, keys: Keys | None, run: jax.Array) -> _Climb:
    """Return the state of rows before the first gradient of their runs."""
    own = None if keys is None else jax.vmap(jax.random.fold_in)(keys, run)
    x_0 = attack.start(own, clean, eps, attack.norm).astype(jnp.float32)
    rows = clean.shape[0]
    lowest = jnp.full(rows, -jnp.inf, jnp.float32)
    return _Climb(
        x=x_0, before=x_0, moves=_zeros(rows),
        size=2.0 * eps.reshape(rows),
        loss=lowest, rises=_zeros(rows), best_x=x_0, best_gradient=jnp.zeros_like(x_0), best_loss=lowest,
        best_at_check=lowest, halved=jnp.ones(rows, bool),
    )  # fmt: skip


def _stepped(attack: APGD, model: Classifier, state: _State) -> tuple[_State, tuple[jax.Array, jax.Array]]:
    """Return the state after one more gradient of every row, and the loss and success of its iterate."""
    labels, x = state.labels, state.x
    sign = -1.0 if attack.targeted else 1.0
    if state.aims is not None:
        number = (state.run % state.aims.shape[1])[:, None]
        aim = jnp.take_along_axis(state.aims, number, axis=1)[:, 0]
    asked = at_steps(model, state.model_keys, state.gradients)

    def objective(point: Images) -> tuple[jax.Array, Any]:
        logits = open_logits(asked, asked(point.astype(x.dtype)), labels, targeted=attack.targeted)
        success = succeeded(logits, labels, targeted=attack.targeted)
        if state.aims is None:
            values = loss_at(attack.loss, asked, point.astype(x.dtype), logits, labels, state.clean_layers)
            loss = (sign * values).astype(jnp.float32)
            rank = ranked(loss, logits)
            return loss, (success, rank, rank)
        loss = attack.aimed(logits, labels, aim).astype(jnp.float32)
        return loss, (success, ranked(loss, logits), ranked(max_margin(logits, labels), logits))

    climb = state.climb
    stored = stored_in_ball(climb.x, x, state.eps, attack.norm)
    _, (success, loss, score), gradient = value_and_gradient(objective, at_least_float32(stored))
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    climb, gradient = _looked_back(attack, _noted(climb, loss, gradient), gradient)
    clean = x.astype(jnp.float32)
    state = state._replace(
        best=better(state.best, stored, success, score),
        gradients=state.gradients + 1,
        climb=_moved(attack.norm, clean, state.eps, climb, gradient),
    )
    ended = state.climb.moves > attack.steps
    run = state.run + ended.astype(jnp.int32)

    def next_runs() -> _Climb:
        return rows_where(ended, _begin(attack, clean, state.eps, state.keys, run), state.climb)

    state = state._replace(run=run, climb=lax.cond(jnp.any(ended), next_runs, lambda: state.climb))
    return state, (loss, success)


def _noted(climb: _Climb, loss: jax.Array, gradient: Images) -> _Climb:
    """Return the run updated with loss and success of its iterate."""
    takes = loss > climb.best_loss  # never a NaN
    rises = climb.rises + ((loss > climb.loss) & (climb.moves > 0)).astype(jnp.int32)
    found = climb._replace(
        loss=loss, rises=rises,
        best_x=jnp.where(per_row(takes), climb.x, climb.best_x),
        best_gradient=jnp.where(per_row(takes), gradient, climb.best_gradient),
        best_loss=jnp.where(takes, loss, climb.best_loss),
    )  # fmt: skip
    first = climb.moves == 0
    return found._replace(best_at_check=jnp.where(first, found.best_loss, climb.best_at_check))


def _looked_back(attack: APGD, climb: _Climb, gradient: Images) -> tuple[_Climb, Images]:
    """Return the run and its gradient after a checkpoint; rows at no checkpoint are unchanged."""
    spans = np.zeros(attack.steps + 2, np.int32)
    for at, moves in checkpoints(attack.steps).items():
        spans[at] = moves
    span = jnp.asarray(spans)[climb.moves]
    due = span > 0
    few = climb.rises.astype(jnp.float32) <= attack.rho * span.astype(jnp.float32)
    stuck = ~climb.halved & (climb.best_loss <= climb.best_at_check)
    halves = due & (few | stuck)
    return climb._replace(
        x=jnp.where(per_row(halves), climb.best_x, climb.x),
        loss=jnp.where(halves, climb.best_loss, climb.loss),
        size=jnp.where(halves, climb.size / 2, climb.size),
        rises=jnp.where(due, 0, climb.rises),
        best_at_check=jnp.where(due, climb.best_loss, climb.best_at_check),
        halved=jnp.where(due, halves, climb.halved),
    ), jnp.where(per_row(halves), climb.best_gradient, gradient)


def _moved(norm: str, clean: Images, eps: jax.Array, climb: _Climb, gradient: Images) -> _Climb:
    """Return the run at its next iterate."""
    step = per_row(climb.size) * steepest(gradient, norm)
    ahead = project(climb.x + step, clean, eps, norm)
    share = per_row(jnp.where(climb.moves == 0, 1.0, MOMENTUM))
    mixed = climb.x + share * (ahead - climb.x) + (1.0 - share) * (climb.x - climb.before)
    after = project(mixed, clean, eps, norm)
    return climb._replace(x=after, before=climb.x, moves=climb.moves + 1)
