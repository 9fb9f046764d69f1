"""Projected gradient ascent that keeps the best iterate: the loop of every budget attack."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.geometry import at_least_float32, project, stored_in_ball
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.layer_losses import clean_activations, loss_at
from deepsec_jax.attacks.losses import Loss, ranked, succeeded
from deepsec_jax.attacks.parts import Refinement, Start, StepRule
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.randomness import reseed


class Streams(NamedTuple):
    """Each example's key, split into one for the attack and one for the model; both None without a key."""

    attack: Keys | None
    model: Keys | None


def split_keys(keys: Keys | None) -> Streams:
    """Split every example's key into one for the attack and one for the model."""
    if keys is None:
        return Streams(None, None)
    pairs = jax.vmap(jax.random.split)(keys)
    return Streams(pairs[:, 0], pairs[:, 1])


def at_step(model: Classifier, keys: Keys | None, step: jax.Array | int) -> Classifier:
    """Return the model with new random keys for this step; a deterministic model is returned unchanged."""
    return model if keys is None else reseed(model, _folded(keys, step))


def _folded(keys: Keys, number: jax.Array | int) -> Keys:
    """Fold a number into every example's key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


class Best(NamedTuple):
    """The best iterate so far of each row: first by success, then by attack loss."""

    x: Images  # in the dtype of the input images
    success: jax.Array  # bool [B]
    loss: jax.Array  # float32 [B], higher is better for the attacker


def better(best: Best, x: Images, success: jax.Array, loss: jax.Array) -> Best:
    """Return the better of the two in each row; in a tie the earlier one, never one with a NaN loss."""
    takes = (success & ~best.success) | ((success == best.success) & (loss > best.loss))
    takes = takes & ~jnp.isnan(loss)
    return Best(
        jnp.where(takes[:, None, None, None], x, best.x),
        jnp.where(takes, success, best.success),
        jnp.where(takes, loss, best.loss),
    )


class Trace(NamedTuple):
    """What an attack met on its way: S iterates of B rows, in order."""

    x: Images  # [B, H, W, C], the images that the attack returns
    losses: jax.Array  # float32 [S, B], higher is better for the attacker; NaN without an answer
    success: jax.Array  # bool [S, B]: the iterate reaches the goal


class _State(NamedTuple):
    x: Images  # float32, before rounding to the dtype of the images
    rule: Any
    refined: Any
    best: Best


def ascend(
    model: Classifier,
    x: Images,
    labels: Labels,
    keys: Keys | None,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    norm: str,
    targeted: bool,
    loss: Loss | str,
    start: Start,
    rule: StepRule,
    refine: Refinement | None = None,
) -> Images:
    """Maximise the loss in the eps-ball and return the best iterate of each row.

        x_0 = start,   x_{i+1} = project(x_i + step(grad loss(x_i)))

    With one step the result is x_1 (one gradient, no forward).  With more steps it is, per row, the
    successful one of x_0 .. x_steps with the highest loss; if none succeeded, the one with the highest loss
    (``steps`` gradients and one forward).  If the model answers none of them (NaN), the clean image is
    returned.

    Args:
        model: a classifier in evaluation mode.
        x: clean images [B, H, W, C].
        labels: true classes, or targets if ``targeted`` [B].
        keys: one key per row, or None.
        eps: radius of the ball, one number or [B, 1, 1, 1].
        step_size: length of a step in ``norm``, one number or [B, 1, 1, 1].
        steps: number of gradient steps, static.
        norm: "linf" or "l2", static.
        targeted: move towards ``labels`` instead of away from them, static.
        loss: a function of :mod:`deepsec_jax.attacks.losses`, or its name.
        start: returns the first iterate.
        rule: converts a gradient to a step.
        refine: changes the gradient by gradients at other points; None for the gradient itself.

    Returns:
        Images in the dtype of ``x``, inside the box and the ball.
    """
    return climb(
        model, x, labels, keys, eps, step_size, steps, norm, targeted, loss, start, rule, refine, traced=False
    ).x


def climb(
    model: Classifier,
    x: Images,
    labels: Labels,
    keys: Keys | None,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    norm: str,
    targeted: bool,
    loss: Loss | str,
    start: Start,
    rule: StepRule,
    refine: Refinement | None = None,
    *,
    traced: bool,
) -> Trace:
    """Return the images of :func:`ascend`; if ``traced``, with the losses and successes of x_0 .. x_steps.

    Otherwise these have S = 0 iterates.  ``traced`` is static, the other arguments are those of ascend.
    """
    streams = split_keys(keys)
    clean = x.astype(jnp.float32)
    sign = -1.0 if targeted else 1.0

    def stored(x_i: Images) -> Images:
        return stored_in_ball(x_i, x, eps, norm)

    clean_layers = clean_activations(loss, at_step(model, streams.model, 0), x)

    def judged(asked: Classifier, point: Images) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the loss to maximise, and the rank and success by which iterates are compared."""
        logits = open_logits(model, asked(point), labels, targeted=targeted)
        values = loss_at(loss, asked, point, logits, labels, clean_layers)
        values = (sign * values).astype(jnp.float32)
        return values, (ranked(values, logits), succeeded(logits, labels, targeted=targeted))

    def gradient_of(asked: Classifier, point: Images) -> tuple[tuple[jax.Array, jax.Array], Images]:
        """Return rank and success at a point, and the gradient there with 0 for NaN."""

        def objective(point: Images) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            return judged(asked, point.astype(x.dtype))

        _, found, gradient = value_and_gradient(objective, at_least_float32(point))
        return found, jnp.where(jnp.isfinite(gradient), gradient, 0.0)

    def gradient_at(
        step: jax.Array | int, x_i: Images, refined: Any
    ) -> tuple[jax.Array, jax.Array, Images, Any]:
        (rank, success), gradient = gradient_of(at_step(model, streams.model, step), stored(x_i))
        if refine is not None:

            def elsewhere(number: jax.Array | int, point: Images) -> Images:
                draw = (number + 1) * (steps + 1) + step  # no other gradient of this run has these keys
                return gradient_of(at_step(model, streams.model, draw), point)[1]

            keys_i = None if streams.attack is None else _folded(streams.attack, step)
            gradient, refined = refine.update(gradient, elsewhere, x_i, keys_i, eps, norm, refined)
        return rank, success, gradient, refined

    def moved(x_i: Images, gradient: Images, state: Any) -> tuple[Images, Any]:
        step, state = rule.update(gradient, state, step_size, norm)
        return project(x_i + step, clean, eps, norm), state

    x_0 = start(streams.attack, clean, eps, norm).astype(jnp.float32)
    nothing_refined = () if refine is None else refine.init(clean)
    if steps == 1 and not traced:
        _, _, gradient, _ = gradient_at(0, x_0, nothing_refined)
        return _untraced(stored(moved(x_0, gradient, rule.init(clean))[0]))

    def body(state: _State, step: jax.Array) -> tuple[_State, tuple[jax.Array, jax.Array]]:
        rank, success, gradient, refined = gradient_at(step, state.x, state.refined)
        best = better(state.best, stored(state.x), success, rank)
        x_next, rule_state = moved(state.x, gradient, state.rule)
        return _State(x_next, rule_state, refined, best), (rank, success)

    rows = x.shape[0]
    nothing = Best(x, jnp.zeros(rows, bool), jnp.full(rows, -jnp.inf, jnp.float32))
    first = varying_alike(_State(x_0, rule.init(clean), nothing_refined, nothing))
    if traced:
        last, (ranks, successes) = lax.scan(body, first, jnp.arange(steps))
    else:
        last = lax.fori_loop(0, steps, lambda step, state: body(state, step)[0], first)
    x_last = stored(last.x)
    _, (rank, success) = judged(at_step(model, streams.model, steps), x_last)
    found = better(last.best, x_last, success, rank).x
    if not traced:
        return _untraced(found)
    return Trace(found, jnp.vstack([ranks, rank]), jnp.vstack([successes, success]))


def _untraced(x: Images) -> Trace:
    return Trace(x, jnp.zeros((0, x.shape[0])), jnp.zeros((0, x.shape[0]), bool))
