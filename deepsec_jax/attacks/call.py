"""An attack's public call: checks around one jitted function.

Everything that needs no values (kind of model, mode, shapes, dtypes, key) is checked while tracing, so a call
that uses the cache costs nothing.  Numbers are checked when the attack is built, images when it is called, if
they are in the host's memory: reading an array on a device would wait for it.

=====================  =======================  ====================================================
value                  Python or NumPy          on the device (``jax.Array``)
=====================  =======================  ====================================================
hyperparameters        ValueError, when built   not looked at
L-inf eps above 1      ValueError, when called  not looked at
images                 ValueError, when called  a row outside [0, 1] is returned as NaN
labels below 0         ValueError, when called  not looked at
labels beyond classes  not looked at            not looked at
=====================  =======================  ====================================================

:func:`deepsec_jax.attacks.run_in_batches` and the command line check all images and labels.
"""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.cost import Counted
from deepsec_jax.attacks.float32 import one_float_kind
from deepsec_jax.attacks.model_checks import (
    check_eps,
    check_model,
    check_on_host,
    check_shapes,
    nan_where_outside,
)
from deepsec_jax.attacks.per_image import meeting_images
from deepsec_jax.jit import jit_per_class
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.randomness import example_keys, is_randomised

Body = Callable[[Any, Classifier, Images, Labels, Keys | None], Images | Counted]


class AttackCall:
    """An attack's ``__call__``: ``attack(model, x, labels, *, key=None) -> x_adv``, from a pure body.

    Made by :func:`attack_call`.
    """

    def __init__(self, body: Body) -> None:
        functools.update_wrapper(self, body)
        self.__doc__ = body.__doc__ or "Return adversarial images; see the class and the Attack protocol."
        self._run = jit_per_class(_compiled(body))

    def __get__(self, attack: Any, kind: type | None = None) -> Any:
        """Return the call bound to an attack, as a method is."""
        return self if attack is None else MethodType(self, attack)

    def __call__(
        self, attack: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        """Return adversarial images; see the Attack protocol."""
        result = self.counted(attack, model, x, labels, key=key)
        return result.x if isinstance(result, Counted) else result

    def counted(
        self, attack: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images | Counted:
        """Return adversarial images, with the model calls of each if the attack counts them."""
        check_model(model)
        check_eps(attack)
        check_on_host(x, labels)
        x = jnp.asarray(x)
        return self._run(one_float_kind(attack, x.dtype), model, x, as_labels(labels), key)


def attack_call(body: Body) -> AttackCall:
    """Turn ``body(self, model, x, labels, keys)`` into ``__call__(self, model, x, labels, *, key=None)``.

    The body is compiled once per class and static fields: other weights, hyperparameters and keys use the
    cache.  No gradient flows through an attack.  If a body returns :class:`Counted`, the caller gets the
    images and :func:`count_calls` the counts.
    """
    return AttackCall(body)


def _compiled(body: Body) -> Callable[..., Images | Counted]:
    """Return the function that is compiled: the body behind all checks that need no values."""

    def compiled(
        self: Any, model: Classifier, x: Images, labels: Labels, key: Key | Keys | None
    ) -> Images | Counted:
        check_shapes(model, x, labels)
        self = meeting_images(self, x.shape[0])
        if not x.shape[0]:  # nothing to attack; a model may not accept an empty batch (reshape(0, -1))
            return x
        if key is None and (getattr(self, "needs_key", False) or is_randomised(model)):
            who = "this model" if is_randomised(model) else type(self).__name__
            raise ValueError(f"{who} draws random numbers: pass key=jax.random.key(seed)")
        self, model, x = _constant((self, model, x))
        keys = None if key is None else example_keys(key, x.shape[0])
        result = body(self, model, x, labels, keys)
        if isinstance(result, Counted):
            return result._replace(x=nan_where_outside(result.x, x))
        return nan_where_outside(result, x)

    compiled.__name__ = body.__qualname__.removesuffix(".__call__")  # the name in profilers and logs
    return compiled


def call_and_count(
    attack: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> tuple[Images, Counted | None]:
    """Return the attack's images, and the same with the model calls of each; None without counts.

    It is one run of the attack.  Arguments as in the Attack protocol.
    """
    call = type(attack).__call__
    if not isinstance(call, AttackCall):
        return attack(model, x, labels, key=key), None
    result = call.counted(attack, model, x, labels, key=key)
    return (result.x, result) if isinstance(result, Counted) else (result, None)


def count_calls(
    attack: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> Counted | None:
    """Return the attack's images and the model calls of each; None if the attack does not count.

    Searches count, since their work differs between images.  It is the same compiled code as the call itself.
    To get the images in either case, from one run, use :func:`call_and_count`.  Arguments as in the Attack
    protocol.
    """
    return call_and_count(attack, model, x, labels, key=key)[1]


def is_from_attack_call(attack: Any) -> bool:
    """Tell whether the attack's call was made by :func:`attack_call` and so accepts values per image."""
    return isinstance(type(attack).__call__, AttackCall)


def label_targets(
    self: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> Labels | None:
    """Return the labels if the attack is targeted (they are its targets), else None."""
    del model, x, key
    return as_labels(labels) if self.targeted else None


def _constant(tree: Any) -> Any:
    """Stop gradients through every float array."""

    def stopped(leaf: Any) -> Any:
        return lax.stop_gradient(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(stopped, tree)
