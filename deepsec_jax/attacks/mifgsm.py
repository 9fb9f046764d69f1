"""MI-FGSM: the momentum iterative method, untargeted (U-MI-FGSM) and targeted (T-MI-FGSM)."""

from typing import ClassVar

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


class UMIFGSM(Struct):
    """BIM along an accumulated gradient, which passes small local maxima.

        g <- decay g + grad / ||grad||_1,   x_{i+1} = project(x_i + step_size sign(g))

    Returns the best iterate of each row.  Each gradient is divided by its L1 norm, as its authors do and
    DEEPSEC's code does not.  With decay 0 this is BIM.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        step_size: length of a step in ``norm``; likewise.
        steps: number of steps, static.
        decay: share of the momentum kept at each step.
        norm: "linf" or "l2", static.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.

    References:
        Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv:1710.06081.
    """

    eps: Scalar = 0.3
    step_size: Scalar = 0.05
    steps: int = static(15, check=count)
    decay: Scalar = 1.0
    norm: Norm = static("linf", check=norm_of())
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="U-MI-FGSM",
        title="Momentum iterative fast gradient sign method, untargeted",
        reference="Dong et al., CVPR 2018, arXiv:1710.06081",
        goal="untargeted",
        kind="budget",
        stronger_than=("fgsm", "tmifgsm"),
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return of_steps(self.steps, self.loss)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return _climb(self, model, x, labels, keys)


class TMIFGSM(Struct):
    """The momentum method towards a target class: ``labels`` are the targets.

    Attributes and reference: see :class:`UMIFGSM`.
    """

    eps: Scalar = 0.3
    step_size: Scalar = 0.05
    steps: int = static(15, check=count)
    decay: Scalar = 1.0
    norm: Norm = static("linf", check=norm_of())
    targeted: bool = static(True)
    loss: Loss | str = static(logit_gap, check=find_loss)

    card: ClassVar[Card] = Card(
        name="T-MI-FGSM",
        title="Momentum iterative fast gradient sign method, targeted",
        reference="Dong et al., CVPR 2018, arXiv:1710.06081",
        goal="targeted",
        kind="budget",
    )
    targets = label_targets
    cost = UMIFGSM.cost

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return _climb(self, model, x, labels, keys)


def _climb(
    attack: UMIFGSM | TMIFGSM, model: Classifier, x: Images, labels: Labels, keys: Keys | None
) -> Images:
    return ascend(
        model, x, labels, keys,
        eps=attack.eps, step_size=attack.step_size, steps=attack.steps, norm=attack.norm,
        targeted=attack.targeted, loss=attack.loss, start=at_input, rule=Momentum(attack.decay),
    )  # fmt: skip
