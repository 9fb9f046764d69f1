"""Indicators of attack failure: six signs that an attack was too weak, each per image and in [0, 1].

    found = indicators(APGD(eps=0.3), model, x, labels, key=jax.random.key(0))

Pintor et al., "Indicators of Attack Failure: Debugging and Improving Optimization of Adversarial Examples",
NeurIPS 2022, arXiv:2106.09947.  0 is no sign of failure.  An indicator says that the figure of an attack may
not be trusted, not that the model is weak.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.ascent import Trace, at_step
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import logit_gap, succeeded
from deepsec_jax.attacks.model_checks import check_model, check_shapes
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.jit import jit_per_class
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.randomness import example_keys

RADIUS = 4 / 255
"""Half the side of the box of random moves (the authors' value)."""

MOVES = 100
"""Number of random moves (the authors' value)."""


class Indicators(NamedTuple):
    """One value per image, float32 [B], 0 (no sign of failure) to 1.

    Attributes:
        unavailable_gradients: 1 if the gradient of the loss is zero, missing or NaN on the clean image.
        unstable_predictions: mean relative change of the loss under small random moves, at most 1.
        silent_success: 1 if an iterate was adversarial and the returned image is not.
        incomplete_optimisation: share of the whole gain in loss that the last tenth of the steps brought; 0
            where the attack succeeds.
        transfer_failure: 1 if the returned image fools the surrogate and not the model.
        unconstrained_failure: 1 if the attack fails even without a bound on the change.
        survived: 1 if the returned image does not fool the model; no indicator itself.
    """

    unavailable_gradients: jax.Array
    unstable_predictions: jax.Array
    silent_success: jax.Array
    incomplete_optimisation: jax.Array
    transfer_failure: jax.Array
    unconstrained_failure: jax.Array
    survived: jax.Array


INDICATORS = Indicators._fields[:-1]
"""Names of the six indicators."""


def indicators(
    attack: Any,
    model: Classifier,
    x: Images,
    labels: Labels,
    *,
    surrogate: Classifier | None = None,
    key: Key | Keys,
) -> Indicators:
    """Return the six indicators of an untargeted attack on images that the model classifies correctly.

    A pure function, compiled once per class of attack and model.  It costs at most two runs of the attack,
    and about a hundred forwards per image.

    Args:
        attack: an attack with an ``eps`` and a ``trace``: PGD or APGD; untargeted.
        model: a classifier in evaluation mode.
        x: clean images [B, H, W, C].
        labels: true classes [B].
        surrogate: what the attack differentiates; default the model.
        key: root of the random numbers, or one key per image [B].

    Raises:
        TypeError: the attack has no ``trace``, or is targeted; the model is not a callable pytree.
    """
    if not callable(getattr(attack, "trace", None)):
        raise TypeError(f"{type(attack).__name__} has no trace of its iterates: give PGD(...) or APGD(...)")
    if getattr(attack, "targeted", False):
        raise TypeError("indicators are of untargeted attacks: give the same attack with targeted=False")
    attacked = model if surrogate is None else surrogate
    check_model(model)
    check_model(attacked)
    return _indicators(attack, model, attacked, jnp.asarray(x), as_labels(labels), key)


@jit_per_class
def _indicators(
    attack: Any, model: Classifier, attacked: Classifier, x: Images, labels: Labels, key: Key | Keys
) -> Indicators:
    check_shapes(model, x, labels)
    keys = example_keys(key, x.shape[0])
    mine, asked = jax.vmap(jax.random.split, out_axes=1)(keys)
    trace = attack.trace(attacked, x, labels, mine)
    free = reaches(unconstrained(attack, x), attacked, x, labels, mine)
    fooled = fools(model, trace.x, labels, asked)
    return Indicators(
        unavailable_gradients(attacked, x, labels, asked),
        unstable_predictions(attacked, x, labels, asked),
        silent_success(trace, fools(attacked, trace.x, labels, asked)),
        jnp.where(fooled, 0.0, incomplete_optimisation(trace.losses)),
        transfer_failure(fooled, jnp.any(trace.success, axis=0)),
        # As the authors count it: an iterate that fools the attacked model is a success.
        1.0 - free.astype(jnp.float32),
        1.0 - fooled.astype(jnp.float32),
    )


def fools(model: Classifier, x: Images, labels: Labels, keys: Keys) -> jax.Array:
    """Return bool [B]: the model predicts another class, and does not reject."""
    drawn = at_step(model, keys, 0)
    logits = open_logits(drawn, drawn(x), labels, targeted=False)
    return succeeded(logits, labels, targeted=False)


def reaches(attack: Any, model: Classifier, x: Images, labels: Labels, keys: Keys) -> jax.Array:
    """Return bool [B]: whether an iterate of the attack reaches its goal.

    An attack that can end early has a ``reaches`` of its own, with the same result as its whole trace.
    """
    if hasattr(attack, "reaches"):
        return jnp.asarray(attack.reaches(model, x, labels, keys))
    return jnp.any(attack.trace(model, x, labels, keys).success, axis=0)


def unconstrained(attack: Any, x: Images) -> Any:
    """Return the attack with a ball that holds every image; a step size grows in proportion to eps."""
    entries = x.size / x.shape[0]
    eps = 1.0 if attack.norm == "linf" else entries**0.5
    if not hasattr(attack, "step_size"):
        return attack.replace(eps=eps)
    return attack.replace(eps=eps, step_size=jnp.maximum(attack.step_size, 4.0 * eps / attack.steps))


def unavailable_gradients(model: Classifier, x: Images, labels: Labels, keys: Keys) -> jax.Array:
    """Return 1 where the gradient at the image is zero or not finite, float32 [B].

    The loss is :func:`~deepsec_jax.attacks.losses.logit_gap`, which does not saturate, so a zero is the
    model's own.
    """
    drawn = at_step(model, keys, 0)

    def objective(point: Images) -> tuple[jax.Array, None]:
        return _loss(drawn, point, labels), None

    gradient = value_and_gradient(objective, x)[2]
    usable = jnp.all(jnp.isfinite(gradient), axis=(1, 2, 3)) & jnp.any(gradient != 0, axis=(1, 2, 3))
    return 1.0 - usable.astype(jnp.float32)


def unstable_predictions(
    model: Classifier, x: Images, labels: Labels, keys: Keys, *, radius: float = RADIUS, moves: int = MOVES
) -> jax.Array:
    """Return the mean of |L(x + r) - L(x)| / |L(x)| over uniform moves r in a box, at most 1, float32 [B].

    A randomised model has new draws at every move.

    Args:
        model: the classifier.
        x: images [B, H, W, C].
        labels: true classes [B].
        keys: one per image.
        radius: half the side of the box, in units of the [0, 1] pixel range.
        moves: number of moves, static.
    """
    of_moves, of_model = jax.vmap(jax.random.split, out_axes=1)(keys)
    here = _loss(at_step(model, of_model, 0), x, labels)

    def move(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        each = jax.vmap(jax.random.fold_in, in_axes=(0, None))(of_moves, number)
        draw = partial(jax.random.uniform, shape=x.shape[1:], minval=-radius, maxval=radius)
        there = jnp.clip(x + jax.vmap(draw)(each).astype(x.dtype), min=0.0, max=1.0)
        loss = _loss(at_step(model, of_model, number), there, labels)
        change = jnp.abs(loss - here) / jnp.maximum(jnp.abs(here), jnp.finfo(jnp.float32).tiny)
        return total + jnp.where(jnp.isfinite(change), change, 1.0), None

    total, _ = lax.scan(move, varying_alike(jnp.zeros(x.shape[0], jnp.float32), x), 1 + jnp.arange(moves))
    return jnp.minimum(total / moves, 1.0)


def silent_success(trace: Trace, returned: jax.Array) -> jax.Array:
    """Return 1 where an iterate succeeded and the returned image does not, float32 [B].

    Args:
        trace: of the attack.
        returned: bool [B], whether the returned image fools the attacked model.
    """
    return (jnp.any(trace.success, axis=0) & ~returned).astype(jnp.float32)


def incomplete_optimisation(losses: jax.Array) -> jax.Array:
    """Return the share of the gain in loss that the last tenth of S steps brings, float32 [B].

    The gain is that of the best loss so far.  0 where the loss never increases: such an attack is stuck, not
    interrupted.

    Args:
        losses: of the iterates, float [S, B], higher is better for the attacker; NaN is left out.
    """
    best = lax.cummax(jnp.where(jnp.isfinite(losses), losses, -jnp.inf), axis=0)
    last = max(1, losses.shape[0] // 10)
    gain = best[-1] - best[0]
    late = best[-1] - best[-1 - min(last, losses.shape[0] - 1)]
    known = (gain > 0) & jnp.isfinite(gain)
    return jnp.where(known, late / jnp.where(known, gain, 1.0), 0.0).astype(jnp.float32)


def transfer_failure(fooled: jax.Array, fooled_surrogate: jax.Array) -> jax.Array:
    """Return 1 where the surrogate is fooled and the model is not, float32 [B], from bool [B]."""
    return (fooled_surrogate & ~fooled).astype(jnp.float32)


def _loss(model: Classifier, x: Images, labels: Labels) -> jax.Array:
    logits = open_logits(model, model(x), labels, targeted=False)
    return logit_gap(logits, labels)
