"""AutoAttack: four attacks in sequence, each on the images that are not fooled yet."""

from typing import ClassVar

from deepsec_jax.attacks.apgd import APGD
from deepsec_jax.attacks.apgd_l1 import APGDL1
from deepsec_jax.attacks.basinhopping import BasinHopping
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.cascade import Cascade
from deepsec_jax.attacks.cost import Cost
from deepsec_jax.attacks.fab import FAB
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm
from deepsec_jax.attacks.losses import Loss, dlr, margin_to, max_margin
from deepsec_jax.attacks.parts import at_input
from deepsec_jax.attacks.per_image import one_per_row
from deepsec_jax.attacks.square import Square
from deepsec_jax.attacks.within import Within
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, one_of
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static

VERSIONS = ("standard", "plus", "rand", "fast")

FAST_AIMS = 5
"""Number of target classes of ``fast``, the nearest ones."""

HOPS = 150
"""Climbs of basin hopping in ``plus``, of 20 gradients each."""


class AutoAttack(Struct):
    """The standard reference for robust accuracy: no step size to choose, several losses.

    ``standard``: APGD on the cross-entropy's direction, APGD towards each of nine wrong classes on the DLR,
    FAB towards nine wrong classes, Square with 5,000 queries.  ``plus`` adds restarts, untargeted DLR
    and, in L-inf and L2, basin hopping from the best image of APGD towards the nearest classes.
    ``rand``, for randomised models: APGD on two losses; wrap the model in ``EOT`` to average draws. ``fast``,
    a third of ``standard``'s gradients: APGD on the cross-entropy's direction from the clean image; APGD on
    the margin towards each of the five nearest classes (MALT); Square from its best image. With
    fewer than three classes max-margin replaces the untargeted DLR.

    In L1 the ascents are those of :class:`~deepsec_jax.attacks.APGDL1`, with five restarts in ``standard``.
    There is no Square in L1.

    Each attack runs on the rows where the previous ones failed (:class:`~deepsec_jax.attacks.Cascade`), and
    starts from the clean image.  A row keeps the first success; if all fail, the image with the largest
    margin.

    Differences from the reference code: noise is drawn per image, so results do not depend on the batch;
    Square's windows reach every pixel; the cross-entropy does not saturate.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        norm: "linf", "l2" or "l1", static.
        version: of :data:`VERSIONS`, static.
        queries: of Square, static.
        steps: of each run of APGD and FAB, static; five times those of a climb of basin hopping.

    References:
        Croce, Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks", ICML 2020, arXiv:2003.01690.
    """

    eps: Scalar = 0.3
    norm: Norm = static("linf", check=norm_of("linf", "l2", "l1"))
    version: str = static("standard", check=one_of(*VERSIONS))
    queries: int = static(5000, check=count)
    steps: int = static(100, check=count)

    needs_key: ClassVar[bool] = True
    made_of: ClassVar[tuple[type, ...]] = (APGD, APGDL1, BasinHopping, FAB, Square, Within, Cascade)
    card: ClassVar[Card] = Card(
        name="AA",
        title="AutoAttack: APGD, FAB and Square in sequence",
        reference="Croce, Hein, ICML 2020, arXiv:2003.01690",
        goal="untargeted",
        kind="budget",
        version=2,
    )

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def members(self, classes: int) -> tuple[Attack, ...]:
        """Return the attacks in their order.

        Args:
            classes: number of the model's classes.
        """
        ratio = dlr if classes >= 3 else max_margin
        if self.norm == "l1":
            return self._members_in_l1(ratio)
        apgd = APGD(eps=self.eps, norm=self.norm, steps=self.steps)
        aimed = apgd.replace(aims=9)
        fab = FAB(norm=self.norm, radius=self.eps, steps=self.steps)
        square = Square(eps=self.eps, norm=self.norm, queries=self.queries)
        if self.version == "rand":
            return apgd, apgd.replace(loss=ratio)
        near = apgd.replace(aims=FAST_AIMS, nearest=True, aimed=margin_to)
        if self.version == "fast":
            return apgd.replace(start=at_input), square.replace(start=near)
        if self.version == "standard":
            return apgd, aimed, self._within(fab), square
        five = self._within(fab.replace(aims=1, restarts=5))
        hopping = BasinHopping(
            eps=self.eps, norm=self.norm, hops=HOPS, steps=max(1, self.steps // 5), start=near
        )
        return (
            apgd.replace(restarts=5), apgd.replace(restarts=5, loss=ratio), five, square, aimed,
            self._within(fab), hopping,
        )  # fmt: skip

    def _members_in_l1(self, ratio: Loss) -> tuple[Attack, ...]:
        apgd = APGDL1(eps=self.eps, steps=self.steps)
        fab = self._within(FAB(norm="l1", radius=self.eps, steps=self.steps))
        if self.version == "rand":
            return apgd, apgd.replace(loss=ratio)
        near = apgd.replace(aims=FAST_AIMS, nearest=True, aimed=margin_to)
        if self.version == "fast":
            return apgd, near
        several = apgd.replace(restarts=5), apgd.replace(restarts=5, loss=ratio)
        return (
            (several[0], apgd.replace(aims=5), fab) if self.version == "standard" else (*several, near, fab)
        )

    def _within(self, attack: FAB) -> Within:
        return Within(attack, self.eps, self.norm)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        return Cascade(self.members(classes)).cost(classes, entries)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        attack = one_per_row(self)
        x_adv: Images = Cascade(attack.members(classes_of(model, x)))(model, x, labels, key=keys)
        return x_adv
