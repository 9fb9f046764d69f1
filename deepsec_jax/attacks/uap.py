"""UAP: one perturbation for all images."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import NO_CLASS, named
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.cost import Cost
from deepsec_jax.attacks.deepfool import DeepFool
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.float32 import one_float_kind
from deepsec_jax.attacks.float64 import is_rounded, narrowed
from deepsec_jax.attacks.geometry import Norm, at_least_float32, towards
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.model_checks import check_eps, check_model, check_on_host
from deepsec_jax.attacks.rejection import class_logits, open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, share
from deepsec_jax.jit import jit_per_class
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels, Logits, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import example_keys, reseed, root_key, typed_key


class Perturbation(Struct):
    """An attack that adds the same ``delta`` to every image and clips to the box.

    Attributes:
        delta: float32 [H, W, C].
        fooling_rates: share of the training images fooled after each pass of the fit, float32 [passes].
    """

    delta: jax.Array
    fooling_rates: jax.Array

    uses_gradients: ClassVar[bool] = False

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return Cost(0.0, 0.0)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        del model, labels, keys
        return towards(_added(x, self.delta), x)


class UAP(Struct):
    """A universal adversarial perturbation: fitted to training images, then added to any image.

    For every batch, DeepFool finds the missing change of each image that v does not fool yet, and

        v <- project(v + sum of missing changes, eps)

    Images are visited in a new order in every pass.  The v that fools most training images after a pass is
    kept; fitting ends when it fools ``fooling_rate`` of them.  An image is fooled when its prediction
    changes. An image without an answer (NaN) is never fooled and contributes no change.  (The authors visit
    one image at a time; a batch does the same work in parallel.)

    Attributes:
        eps: radius of the ball that holds v, one number.
        overshoot: of the inner DeepFool.
        fooling_rate: sufficient share of fooled training images.
        passes: maximum number of passes over the training images.
        inner_steps: maximum number of steps of the inner DeepFool, static.
        norm: "linf" or "l2", static.
        k: number of wrong classes of the inner DeepFool, static.

    References:
        Moosavi-Dezfooli et al., "Universal adversarial perturbations", CVPR 2017, arXiv:1610.08401.
    """

    eps: Scalar = 0.3
    overshoot: Scalar = 0.02
    fooling_rate: Scalar = field(0.8, check=share)
    passes: int = static(20, check=count)
    inner_steps: int = static(10, check=count)
    norm: Norm = static("linf", check=norm_of())
    k: int = static(9, check=count)

    card: ClassVar[Card] = Card(
        name="UAP",
        title="Universal adversarial perturbation",
        reference="Moosavi-Dezfooli et al., CVPR 2017, arXiv:1610.08401",
        goal="untargeted",
        kind="universal",
    )
    made_of: ClassVar[tuple[type, ...]] = (DeepFool,)

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image once it is fitted: none."""
        del classes, entries
        return Cost(0.0, 0.0)

    def __call__(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        """Raise ValueError: a UAP must be fitted first."""
        raise ValueError(
            "this UAP has no perturbation yet: call UAP(...).fit(model, train_images, key=key), "
            "or prepare(attack, model, train_images, key=key), and use what they return"
        )

    def fit(
        self,
        model: Classifier,
        images: Any,
        *,
        key: Key,
        batch_size: int = 32,
        on_pass: Callable[[int, float], Any] | None = None,
    ) -> Perturbation:
        """Return the perturbation that fools most of ``images``.

        Args:
            model: a classifier in evaluation mode.
            images: training images, float [N, H, W, C] in [0, 1]; all are on the device.
            key: of the order of the images, and of a randomised model's draws.
            batch_size: images per update of v; N is cut to whole batches in each pass.
            on_pass: called after every pass with its number, from 1, and its fooling rate.

        Raises:
            ValueError: no images, not [N, H, W, C], a NumPy array outside [0, 1], or an eps per image.
        """
        check_model(model)
        check_eps(self)
        for name in ("eps", "overshoot", "fooling_rate"):
            if np.ndim(getattr(self, name)):
                shape = list(np.shape(getattr(self, name)))
                raise ValueError(f"UAP.{name} has shape {shape}: one change serves all images, give one")
        check_on_host(images, None)
        attack = narrowed(self, np.shape(images)[1:]) if is_rounded(images) else self
        images = jnp.asarray(images)
        if images.ndim != 4 or not images.shape[0] or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"UAP.fit needs float images [N >= 1, H, W, C], got {images.dtype}{list(images.shape)}"
            )
        batch_size = min(batch_size, images.shape[0])
        attack, key = one_float_kind(attack, images.dtype), typed_key(key)
        clean = _predict(model, images, batch_size=batch_size)
        # On the weights' device from the start, like the result of the first pass; another device would be
        # another compilation.
        v = best = _beside(model, jnp.zeros(images.shape[1:], jnp.float32))
        rates: list[float] = []
        for number, pass_key in enumerate(jax.random.split(key, self.passes), start=1):
            v = _one_pass(attack, model, images, clean, v, pass_key, batch_size=batch_size)
            rate = float(_fooled(model, images, clean, v, batch_size=batch_size))
            best = v if rate > max(rates, default=0.0) else best
            rates.append(rate)
            if on_pass is not None:
                on_pass(number, rate)
            if rate >= float(np.asarray(self.fooling_rate)):
                break
        return Perturbation(best, jnp.asarray(rates, jnp.float32))


