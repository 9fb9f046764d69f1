"""FGSM: the fast gradient sign method."""

from typing import ClassVar

from deepsec_jax.attacks.ascent import ascend
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.parts import Steepest, at_input
from deepsec_jax.catalog import Card
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class FGSM(Struct):
    """One step of length eps along the sign of the gradient.

        x_adv = clip(x + eps sign(grad loss(x, y)), 0, 1)

    One gradient per example.  The loss is the logit gap, which has cross-entropy's direction without its
    float32 saturation.  DEEPSEC's plain cross-entropy lost half of this attack's strength on MNIST.

    Attributes:
        eps: L-inf radius, in units of the [0, 1] pixel range; a number, or one per image, [B].
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.

    References:
        Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
        arXiv:1412.6572.
    """

    eps: Scalar = 0.3
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="FGSM",
        title="Fast gradient sign method",
        reference="Goodfellow et al., ICLR 2015, arXiv:1412.6572",
        goal="untargeted",
        kind="budget",
        stronger_than=("llc",),
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return of_steps(1, self.loss)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return ascend(
            model, x, labels, keys,
            eps=self.eps, step_size=self.eps, steps=1, norm="linf",
            targeted=self.targeted, loss=self.loss, start=at_input, rule=Steepest(),
        )  # fmt: skip
