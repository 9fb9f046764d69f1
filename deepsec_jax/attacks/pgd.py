"""PGD: projected gradient descent from a random start."""

from typing import ClassVar

from deepsec_jax.attacks.ascent import Trace, ascend, climb
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, of_steps
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm
from deepsec_jax.attacks.losses import Loss, find_loss, logit_gap
from deepsec_jax.attacks.parts import Start, Steepest, StepRule, a_rule, at_input, in_ball
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, function
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class PGD(Struct):
    """BIM from a uniform random point of the ball; every part can be replaced.

        x_0 ~ U(ball),   x_{i+1} = project(x_i + step_size sign(grad loss(x_i, y)))

    Returns the best iterate of each row (see :func:`deepsec_jax.attacks.ascent.ascend`).  Several
    starts: ``Restarts(PGD(...), n=10)``.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        step_size: length of a step in ``norm``; likewise.
        steps: number of steps, static.
        norm: "linf" or "l2", static.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name (:mod:`deepsec_jax.attacks.losses`), static.
        start: returns the first iterate (:mod:`deepsec_jax.attacks.parts`), static; with ``at_input`` this is
            BIM and needs no key.
        rule: converts a gradient to a step, a pytree: ``Steepest()``, ``Momentum(decay)``, ``Cosine(steps,
            rule)``, ``Optax(...)``.

    References:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
        arXiv:1706.06083.
    """

    eps: Scalar = 0.3
    step_size: Scalar = 0.05
    steps: int = static(15, check=count)
    norm: Norm = static("linf", check=norm_of())
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=find_loss)
    start: Start = static(in_ball, check=function)
    rule: StepRule = field(default_factory=Steepest, check=a_rule)

    card: ClassVar[Card] = Card(
        name="PGD",
        title="Projected gradient descent from a random start",
        reference="Madry et al., ICLR 2018, arXiv:1706.06083",
        goal="untargeted",
        kind="budget",
        stronger_than=("fgsm", "rfgsm", "bim", "uap"),
    )
    targets = label_targets

    @property
    def needs_key(self) -> bool:
        """Whether the start is random."""
        return self.start is not at_input

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return of_steps(self.steps, self.loss)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        return ascend(
            model, x, labels, keys,
            eps=self.eps, step_size=self.step_size, steps=self.steps, norm=self.norm,
            targeted=self.targeted, loss=self.loss, start=self.start, rule=self.rule,
        )  # fmt: skip

    def trace(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Trace:
        """Return the images with the loss and success of every iterate; see :mod:`~.indicators`."""
        return climb(
            model, x, labels, keys, self.eps, self.step_size, self.steps, self.norm, self.targeted,
            self.loss, self.start, self.rule, traced=True,
        )  # fmt: skip
