"""Success and distance, measured from outside: no attack says how well it did."""

from functools import partial

import jax
import jax.numpy as jnp

from deepsec_jax.metrics import classify
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Logits
from deepsec_jax.pytree import Struct, classes_of, jit_per_class, logits_shape
from deepsec_jax.randomness import example_keys, is_randomised, root_key, typed_key

DRAWS = 10
"""Draws over which a randomised model is judged."""

_JUDGE = 0x6A756467  # "judg": a root of its own, so that judging draws are none an attack has seen


class Outcome(Struct):
    """What became of each image.

    Attributes:
        success: 1 or 0 [B]; on a randomised model the share of draws that succeeded.
        logits: logits on the adversarial image [B, K], [B, K+1] of a model that rejects; on a randomised
            model their mean.
        probabilities: softmax of those of the classes [B, K]; on a randomised model the mean of each draw's.
        l0: share of entries (pixels x channels) that changed [B].
        l1: sum of absolute changes [B].
        l2: Euclidean norm of the change [B].
        linf: largest absolute change [B].
        rejected: 1 or 0 [B], or the share of draws in which the image is refused, which is no success; NaN of
            a model that cannot reject.
        no_answer: 1 or 0 [B], or the share of draws in which the logits are no answer (NaN or +inf): neither
            right nor a success.
    """

    success: jax.Array
    logits: Logits
    probabilities: jax.Array
    l0: jax.Array
    l1: jax.Array
    l2: jax.Array
    linf: jax.Array
    rejected: jax.Array
    no_answer: jax.Array


def judge(
    model: Classifier,
    x: Images,
    x_adv: Images,
    labels: Labels,
    *,
    targets: Labels | None = None,
    key: Key | None = None,
    draws: int | None = None,
    first: int = 0,
) -> Outcome:
    """Classify the adversarial images and measure how far they are from the clean ones.

    Args:
        model: the model under attack.
        x: clean images [B, H, W, C].
        x_adv: adversarial images [B, H, W, C].
        labels: true classes [B].
        targets: classes the images were driven to [B], ``attack.targets(model, x, labels)``; None counts
            any class but the label, and "rejected" is none.
        key: root of the draws of a randomised model; default a fixed key that no attack draws from.
        draws: number of draws of a randomised model; default :func:`draws_of` it.
        first: index of the first image in its data set, so that its draws do not depend on the batch.

    Returns:
        An :class:`Outcome`.
    """
    root = root_key(_JUDGE) if key is None else typed_key(key)
    draws = draws_of(model) if draws is None else draws
    return _judge(model, jnp.asarray(x), jnp.asarray(x_adv), labels, targets, root, first, draws=draws)


def draws_of(model: Classifier) -> int:
    """Return how often a model is asked per image: once, or :data:`DRAWS` times if it draws.

    A model whose one answer is an average over many draws already says so by an attribute ``judged_draws``.
    """
    return int(getattr(model, "judged_draws", DRAWS)) if is_randomised(model) else 1


def judging_keys(
    model: Classifier,
    rows: int,
    *,
    first: int | jax.Array = 0,
    root: Key | None = None,
    draws: int | None = None,
) -> Keys | None:
    """Return the keys [draws, rows] under which a randomised model is judged; None for any other model.

    Args:
        model: the model.
        rows: number of images.
        first: index of the first of them in its data set, so that draws do not depend on the batch.
        root: where the keys come from; default a fixed one that no attack draws from.
        draws: number of draws per image; default :func:`draws_of` the model.
    """
    if not is_randomised(model):
        return None
    root = root_key(_JUDGE) if root is None else typed_key(root)
    roots = jax.random.split(root, draws_of(model) if draws is None else draws)
    return jax.vmap(lambda key: example_keys(key, rows, first=first))(roots)


@partial(jit_per_class, static_argnames=("draws",))
def _judge(model, x, x_adv, labels, targets, root, first, *, draws) -> Outcome:
    if not x.shape[0]:  # a model may not even accept an empty batch (reshape(0, -1))
        one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        nothing = jnp.zeros(0)
        logits, none = jnp.zeros((0, logits_shape(model, one)[-1])), jnp.zeros((0, classes_of(model, one)))
        return Outcome(nothing, logits, none, *(nothing,) * 6)
    keys = judging_keys(model, x.shape[0], first=first, root=root, draws=draws)
    found = classify(model, x_adv, labels, targets, keys)
    delta = jnp.abs(x_adv.astype(jnp.float32) - x.astype(jnp.float32)).reshape(x.shape[0], -1)
    return Outcome(
        success=found.success,
        logits=found.logits,
        probabilities=found.probabilities,
        l0=jnp.mean(delta > 0, axis=1, dtype=jnp.float32),
        l1=jnp.sum(delta, axis=1),
        l2=jnp.linalg.norm(delta, axis=1),
        linf=jnp.max(delta, axis=1, initial=0.0),
        rejected=found.rejected,
        no_answer=found.no_answer,
    )
