"""R+LLC: a random sign step, then one gradient sign step to the least likely class."""

from typing import ClassVar

from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.least_likely import least_likely_class, least_likely_targets
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.rfgsm import check_alpha, random_then_gradient
from deepsec_jax.catalog import Card
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class RLLC(Struct):
    """R+FGSM towards the class that the model finds least likely on the clean image.

        x' = clip(x + alpha sign(N(0, 1)), 0, 1)
        x_adv = clip(x' - (eps - alpha) sign(grad loss(x', y_LL)), 0, 1)

    ``labels`` are the TRUE classes and are not used: the target is argmin_j z_j(x), computed here.

    Attributes:
        eps: L-inf radius of both steps together; a number, or one per image, [B].
        alpha: length of the random step, at most eps; likewise.
        loss: loss to maximise towards the target, or its name, static.

    References:
        Kurakin, Goodfellow, Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
    """

    eps: Scalar = 0.3
    alpha: Scalar = 0.15
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="R+LLC",
        title="A random sign step, then one gradient sign step to the least likely class",
        reference="Kurakin et al., ICLR 2017, arXiv:1611.01236",
        goal="targeted",
        kind="budget",
    )
    needs_key: ClassVar[bool] = True
    targets = least_likely_targets

    def __post_init__(self) -> None:
        check_alpha(self)

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return of_steps(1, self.loss).with_forwards(1)  # for the least likely class

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        target = least_likely_class(model, x)
        return random_then_gradient(
            model, x, target, keys, eps=self.eps, alpha=self.alpha, targeted=True, loss=self.loss
        )
