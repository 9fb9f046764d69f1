"""Thermometer encoding: images as levels, levels as bits, and a surrogate gradient."""

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.protocols import Classifier, Images, Logits
from deepsec_jax.pytree import Struct, static


def level_of(x: Images, levels: int) -> jax.Array:
    """Return the level of each value in [0, 1], int32, 0 .. levels - 1; all have equal width."""
    return jnp.clip(jnp.floor(x * levels), min=0, max=levels - 1).astype(jnp.int32)


def bits_of(level: jax.Array, levels: int) -> jax.Array:
    """Return the thermometer of each level: bit k is set if the level is k or more; float32 [..., levels]."""
    return (level[..., None] >= rungs(level.ndim, levels)).astype(jnp.float32)


def rungs(rank: int, levels: int) -> jax.Array:
    """Return 0 .. levels - 1 along the last axis after ``rank`` others, int32 [1, ..., 1, levels]."""
    return jnp.arange(levels, dtype=jnp.int32).reshape((1,) * rank + (levels,))


def flattened(bits: jax.Array) -> Images:
    """Return bits [B, H, W, C, levels] as channels [B, H, W, C levels]."""
    return bits.reshape(*bits.shape[:-2], bits.shape[-2] * bits.shape[-1])


def encode(x: Images, levels: int) -> Images:
    """Return the thermometer code of images: [B, H, W, C] in [0, 1] -> bits [B, H, W, C levels].

        t_k = 1 where x levels >= k,   k = 0 .. levels - 1

    Bit 0 is always set.  The bits of a channel are adjacent.
    """
    return flattened(bits_of(level_of(x, levels), levels)).astype(x.dtype)


def decode(code: Images, levels: int) -> Images:
    """Return the centre of each level: bits [B, H, W, C levels] -> images [B, H, W, C] in [0, 1]."""
    bits = code.reshape(*code.shape[:-1], code.shape[-1] // levels, levels)
    return (bits.sum(axis=-1) - 0.5) / levels


class Thermometer(Struct):
    """A network of thermometer codes; its gradient with respect to the image is exactly zero.

    Attributes:
        network: codes [B, H, W, C levels] -> logits.
        levels: static.
    """

    network: Classifier
    levels: int = static(16)

    def __call__(self, x: Images) -> Logits:
        """Return the logits [B, K] of images."""
        return self.network(encode(x, self.levels))

    def seen(self, x: Images) -> Images:
        """Return the decoded images: the centre of each value's level."""
        return decode(encode(x, self.levels), self.levels)


class SmoothThermometer(Struct):
    """The same network with a useful gradient (BPDA): exact bits forward, ramps backward.

        forward  t_k = [x levels >= k]
        back     t_k = clip((x levels - k + 1) / 2, 0, 1),   k >= 1

    so each value has a gradient through the two adjacent bits: the one that a smaller value would clear, and
    the one that a larger value would set.  The ramps of Athalye et al. span one level, min(max(x levels - k,
    0), 1), and include only one of the two.  Then a value in the lowest level (in their code, the highest)
    has no gradient, and most of MNIST is there.

    Attributes:
        network: codes [B, H, W, C levels] -> logits.
        levels: static.

    References:
        Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018,
        arXiv:1802.00420, section 5.1.
    """

    network: Classifier
    levels: int = static(16)

    def __call__(self, x: Images) -> Logits:
        """Return the logits [B, K] of images."""
        return self.network(smooth_encode(x, self.levels))


def smooth_encode(x: Images, levels: int) -> Images:
    """Return :func:`encode`, whose gradient is that of the ramps."""
    level = level_of(lax.stop_gradient(x), levels)
    bits, every = bits_of(level, levels).astype(x.dtype), rungs(x.ndim, levels)
    beside = (every >= level[..., None]) & (every <= level[..., None] + 1) & (every >= 1)
    ramp = (0.5 * levels) * beside.astype(x.dtype) * x[..., None]
    return flattened(bits + (ramp - lax.stop_gradient(ramp)))
