"""EAD: the elastic-net attack, for sparse and small changes."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.ascent import at_step, split_keys
from deepsec_jax.attacks.best_so_far import (
    Closest,
    as_stored,
    at_steps,
    per_row,
    reached,
    shortfall,
    squared_l2,
)
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.constant_search import Problem, Progress, first_problem, search_constant
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.gradient import forward, value_and_gradient
from deepsec_jax.attacks.pruning import prune
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, integer, one_of, positive
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static

RULES = ("en", "l1")


class EAD(Struct):
    """The closest image in elastic-net or L1 distance that reaches the goal by ``confidence``.

        minimise   c max(shortfall(z(x_adv)) + confidence, 0) + ||delta||_2^2 + beta ||delta||_1

    by FISTA in the box: a gradient step on the smooth part at the extrapolated point y, then shrinking:
    changes of at most beta are set to 0, the others are reduced by beta.  The step size decreases as sqrt(1 -
    i / steps), as in the authors' code.

    c is searched as in CW2.  After a success the next runs start where that run ended.  A run that cannot
    leave the clean image ends at once.  With the steps saved by early ends a final run follows: the last
    ``settle`` steps of a run, down to step size 0, with the smallest c that succeeded.  Finally the smallest
    changes of the closest image are undone, as many as possible (``attacks/pruning.py``).

    The decision rule only selects the closest success, so one run serves both rules: :func:`both_rules`.  At
    most search_steps x steps gradients per example, as many forwards, and one for the clean image and
    ``pruning`` at the end.

    Attributes:
        confidence: required margin of the logits beyond the decision boundary (kappa).
        beta: weight of the L1 distance, and the threshold of shrinking.
        learning_rate: first step size.
        c: first constant.
        rule: ``en`` keeps the smallest ||delta||_2^2 + beta ||delta||_1, ``l1`` the smallest ||delta||_1,
            static.
        search_steps: number of constants, static.
        steps: steps per constant, static.
        abort_early: end a run that improves by less than ``least_gain`` over a tenth of its steps, static.
        least_gain: share of the objective; 1e-4 in the authors' code.
        warm: start from the end of the last run; False starts every run from the clean image, as the authors,
            static.
        settle: maximum number of steps of the final run; 0 for none, as the authors, static.
        pruning: bisection steps for undoing small changes; 0 for none, as the authors, static.
        targeted: ``labels`` are targets to reach, static.

    References:
        Chen et al., "EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial Examples",
        AAAI 2018, arXiv:1709.04114.
    """

    confidence: Scalar = 0.0
    beta: Scalar = 0.001
    learning_rate: Scalar = 0.02
    c: Scalar = field(0.001, check=positive)
    rule: str = static("en", check=one_of(*RULES))
    search_steps: int = static(9, check=count)
    steps: int = static(1000, check=count)
    abort_early: bool = static(True)
    least_gain: Scalar = 1e-6
    warm: bool = static(True)
    settle: int = static(100, check=integer(0))
    pruning: int = static(10, check=integer(0))
    targeted: bool = static(False)

    card: ClassVar[Card] = Card(
        name="EAD",
        title="Elastic-net attack",
        reference="Chen et al., AAAI 2018, arXiv:1709.04114",
        goal="targeted",
        kind="minimum-norm",
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        steps = float(self.search_steps * self.steps)  # settling spends only what early ends have saved
        return Cost(1.0 + steps + self.pruning, steps, exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        records, calls = _search(self, model, x, labels, keys)
        found, trials = _pruned(self, model, x, labels, keys, records[RULES.index(self.rule)], calls)
        steps = calls.astype(jnp.float32)
        return Counted(found, 1.0 + steps + trials, steps)


class BothRules(NamedTuple):
    """The images of the two decision rules, from one run."""

    en: Images
    l1: Images


def both_rules(
    attack: EAD, model: Classifier, x: Images, labels: Labels, *, keys: Keys | None = None
) -> BothRules:
    """Return the results of ``attack`` under both rules, at the cost of one attack and ``pruning`` forwards.

    Traceable, but not compiled: wrap it in ``jax.jit`` (the attack and the model are arguments).

    Args:
        attack: the attack; its own rule is ignored.
        model: a classifier in evaluation mode.
        x: clean images [B, H, W, C].
        labels: true classes, or targets if ``attack.targeted`` [B].
        keys: one key per row for a randomised model.
    """
    labels = as_labels(labels)
    records, calls = _search(attack, model, x, labels, keys)
    return BothRules(*(_pruned(attack, model, x, labels, keys, each, calls)[0] for each in records))


def _search(
    attack: EAD, model: Classifier, x: Images, labels: Labels, keys: Keys | None
) -> tuple[tuple[Closest, ...], jax.Array]:
    streams = split_keys(keys)
    clean = open_logits(model, at_step(model, streams.model, 0)(x), labels, targeted=attack.targeted)
    solved = reached(clean, labels, targeted=attack.targeted, confidence=attack.confidence)
    return search_constant(
        _Shrinkage(attack, model),
        first_problem(x, labels, streams.model, attack.c),
        solved,
        rules=len(RULES),
        search_steps=attack.search_steps, steps=attack.steps, abort_early=attack.abort_early,
        least_gain=attack.least_gain, warm=attack.warm, settle=attack.settle,
    )  # fmt: skip


def _pruned(
    attack: EAD,
    model: Classifier,
    x: Images,
    labels: Labels,
    keys: Keys | None,
    record: Closest,
    calls: jax.Array,
) -> tuple[Images, jax.Array]:
    """Return the record's images after undoing small changes, and the forwards of each row."""

    def success(x_adv: Images, rows: tuple[Labels, Keys | None, jax.Array]) -> jax.Array:
        labels, keys, calls = rows
        logits = forward(at_steps(model, keys, calls), x_adv)
        logits = open_logits(model, logits, labels, targeted=attack.targeted)
        return reached(logits, labels, targeted=attack.targeted, confidence=attack.confidence)

    streams = split_keys(keys)
    return prune(
        x, record.x, jnp.isfinite(record.distance), success, (labels, streams.model, calls), attack.pruning
    )


