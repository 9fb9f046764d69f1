"""Within: a minimum-norm attack as one with a budget."""

from typing import ClassVar

import jax.numpy as jnp

from deepsec_jax.attacks.balls import BALLS, size_of
from deepsec_jax.attacks.call import attack_call, check_hyperparameters, count_calls
from deepsec_jax.attacks.closest import Counted, per_row
from deepsec_jax.attacks.geometry import Norm, at_least_float32
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class Within(Struct):
    """Return an attack's image where it lies within eps, and the clean image where it does not.

    Attributes:
        attack: any attack, such as ``FAB(norm="linf")``.
        eps: largest distance, a number, or one per image, [B].
        norm: "l0", "l1", "l2" or "linf", static.
    """

    attack: Attack
    eps: Scalar = 0.3
    norm: Norm = static("linf")

    version: ClassVar[int] = 1

    norms = BALLS

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets, as for the inner attack."""
        return bool(getattr(self.attack, "targeted", False))

    @property
    def needs_key(self) -> bool:
        """As the inner attack."""
        return bool(getattr(self.attack, "needs_key", False))

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the inner attack's targets."""
        return self.attack.targets(model, x, labels, key=key)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images | Counted:
        counted = count_calls(self.attack, model, x, labels, key=keys)
        x_adv = self.attack(model, x, labels, key=keys) if counted is None else counted.x
        size = per_row(size_of(at_least_float32(x_adv) - at_least_float32(x), self.norm))
        kept = jnp.where(size <= jnp.asarray(self.eps).astype(size.dtype), x_adv, x)
        return kept if counted is None else counted._replace(x=kept)
