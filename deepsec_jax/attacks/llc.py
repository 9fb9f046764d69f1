"""LLC: one sign step to the least likely class."""

from typing import ClassVar

from deepsec_jax.attacks.ascent import ascend
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.least_likely import least_likely_class, least_likely_targets
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.parts import Steepest, at_input
from deepsec_jax.catalog import Card
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class LLC(Struct):
    """One sign step towards the class that the model finds least likely on the clean image.

        x_adv = clip(x - eps sign(grad loss(x, y_LL)), 0, 1)

    ``labels`` are the TRUE classes and are not used: the target is argmin_j z_j(x), computed here.

    Attributes:
        eps: L-inf radius, in units of the [0, 1] pixel range; a number, or one per image, [B].
        loss: loss to maximise towards the target, or its name, static.

    References:
        Kurakin, Goodfellow, Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
    """

    eps: Scalar = 0.3
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="LLC",
        title="One sign step to the least likely class",
        reference="Kurakin et al., ICLR 2017, arXiv:1611.01236",
        goal="targeted",
        kind="budget",
    )
    targets = least_likely_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return of_steps(1, self.loss).with_forwards(1)  # for the least likely class

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        target = least_likely_class(model, x)
        return ascend(
            model, x, target, keys,
            eps=self.eps, step_size=self.eps, steps=1, norm="linf",
            targeted=True, loss=self.loss, start=at_input, rule=Steepest(),
        )  # fmt: skip