class _Points(NamedTuple):
    x: Images  # float32, the iterate
    y: Images  # float32, extrapolated along the last step


def shrink(z: Images, x: Images, beta: Scalar) -> Images:
    """Shrink ``z`` towards ``x`` by up to ``beta`` per entry, and clip it to [0, 1]."""
    moved = z - x
    return jnp.clip(x + jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - beta, 0.0), min=0.0, max=1.0)


class _Shrinkage(NamedTuple):
    attack: EAD
    model: Classifier

    def start(self, problem: Problem) -> _Points:
        clean = problem.x.astype(jnp.float32)
        return _Points(clean, clean)

    def advance(self, state: _Points, problem: Problem) -> Progress:
        attack, labels = self.attack, problem.labels
        clean = problem.x.astype(jnp.float32)
        model = at_steps(self.model, problem.model_keys, problem.calls)

        def hinge(logits: jax.Array) -> jax.Array:
            missing = shortfall(logits, labels, targeted=attack.targeted)
            return jnp.maximum(missing + attack.confidence, 0.0)

        def smooth(y: Images) -> tuple[jax.Array, None]:
            logits = open_logits(model, model(as_stored(y, problem.x)), labels, targeted=attack.targeted)
            return problem.c * hinge(logits) + squared_l2(y - clean), None

        _, _, gradient = value_and_gradient(smooth, state.y)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        i = problem.step.astype(jnp.float32)
        step_size = attack.learning_rate * jnp.sqrt(1.0 - i / attack.steps)
        x_next = shrink(state.y - per_row(step_size) * gradient, clean, attack.beta)
        y_next = x_next + per_row(i / (i + 3.0)) * (x_next - state.x)

        x_adv = as_stored(x_next, problem.x)
        logits = open_logits(model, forward(model, x_adv), labels, targeted=attack.targeted)
        success = reached(logits, labels, targeted=attack.targeted, confidence=attack.confidence)
        delta = x_adv.astype(jnp.float32) - clean
        l1 = jnp.sum(jnp.abs(delta), axis=(1, 2, 3))
        elastic = squared_l2(delta) + attack.beta * l1
        objective = problem.c * hinge(logits) + elastic
        # At the clean image a gradient too small to change any entry stays too small, since steps decrease.
        rests = jnp.all((state.y == clean) & (x_next == clean) & (y_next == clean), axis=(1, 2, 3))
        converged = rests if problem.model_keys is None else jnp.zeros_like(rests)
        return Progress(_Points(x_next, y_next), x_adv, success, (elastic, l1), objective, converged)
