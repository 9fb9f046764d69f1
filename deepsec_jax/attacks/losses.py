"""Attack losses that do not saturate in float32, and the rank by which an attack compares its images.

Every loss maps logits [B, K] and labels [B] to [B]; it increases as ``labels`` loses to the other classes.  A
targeted attack maximises the negated function, with ``labels`` as targets.

Cross-entropy is included for comparison only.  Beyond a margin of 17 its float32 gradient loses the term of
the top class, and beyond 104 it is zero.  So an attack with it is weak on confident models.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from deepsec_jax.answers import answered, as_labels
from deepsec_jax.answers import succeeded as succeeded
from deepsec_jax.catalog import lookup
from deepsec_jax.protocols import Labels, Logits

Loss = Callable[[Logits, Labels], jax.Array]
AimedLoss = Callable[[Logits, Labels, Labels], jax.Array]
"""``loss(logits, labels, aims)``: increases with the lead of a chosen wrong class, the aim, over the
label.
"""


def _true_and_others(logits: Logits, labels: Labels) -> tuple[jax.Array, jax.Array]:
    """Return z_y [B] and the logits with z_y masked to -inf [B, K], both float32."""
    logits = logits.astype(jnp.float32)
    is_label = jax.nn.one_hot(as_labels(labels), logits.shape[-1], dtype=bool)
    true = jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
    return true, jnp.where(is_label, -jnp.inf, logits)


def logit_gap(logits: Logits, labels: Labels) -> jax.Array:
    """Return logsumexp over j != y of z_j, minus z_y: the direction of cross-entropy without saturation.

    Cross-entropy is the softplus of this value; without the softplus the gradient is kept at any margin.
    """
    true, others = _true_and_others(logits, labels)
    return jax.nn.logsumexp(others, axis=-1) - true


def max_margin(logits: Logits, labels: Labels) -> jax.Array:
    """Return max over j != y of z_j, minus z_y (Carlini and Wagner, S&P 2017, arXiv:1608.04644)."""
    true, others = _true_and_others(logits, labels)
    return jnp.max(others, axis=-1) - true


def dlr(logits: Logits, labels: Labels) -> jax.Array:
    """Return the margin divided by the gap from first to third logit; invariant to the scale of the logits.

    Difference of logits ratio (Croce and Hein, ICML 2020, arXiv:2003.01690).  The denominator is 1 if it
    vanishes, or if the third class is masked (-inf).

    Raises:
        ValueError: fewer than three classes.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"the DLR loss needs 3 classes or more, got {logits.shape[-1]}: use loss=max_margin")
    top = jax.lax.top_k(logits.astype(jnp.float32), 3)[0]
    spread = top[:, 0] - top[:, 2]
    return max_margin(logits, labels) / _usable(spread)


def margin_to(logits: Logits, labels: Labels, aims: Labels) -> jax.Array:
    """Return z_aim - z_y: the lead of a chosen wrong class over the label."""
    return _picked(logits, aims) - _picked(logits, labels)


def dlr_to(logits: Logits, labels: Labels, aims: Labels) -> jax.Array:
    """Return (z_aim - z_y) / (z_1 - (z_3 + z_4) / 2), z sorted in decreasing order; invariant to scale.

    The targeted difference of logits ratio (Croce and Hein, ICML 2020, arXiv:2003.01690).  With fewer than
    four classes it is z_aim - z_y: a ratio to z_1 - z_3 is constant if the aim is the third class.  The
    denominator is 1 if it vanishes, or if one of its classes is masked (-inf).
    """
    margin = margin_to(logits, labels, aims)
    if logits.shape[-1] < 4:
        return margin
    top = jax.lax.top_k(logits.astype(jnp.float32), 4)[0]
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return margin / _usable(spread)


def _usable(spread: jax.Array) -> jax.Array:
    """Return the spread of the first logits [B], or 1 if it is zero or infinite (a masked class)."""
    return jnp.where((spread > 0) & jnp.isfinite(spread), spread, 1.0)


def _picked(logits: Logits, classes: Labels) -> jax.Array:
    """Return the logit of one class per row, float32 [B]."""
    chosen = jax.nn.one_hot(as_labels(classes), logits.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(chosen, logits.astype(jnp.float32), 0.0), axis=-1)


def cross_entropy(logits: Logits, labels: Labels) -> jax.Array:
    """Return -log softmax(z)_y, for comparison: its gradient saturates (see above)."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]


LOSSES: dict[str, Loss] = {
    "logit_gap": logit_gap,
    "max_margin": max_margin,
    "dlr": dlr,
    "cross_entropy": cross_entropy,
}

ALIASES: dict[str, Loss] = {"ce": cross_entropy, "cw": max_margin}
"""Common aliases.  ``ce`` saturates (see above); ``logit_gap`` has the same direction and does not."""


def find_loss(loss: Loss | str) -> Loss:
    """Return a loss by its name in :data:`LOSSES` or :data:`ALIASES`; a function is returned unchanged.

    Raises:
        UnknownName: no such name; the error lists near matches.
        ValueError: no function.
    """
    if isinstance(loss, str):
        return lookup(LOSSES | ALIASES, loss, "loss")
    if not callable(loss):
        raise ValueError(f"must be a function or one of {', '.join(LOSSES)}, got {loss!r}")
    return loss


def ranked(values: jax.Array, logits: Logits) -> jax.Array:
    """Return the values [B] by which an attack ranks its images; NaN, which is never kept, without an answer.

    The loss does not show a missing answer: +inf among the other classes' logits gives the highest loss.
    """
    return jnp.where(answered(logits), values, jnp.nan)
