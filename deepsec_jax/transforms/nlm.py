"""Non-local means: every pixel becomes a weighted mean of nearby pixels with similar patches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Images, Scalar


@partial(jax.jit, static_argnames=("search", "patch"))
def non_local_means(x: Images, strength: Scalar = 2 / 255, *, search: int = 13, patch: int = 3) -> Images:
    """Return denoised images.

        y_i = sum_j w_ij x_j / sum_j w_ij,     w_ij = exp(-|P_i - P_j|^2 / (C strength^2))

    over the pixels j of the search window around i that lie in the image.  ``|P_i - P_j|^2`` is the mean
    squared difference of both patches, summed over channels, with Gaussian weights of standard deviation
    (patch - 1) / 4.  At the edge the image is mirrored at its outermost pixels.  All channels share their
    weights.

    Equal to ``skimage.restoration.denoise_nl_means(fast_mode=False)``, except that the exponential is exact
    and small weights are kept.

    Differentiable; the backward pass needs no more memory than the forward pass.

    Args:
        x: images [B, H, W, C] in [0, 1].
        strength: scale of the distance between patches, in units of the [0, 1] pixel range.
        search: side of the search window in pixels, odd, static.
        patch: side of a patch in pixels, odd, static.

    Returns:
        Images of the same shape and dtype, within the range of the image's own pixels.

    References:
        Buades, Coll, Morel, "A Non-Local Algorithm for Image Denoising", CVPR 2005.
    """
    height, width, channels = x.shape[1:]
    if search % 2 != 1 or patch % 2 != 1 or min(search, patch) < 1:
        raise ValueError(f"windows have odd sides, got search={search}, patch={patch}")
    margin, reach = patch // 2, search // 2
    if min(height, width) <= margin:
        raise ValueError(f"patches of {patch} x {patch} do not fit images of {height} x {width}")
    mirrored = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    around = jnp.pad(mirrored, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    inside = jnp.pad(jnp.ones((1, height, width), x.dtype), ((0, 0), (reach, reach), (reach, reach)))
    sharpness = 1.0 / (channels * jnp.asarray(strength, x.dtype) ** 2)
    weights = _gaussian(patch)

    @partial(jax.checkpoint, prevent_cse=False)  # otherwise the gradient stores the differences of all shifts
    def shifted(mirrored: Images, around: Images, shift: jax.Array) -> tuple[jax.Array, Images]:
        row, column = shift
        other = lax.dynamic_slice(around, (0, row, column, 0), mirrored.shape)
        distance = jnp.sum((mirrored - other) ** 2, axis=-1)
        distance = _total([w * distance[:, i : i + height] for i, w in enumerate(weights)])
        distance = _total([w * distance[:, :, i : i + width] for i, w in enumerate(weights)])
        there = lax.dynamic_slice(inside, (0, row, column), (1, height, width))
        weight = there * jnp.exp(-sharpness * distance)
        return weight, weight[..., None] * other[:, margin : margin + height, margin : margin + width]

    def add(sums: tuple[jax.Array, Images], shift: jax.Array) -> tuple[tuple[jax.Array, Images], None]:
        weight, weighted = shifted(mirrored, around, shift)
        return (sums[0] + weight, sums[1] + weighted), None

    shifts = jnp.stack(jnp.meshgrid(jnp.arange(search), jnp.arange(search), indexing="ij"), -1).reshape(-1, 2)
    nothing = varying_alike((jnp.zeros(x.shape[:3], x.dtype), jnp.zeros_like(x)), x)
    total, weighted = lax.scan(add, nothing, shifts)[0]
    return weighted / total[..., None]  # a pixel has weight 1 for itself: the total is at least 1


def _gaussian(patch: int) -> list[float]:
    """Return the weights along one side of a patch; their sum is 1."""
    offsets = np.arange(patch) - patch // 2
    weights = np.exp(-0.5 * (offsets / max((patch - 1) / 4, 1e-9)) ** 2)
    return [float(weight) for weight in weights / weights.sum()]


def _total(parts: list[jax.Array]) -> jax.Array:
    return sum(parts[1:], parts[0])
