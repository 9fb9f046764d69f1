"""BIM: the basic iterative method."""

from typing import ClassVar

from deepsec_jax.attacks.ascent import ascend
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.parts import Steepest, at_input
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class BIM(Struct):
    """FGSM in small steps, each projected back to the eps-ball and the box.

        x_0 = x,   x_{i+1} = project(x_i + step_size sign(grad loss(x_i, y)))

    Returns the best iterate of each row (see :func:`deepsec_jax.attacks.ascent.ascend`); ``steps``
    gradients and one forward per example, one gradient and no forward if ``steps`` is 1 (then it is FGSM).

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        step_size: length of a step in ``norm``; likewise.
        steps: number of steps, static.
        norm: "linf", or "l2" (steps along g / ||g||_2), static.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.

    References:
        Kurakin, Goodfellow, Bengio, "Adversarial Examples in the Physical World", ICLR workshop 2017,
        arXiv:1607.02533.
    """

    eps: Scalar = 0.3
    step_size: Scalar = 0.05
    steps: int = static(15, check=count)
    norm: Norm = static("linf", check=norm_of())
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="BIM",
        title="Basic iterative method",
        reference="Kurakin et al., ICLR workshop 2017, arXiv:1607.02533",
        goal="untargeted",
        kind="budget",
        stronger_than=("fgsm", "illc"),
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return of_steps(self.steps, self.loss)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return ascend(
            model, x, labels, keys,
            eps=self.eps, step_size=self.step_size, steps=self.steps, norm=self.norm,
            targeted=self.targeted, loss=self.loss, start=at_input, rule=Steepest(),
        )  # fmt: skip
