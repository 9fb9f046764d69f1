"""Several classifiers as one: by averaged logits, averaged probabilities, or votes.

Each is a callable pytree, so every attack runs on it unchanged.  A randomised member keeps its keys:
``reseed`` gives every member numbers of its own.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Classifier, Images, Logits
from deepsec_jax.pytree import Struct, field


def _some(value: Any) -> Any:
    """Return the members as a tuple; a check of a field."""
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and not value:
        raise ValueError("is empty: give at least one model")
    return value


class AveragedLogits(Struct):
    """The mean logits of several models: a surrogate whose images transfer to further models.

        z(x) = 1/M sum_m z_m(x)

    Attributes:
        members: classifiers of the same images and classes; none that rejects.

    References:
        Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv:1710.06081.
    """

    members: tuple[Classifier, ...] = field(check=_some)

    def __call__(self, x: Images) -> Logits:
        """Return the mean logits [B, K]."""
        return jnp.stack([member(x) for member in self.members]).mean(axis=0)


class AveragedProbabilities(Struct):
    """The mean probabilities of several models, as logits: softmax(z) is the mean softmax.

        z_k(x) = log 1/M sum_m exp(log softmax(z_m(x))_k)

    Its gradient is exact in float32 down to probabilities of 1e-38: see :func:`log_probabilities`.

    Attributes:
        members: classifiers of the same images and classes; none that rejects.
    """

    members: tuple[Classifier, ...] = field(check=_some)

    def __call__(self, x: Images) -> Logits:
        """Return log mean probabilities [B, K], float32."""
        each = jnp.stack([log_probabilities(member(x)) for member in self.members])
        return jax.nn.logsumexp(each, axis=0) - jnp.log(float(len(self.members)))


class MajorityVote(Struct):
    """The class that most members predict; among classes with equally many votes the most probable one.

        z_k(x) = number of members that predict k + mean probability of k / 2

    It has no gradient that helps an attacker: differentiate :class:`AveragedLogits` of the members instead.

    Attributes:
        members: classifiers of the same images and classes; none that rejects.
    """

    members: tuple[Classifier, ...] = field(check=_some)

    confidences: ClassVar[bool] = False

    def __call__(self, x: Images) -> Logits:
        """Return votes, with ties broken, [B, K]."""
        each = jnp.stack([member(x) for member in self.members])
        votes = jax.nn.one_hot(jnp.argmax(each, axis=-1), each.shape[-1], dtype=each.dtype).sum(axis=0)
        return votes + jax.nn.softmax(each, axis=-1).mean(axis=0) / 2


@jax.custom_jvp
def log_probabilities(logits: Logits) -> Logits:
    """Return log softmax(logits), float32 [B, K], with a derivative that does not lose small probabilities.

        d log p_k = sum_j p_j (d z_k - d z_j)

    The usual form d z_k - sum_j p_j d z_j is 0 for a class with p_k = 1 in float32, so the gradient of a
    confident model vanishes.  Here the other classes' terms are summed without k's own.
    """
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


@log_probabilities.defjvp
def _(primals: tuple[Logits], tangents: tuple[Logits]) -> tuple[Logits, Logits]:
    (logits,), (change,) = primals, tangents
    result = log_probabilities(logits)
    probabilities = jnp.exp(result)
    change = change.astype(jnp.float32)
    without = _sum_without_own
    return result, change * without(probabilities) - without(probabilities * change)


def _sum_without_own(values: jax.Array) -> jax.Array:
    """Return for every class the sum over the other classes [B, K], without subtraction."""
    nothing = jnp.zeros_like(values[..., :1])
    before = jnp.cumsum(jnp.concatenate([nothing, values[..., :-1]], axis=-1), axis=-1)
    after = jnp.cumsum(jnp.concatenate([nothing, values[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    return before + after
