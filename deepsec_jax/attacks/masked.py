"""Masked: an attack that may change only some entries, such as a patch of the image."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.cost import Cost, cost
from deepsec_jax.attacks.fields import an_attack
from deepsec_jax.attacks.per_image import at_rows
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels, Logits
from deepsec_jax.pytree import Struct, field


class Masked(Struct):
    """Let an attack change only the entries where ``mask`` is true.

        Masked(attack, mask)(model, x, labels) = attack(z -> model(where(mask, z, x)), x, labels)

    and entries outside the mask are unchanged.  The inner attack evaluates the model on images with clean
    entries outside the mask, so its successes are real.  It works for any attack.  Rows run separately inside
    ``vmap``: rows that finish early wait for the slowest one.

    Attributes:
        attack: the attack.
        mask: bool, [H, W], [H, W, 1] or [H, W, C] for all images, or one per image, [B, H, W, 1 or C].
            Inside :func:`deepsec_jax.attacks.run_in_batches` only a mask for all images fits every batch.
    """

    attack: Attack = field(check=an_attack)
    mask: jax.Array = field()

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
        mask = _for_each_image(jnp.asarray(self.mask), x.shape)

        def one(row: jax.Array, x: jax.Array, mask: jax.Array, label: jax.Array, key: Any) -> jax.Array:
            held = _Held(model, x, mask)
            keys = None if key is None else key[None]
            x_adv = at_rows(self.attack, row)(held, x[None], label[None], key=keys)[0]
            return jnp.where(mask, x_adv, x)

        return jax.vmap(one)(jnp.arange(x.shape[0]), x, mask, labels, keys)


class _Held(Struct):
    """The model of one image with clean entries outside the mask."""

    model: Classifier
    x: jax.Array  # [H, W, C]
    mask: jax.Array  # bool [H, W, C]

    def __call__(self, images: Images) -> Logits:
        return self.model(jnp.where(self.mask[None], images, self.x[None].astype(images.dtype)))


def _for_each_image(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the mask as bool [B, H, W, C].

    Raises:
        ValueError: it is not bool, or does not match the images.
    """
    given = mask.shape
    if mask.dtype != jnp.bool_:
        raise ValueError(f"Masked.mask must be bool, got {mask.dtype}: use mask > 0")
    if mask.ndim == 2:
        mask = mask[..., None]
    if mask.ndim == 3:
        mask = mask[None]
    fits = mask.ndim == 4 and all(
        ours in (1, theirs) if axis in (0, 3) else ours == theirs
        for axis, (ours, theirs) in enumerate(zip(mask.shape, shape, strict=True))
    )
    if not fits:
        raise ValueError(
            f"Masked.mask has shape {list(given)}, the images {list(shape)}: "
            "give [H, W], [H, W, C] or one per image"
        )
    return jnp.broadcast_to(mask, shape)