def prepare(attack: Attack, model: Classifier, train_images: Any, *, key: Key, **options: Any) -> Attack:
    """Return the attack ready to be called: a UAP is fitted to ``train_images``, any other is unchanged.

    Args:
        attack: any attack.
        model: the classifier to attack.
        train_images: float [N, H, W, C] in [0, 1]; only used by attacks that are fitted.
        key: of the fit.
        options: keyword arguments of ``fit``.
    """
    fit = getattr(attack, "fit", None)
    return attack if fit is None else fit(model, train_images, key=key, **options)


def _beside(model: Classifier, array: jax.Array) -> jax.Array:
    """Put an array on the device with all of the model's weights, if there is one."""
    places = {leaf.sharding for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)}
    one = places.pop() if len(places) == 1 else None
    return jax.device_put(array, one) if isinstance(one, jax.sharding.SingleDeviceSharding) else array


def _added(x: Images, delta: jax.Array) -> Images:
    x = at_least_float32(x)
    return jnp.clip(x + delta[None].astype(x.dtype), min=0.0, max=1.0)


def _logits(model: Classifier, x: Images) -> Logits:
    # A randomised model is judged with fixed keys, the same for the clean and the fooled image.
    return reseed(model, example_keys(root_key(0), x.shape[0]))(x)


def _in_batches(function: Callable[..., jax.Array], batch_size: int, *arrays: jax.Array) -> jax.Array:
    """Return ``function`` of all rows, computed batch by batch, [N]."""
    rows = arrays[0].shape[0]
    filled = -(-rows // batch_size) * batch_size
    index = jnp.minimum(jnp.arange(filled), rows - 1).reshape(-1, batch_size)
    parts = jax.lax.map(lambda chosen: function(*(array[chosen] for array in arrays)), index)
    values: jax.Array = parts.reshape(filled)[:rows]
    return values


@partial(jit_per_class, static_argnames=("batch_size",))
def _predict(model: Classifier, images: Images, *, batch_size: int) -> Labels:
    return _in_batches(lambda x: named(class_logits(model, _logits(model, x))), batch_size, images)


@partial(jit_per_class, static_argnames=("batch_size",))
def _fooled(model: Classifier, images: Images, clean: Labels, v: jax.Array, *, batch_size: int) -> jax.Array:
    def changed(x: Images, before: Labels) -> jax.Array:
        logits = _logits(model, towards(_added(x, v), x))
        fooled = succeeded(open_logits(model, logits, before, targeted=False), before, targeted=False)
        return fooled & (before != NO_CLASS)

    return jnp.mean(_in_batches(changed, batch_size, images, clean), dtype=jnp.float32)


@partial(jit_per_class, static_argnames=("batch_size",))
def _one_pass(
    attack: UAP,
    model: Classifier,
    images: Images,
    clean: Labels,
    v: jax.Array,
    key: Key,
    *,
    batch_size: int,
) -> jax.Array:
    order_key, draw_key = jax.random.split(key)
    order = jax.random.permutation(order_key, images.shape[0])
    batches = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
    inner = DeepFool(overshoot=attack.overshoot, steps=attack.inner_steps, k=attack.k)

    def visit(v: jax.Array, chosen: jax.Array) -> tuple[jax.Array, None]:
        at_v = _added(images[chosen], v)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(draw_key, chosen)
        # DeepFool returns an image that is fooled already unchanged, at no cost.
        before = clean[chosen]
        lacking = inner(model, at_v, jnp.maximum(before, 0), key=keys) - at_v
        lacking = jnp.where((before != NO_CLASS)[:, None, None, None], lacking, 0.0)
        moved = v + jnp.sum(lacking, axis=0).astype(v.dtype)
        return _into_ball(moved, attack.eps, attack.norm), None

    return jax.lax.scan(visit, v, batches)[0]


def _into_ball(v: jax.Array, eps: Scalar, norm: str) -> jax.Array:
    """Return v [H, W, C] projected to the ball around 0, without clipping to the box."""
    if norm == "linf":
        return jnp.clip(v, min=-eps, max=eps)
    length = jnp.linalg.norm(v.ravel())
    return v * jnp.minimum(1.0, eps / jnp.where(length > 0, length, 1.0))
