"""Within: a minimum-norm attack as an attack with a budget."""

from typing import ClassVar

import jax.numpy as jnp

from deepsec_jax.attacks.balls import BALLS, size_of
from deepsec_jax.attacks.best_so_far import per_row
from deepsec_jax.attacks.call import attack_call, call_and_count
from deepsec_jax.attacks.cost import Cost, Counted, cost
from deepsec_jax.attacks.fields import an_attack, norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32
from deepsec_jax.field_checks import not_negative
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class Within(Struct):
    """Return an attack's image if it is within eps, and the clean image otherwise.

    Attributes:
        attack: any attack, such as ``FAB(norm="linf")``.
        eps: largest distance, a number, or one per image, [B].
        norm: "l0", "l1", "l2" or "linf", static.
    """

    attack: Attack = field(check=an_attack)
    eps: Scalar = field(0.3, check=not_negative)
    norm: Norm = static("linf", check=norm_of(*BALLS))

    version: ClassVar[int] = 1

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets, as for the inner attack."""
        return bool(getattr(self.attack, "targeted", False))

    @property
    def needs_key(self) -> bool:
        """Whether the inner attack draws random numbers."""
        return bool(getattr(self.attack, "needs_key", False))

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the inner attack's targets."""
        return self.attack.targets(model, x, labels, key=key)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        return cost(self.attack, classes=classes, entries=entries)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images | Counted:
        x_adv, counted = call_and_count(self.attack, model, x, labels, key=keys)
        size = per_row(size_of(at_least_float32(x_adv) - at_least_float32(x), self.norm))
        kept = jnp.where(size <= jnp.asarray(self.eps).astype(size.dtype), x_adv, x)
        return kept if counted is None else counted._replace(x=kept)
