"""Rounded: adversarial images that an image file can hold."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.cost import Cost, cost
from deepsec_jax.attacks.fields import an_attack
from deepsec_jax.attacks.geometry import at_least_float32
from deepsec_jax.field_checks import flag, integer
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import Struct, field, static

HAIR = 1e-4
"""Share of a level by which float32 may miss it."""


class Rounded(Struct):
    """Round an attack's images to the levels of uint8, so that saving them as PNG changes nothing.

        x + sign(delta) floor(255 |delta|) / 255,   delta = attack(x) - x

    No entry moves farther than the attack moved it, so the image stays in every ball around the clean one.
    A minimum-norm attack returns images just beyond the decision boundary; ``away`` rounds their changes up.
    The clean images must be on the levels themselves, as those read from uint8 are.

    Attributes:
        attack: the attack.
        away: round changes up instead of down, static.  The image may then leave the ball by one level.
        levels: number of levels, static; 256 for 8 bits.
    """

    attack: Attack = field(check=an_attack)
    away: bool = static(False, check=flag)
    levels: int = static(256, check=integer(2))

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
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        highest = self.levels - 1
        clean = at_least_float32(x)
        moved = highest * (at_least_float32(self.attack(model, x, labels, key=keys)) - clean)
        size = jnp.abs(moved)
        whole = jnp.ceil(size - HAIR) if self.away else jnp.floor(size + HAIR)
        level = jnp.clip(jnp.round(highest * clean) + jnp.sign(moved) * whole, min=0, max=highest)
        # A table, since a compiled division may round differently from NumPy, which reads the file.
        values = jnp.asarray(np.arange(self.levels, dtype=clean.dtype) / clean.dtype.type(highest))
        return jnp.where(whole > 0, values[level.astype(jnp.int32)], clean).astype(x.dtype)
