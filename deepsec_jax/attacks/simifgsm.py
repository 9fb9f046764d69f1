"""SI-MI-FGSM: the momentum method over darker copies of the image, for images that transfer."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.ascent import ascend
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.parts import Momentum, at_input
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class SIMIFGSM(Struct):
    """U-MI-FGSM along the mean gradient of the loss over copies x, x/2, x/4 ... of the image.

        grad = 1/copies sum_k d/dx loss(x / 2^k),   k = 0 .. copies - 1

    Returns the best iterate of each row, by its loss without scaling.  With one copy this is U-MI-FGSM.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        step_size: length of a step in ``norm``; likewise.
        steps: number of steps, static.
        decay: share of the momentum kept at each step.
        copies: number of scaled copies, static.
        norm: "linf" or "l2", static.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.

    References:
        Lin et al., "Nesterov Accelerated Gradient and Scale Invariance for Adversarial Attacks", ICLR 2020,
        arXiv:1908.06281.
    """

    eps: Scalar = 0.3
    step_size: Scalar = 0.05
    steps: int = static(15, check=count)
    decay: Scalar = 1.0
    copies: int = static(5, check=count)
    norm: Norm = static("linf", check=norm_of())
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="SI-MI-FGSM",
        title="Momentum iterative method over scaled copies",
        reference="Lin et al., ICLR 2020, arXiv:1908.06281",
        goal="untargeted",
        kind="budget",
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        usual = of_steps(self.steps, self.loss)
        return Cost(usual.forwards, usual.gradients + self.steps * (self.copies - 1))

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return ascend(
            model, x, labels, keys,
            eps=self.eps, step_size=self.step_size, steps=self.steps, norm=self.norm,
            targeted=self.targeted, loss=self.loss, start=at_input, rule=Momentum(self.decay),
            refine=ScaledCopies(self.copies),
        )  # fmt: skip


class ScaledCopies(Struct):
    """Replaces a gradient by the mean over copies of the image, each half as bright as the one before."""

    copies: int = static(5, check=count)

    def init(self, x: Images) -> tuple[()]:
        """Return no state."""
        return ()

    def update(
        self, gradient: Images, gradient_of: Callable[[jax.Array | int, Images], Images], x: Images,
        keys: Keys | None, eps: Scalar, norm: str, state: tuple[()],
    ) -> tuple[Images, tuple[()]]:  # fmt: skip
        """Return the mean gradient; by the chain rule a copy's counts as little as the copy is bright."""
        del keys, eps, norm

        def add(number: jax.Array, total: Images) -> Images:
            scale = jnp.exp2(-jnp.asarray(number + 1, jnp.float32))
            return total + scale * gradient_of(number, scale * x)

        return lax.fori_loop(0, self.copies - 1, add, gradient) / self.copies, state
