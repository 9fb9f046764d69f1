"""VMI-FGSM: the momentum method with variance tuning, for images that transfer to other models."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.ascent import ascend
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm, uniform_in_unit_ball
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.parts import Momentum, at_input
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class VMIFGSM(Struct):
    """U-MI-FGSM along gradients that are corrected by the mean gradient around the last iterate.

        g <- decay g + (grad + v) / ||grad + v||_1,   x_{i+1} = project(x_i + step_size sign(g))
        v <- 1/neighbours sum_k grad(x_i + beta eps r_k) - grad,   r_k uniform in the unit ball, v_0 = 0

    Returns the best iterate of each row.  Neighbours are clipped to the box.  With beta 0 this is U-MI-FGSM.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        step_size: length of a step in ``norm``; likewise.
        steps: number of steps, static.
        decay: share of the momentum kept at each step.
        neighbours: number of gradients around each iterate, static.
        beta: radius of the neighbourhood, in units of eps.
        norm: "linf" or "l2", static.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.

    References:
        Wang and He, "Enhancing the Transferability of Adversarial Attacks through Variance Tuning", CVPR
        2021, arXiv:2103.15571.
    """

    eps: Scalar = 0.3
    step_size: Scalar = 0.05
    steps: int = static(15, check=count)
    decay: Scalar = 1.0
    neighbours: int = static(20, check=count)
    beta: Scalar = 1.5
    norm: Norm = static("linf", check=norm_of())
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="VMI-FGSM",
        title="Momentum iterative method with variance tuning",
        reference="Wang and He, CVPR 2021, arXiv:2103.15571",
        goal="untargeted",
        kind="budget",
    )
    needs_key: ClassVar[bool] = True
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        usual = of_steps(self.steps, self.loss)
        more = self.steps * self.neighbours if self.steps > 1 else 0
        return Cost(usual.forwards, usual.gradients + more)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return ascend(
            model, x, labels, keys,
            eps=self.eps, step_size=self.step_size, steps=self.steps, norm=self.norm,
            targeted=self.targeted, loss=self.loss, start=at_input, rule=Momentum(self.decay),
            refine=VarianceTuning(self.neighbours, self.beta),
        )  # fmt: skip


class VarianceTuning(Struct):
    """Adds to each gradient the mean one around the last iterate minus the one at it."""

    neighbours: int = static(20, check=count)
    beta: Scalar = 1.5

    def init(self, x: Images) -> Images:
        """Return no correction."""
        return jnp.zeros_like(x)

    def update(
        self, gradient: Images, gradient_of: Callable[[jax.Array | int, Images], Images], x: Images,
        keys: Keys | None, eps: Scalar, norm: str, state: Images,
    ) -> tuple[Images, Images]:  # fmt: skip
        """Return the corrected gradient and the next correction."""
        assert keys is not None, "the attack needs a key"

        def add(number: jax.Array, total: Images) -> Images:
            drawn = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
            noise = uniform_in_unit_ball(drawn, x.shape[1:], norm)
            return total + gradient_of(number, jnp.clip(x + self.beta * eps * noise, min=0.0, max=1.0))

        total = lax.fori_loop(0, self.neighbours, add, jnp.zeros_like(gradient))
        return gradient + state, total / self.neighbours - gradient
