"""CW2: Carlini and Wagner's L2 attack."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import at_step, split_keys
from deepsec_jax.attacks.best_so_far import as_stored, at_steps, reached, shortfall, squared_l2
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.constant_search import (
    Problem,
    Progress,
    first_problem,
    search_constant,
    starting_images,
)
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.attacks.tanh_space import AdamState, adam_start, adam_step, from_tanh, to_tanh
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, positive
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class CW2(Struct):
    """The closest image in L2 that reaches the goal by a margin of ``confidence``.

        minimise over w   ||x_adv - x||_2^2 + c max(shortfall(z(x_adv)) + confidence, 0),
        x_adv = (tanh(w) + 1) / 2

    by Adam, for ``search_steps`` values of c per example: times ten until one succeeds, then by bisection.
    Returns the closest success of all iterates, or the clean image.  At most search_steps x steps gradients
    per example, and one forward.

    Attributes:
        confidence: required margin of the logits beyond the decision boundary (kappa).
        learning_rate: Adam's, in tanh space.
        c: first constant; with c above 50 a run starts half-way to grey, not at the clean image.
        search_steps: number of constants, static.
        steps: Adam steps per constant, static.
        abort_early: end a run that improves by less than 0.01 % over a tenth of its steps, static.
        targeted: ``labels`` are targets to reach, static.

    References:
        Carlini, Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, arXiv:1608.04644.
    """

    confidence: Scalar = 0.0
    learning_rate: Scalar = 0.02
    c: Scalar = field(0.001, check=positive)
    search_steps: int = static(9, check=count)
    steps: int = static(1000, check=count)
    abort_early: bool = static(True)
    targeted: bool = static(False)

    card: ClassVar[Card] = Card(
        name="CW2",
        title="Carlini and Wagner's L2 attack",
        reference="Carlini and Wagner, S&P 2017, arXiv:1608.04644",
        goal="targeted",
        kind="minimum-norm",
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return Cost(1.0, float(self.search_steps * self.steps), exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        streams = split_keys(keys)
        clean = open_logits(model, at_step(model, streams.model, 0)(x), labels, targeted=self.targeted)
        solved = reached(clean, labels, targeted=self.targeted, confidence=self.confidence)
        (best,), calls = search_constant(
            _Descent(self, model),
            first_problem(x, labels, streams.model, self.c),
            solved,
            search_steps=self.search_steps, steps=self.steps, abort_early=self.abort_early,
        )  # fmt: skip
        gradients = calls.astype(jnp.float32)
        return Counted(best.x, jnp.ones_like(gradients), gradients)


class _Descent(NamedTuple):
    attack: CW2
    model: Classifier

    def start(self, problem: Problem) -> AdamState:
        return adam_start(to_tanh(starting_images(problem)))

    def advance(self, state: AdamState, problem: Problem) -> Progress:
        attack, x, labels = self.attack, problem.x, problem.labels
        model = at_steps(self.model, problem.model_keys, problem.calls)

        def objective(w: Images) -> tuple[jax.Array, tuple[Images, jax.Array, jax.Array]]:
            x_adv = as_stored(from_tanh(w), x)
            distance = squared_l2(x_adv.astype(jnp.float32) - x.astype(jnp.float32))
            logits = open_logits(model, model(x_adv), labels, targeted=attack.targeted)
            hinge = jnp.maximum(shortfall(logits, labels, targeted=attack.targeted) + attack.confidence, 0.0)
            success = reached(logits, labels, targeted=attack.targeted, confidence=attack.confidence)
            return distance + problem.c * hinge, (x_adv, success, distance)

        state, values, (x_adv, success, distance) = adam_step(state, objective, attack.learning_rate)
        return Progress(state, x_adv, success, (distance,), values, jnp.zeros_like(success))
