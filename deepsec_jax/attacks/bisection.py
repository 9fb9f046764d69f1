"""The point of a segment to the clean image where the model changes its answer, by bisection."""

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.balls import size_of
from deepsec_jax.attacks.best_so_far import Closest, at_steps, closer, per_row
from deepsec_jax.attacks.geometry import towards
from deepsec_jax.attacks.gradient import forward
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Classifier, Images, Keys, Labels

_Segment = tuple[Closest, jax.Array, jax.Array]
"""Closest success, and the ends of the bisection as shares of the segment, [B]."""


def bisected(
    best: Closest, steps: int, model: Classifier, x: Images, labels: Labels, keys: Keys | None, norm: str
) -> Closest:
    """Return the closest misclassified image on the segment from each success to its clean image.

    Rows without a success are returned unchanged.  One forward of all rows per step.

    Args:
        best: successes.
        steps: bisections, static; 0 returns ``best``.
        model: the model.
        x: clean images [B, H, W, C].
        labels: true classes [B].
        keys: of the model, or None.
        norm: of the distance, of ``balls.BALLS``, static.
    """
    if not steps:
        return best
    clean = x.astype(jnp.float32)
    change = best.x.astype(jnp.float32) - clean
    found = jnp.isfinite(best.distance) & (best.distance > 0)

    def halve(
        step: jax.Array, carry: tuple[Closest, jax.Array, jax.Array]
    ) -> tuple[Closest, jax.Array, jax.Array]:
        best, low, high = carry
        middle = (low + high) / 2
        stored = towards(clean + per_row(middle) * change, x)
        # The steps of the search before count up from 0; these count down.
        asked = at_steps(model, keys, jnp.broadcast_to(-1 - step, found.shape))
        logits = open_logits(asked, forward(asked, stored), labels, targeted=False)
        reached = found & succeeded(logits, labels, targeted=False)
        best = closer(best, stored, reached, size_of(stored.astype(jnp.float32) - clean, norm))
        return best, jnp.where(reached, low, middle), jnp.where(reached, middle, high)

    ends = jnp.zeros(found.shape, jnp.float32), jnp.ones(found.shape, jnp.float32)
    closest: Closest = lax.fori_loop(0, steps, halve, varying_alike((best, *ends)))[0]
    return closest
