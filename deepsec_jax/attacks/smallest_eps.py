"""SmallestEps: the smallest budget at which an attack succeeds, for each image."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.ascent import at_step, split_keys
from deepsec_jax.attacks.best_so_far import per_row
from deepsec_jax.attacks.call import attack_call, is_from_attack_call
from deepsec_jax.attacks.cost import Cost, cost
from deepsec_jax.attacks.fields import an_attack
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.per_image import SCALED, at_rows
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.field_checks import count, not_negative
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class SmallestEps(Struct):
    """A minimum-norm attack made of a budget attack: bisection of eps for each image.

    The attack runs at ``largest`` first; if it fails, the clean image is returned.  Then ``search_steps``
    runs halve the interval.  ``step_size`` and ``alpha`` keep their ratio to eps.  A misclassified clean
    image is returned unchanged.  search_steps + 1 runs, and a forward after each.

    Attributes:
        attack: an attack with the field ``eps``, which may be one per image.
        largest: the largest eps to try, one number or one per image, [B].
        search_steps: number of bisections, static; the precision of eps is largest / 2^search_steps.
    """

    attack: Attack = field(check=an_attack)
    largest: Scalar = field(1.0, check=not_negative)
    search_steps: int = static(10, check=count)

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
        found = cost(self.attack, classes=classes, entries=entries)
        return None if found is None else (found.with_forwards(1) * (self.search_steps + 1)).with_forwards(1)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        inner: Any = self.attack
        if not hasattr(inner, "eps"):
            raise ValueError(f"SmallestEps needs an attack with a budget eps, got {type(inner).__name__}")
        rows = x.shape[0]
        targets = self.targets(model, x, labels, key=keys)
        goal = labels if targets is None else targets
        streams = split_keys(keys)

        def reaches(x_adv: Images, run: jax.Array | int) -> jax.Array:
            logits = at_step(model, streams.model, run)(x_adv)
            logits = open_logits(model, logits, goal, targeted=targets is not None)
            return succeeded(logits, goal, targeted=targets is not None)

        def attacked(eps: jax.Array) -> Images:
            scaled = {name: getattr(inner, name) / inner.eps * eps for name in SCALED if hasattr(inner, name)}
            attack = inner.replace(eps=eps, **scaled)
            if is_from_attack_call(inner):
                x_adv: Images = attack(model, x, labels, key=streams.attack)
                return x_adv

            def one(row: jax.Array, x: jax.Array, label: jax.Array, key: Any) -> jax.Array:
                keys = None if key is None else key[None]
                image: jax.Array = at_rows(attack, row)(model, x[None], label[None], key=keys)[0]
                return image

            # A user's own call may not support one eps per image.
            return jax.vmap(one)(jnp.arange(rows), x, labels, streams.attack)

        largest = jnp.broadcast_to(jnp.ravel(jnp.asarray(self.largest, jnp.float32)), (rows,))
        first = attacked(largest)
        already = reaches(x, 0)
        found = reaches(first, 1) & ~already
        best = jnp.where(per_row(found), first, x)

        def halve(carry: tuple[Images, jax.Array, jax.Array], run: jax.Array) -> tuple[Any, None]:
            best, low, high = carry
            middle = (low + high) / 2
            x_adv = attacked(middle)
            hit = reaches(x_adv, run)
            best = jnp.where(per_row(hit & found), x_adv, best)
            return (best, jnp.where(hit, low, middle), jnp.where(hit, middle, high)), None

        runs = jnp.arange(2, self.search_steps + 2)
        (best, _, _), _ = lax.scan(halve, varying_alike((best, jnp.zeros_like(largest), largest)), runs)
        return best
