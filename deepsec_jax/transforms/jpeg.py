"""The lossy part of JPEG on the device: colour transform, 8 x 8 cosine transform, quantisation.

Entropy coding is lossless and left out.  Baseline JPEG as in ITU-T T.81 and JFIF, with colours at full size
(4:4:4) or at half of it (4:2:0).  It uses the integer arithmetic of libjpeg's default, so the result equals
Pillow's bit for bit.
"""

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.protocols import Images

# ITU-T T.81, tables K.1 and K.2.
_LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# Colours with 16 fractional bits; the last column is added before the shift.
_TO_YCC = np.array([
    [19595, 38470, 7471, 32768],
    [-11059, -21709, 32768, (128 << 16) + 32767],
    [32768, -27439, -5329, (128 << 16) + 32767],
])  # fmt: skip
_TO_RGB = np.array([
    [65536, 0, 91881, 32768],
    [65536, -22554, -46802, 32768],
    [65536, 116130, 0, 32768],
])  # fmt: skip

# The cosine transform with 13 fractional bits, times sqrt(8). As in the fast algorithm, its constants are
# sums of rounded constants, so some differ by one from the rounded cosine; the inverse is the transpose.
_HALF = np.array([
    [8192, 8192, 8192, 8192], [11363, 9633, 6437, 2260], [10703, 4433, -4433, -10703],
    [9633, -2259, -11362, -6436], [8192, -8192, -8192, 8192], [6437, -11362, 2261, 9633],
    [4433, -10704, 10704, -4433], [2260, -6436, 9633, -11363],
])  # fmt: skip
_COSINES = np.concatenate([_HALF, _HALF[:, ::-1] * np.array([[1], [-1]] * 4)], axis=1)


def quantisation_table(quality: int, *, chroma: bool = False) -> np.ndarray:
    """Return the 8 x 8 table of a quality from 1 to 100."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must lie between 1 and 100, got {quality}")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = _CHROMINANCE if chroma else _LUMINANCE
    table: np.ndarray = np.clip((base * percent + 50) // 100, 1, 255)
    return table


def jpeg(x: Images, quality: int = 90, *, subsampling: str = "4:4:4") -> Images:
    """Return images after JPEG compression and decompression.

    Three channels are RGB; with any other number each channel is a grey image.  The gradient is zero because
    of rounding.  An adaptive attacker uses the identity's gradient (``models.wrappers.straight_through``).

    Args:
        x: images [B, H, W, C] in [0, 1]; rounded to 8 bits first.
        quality: 1 to 100, static.
        subsampling: of the two colour differences, static: ``4:4:4`` keeps their size, ``4:2:0`` halves both
            sides, the default of libjpeg and Pillow.  Grey images have none.

    Returns:
        Images of the same shape, at 8-bit levels, float32.
    """
    if subsampling not in ("4:4:4", "4:2:0"):
        raise ValueError(f"subsampling must be '4:4:4' or '4:2:0', got {subsampling!r}")
    height, width, channels = x.shape[1:]
    tables = np.stack([quantisation_table(quality, chroma=channels == 3 and c > 0) for c in range(channels)])
    levels = jnp.round(x.astype(jnp.float32) * 255.0).astype(jnp.int32)
    if channels == 3:
        levels = _mixed(levels, _TO_YCC)
    if channels == 3 and subsampling == "4:2:0":
        small = _coded(_halved(levels[..., 1:]), tables[1:])[:, :, : -(-width // 2)]
        colours = _doubled(small)[:, :height, :width]
        decoded = jnp.concatenate([_coded(levels[..., :1], tables[:1]), colours], axis=-1)
    else:
        decoded = _coded(levels, tables)
    if channels == 3:
        decoded = _mixed(decoded - np.array([0, 128, 128], np.int32)[None, None, None], _TO_RGB)
    return jnp.clip(decoded, min=0, max=255).astype(jnp.float32) / 255.0


def _mixed(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Return the channels mixed by a matrix [3, 4] of 16-bit fractions."""
    matrix = matrix.astype(np.int32)
    mixed = jnp.einsum("bhwc,dc->bhwd", x, matrix[:, :3])
    return (mixed + matrix[:, 3][None, None, None]) >> 16


def _coded(levels: jax.Array, tables: np.ndarray) -> jax.Array:
    """Return integer levels 0 .. 255 [B, H, W, C] after quantisation by tables [C, 8, 8]."""
    batch, height, width, channels = levels.shape
    padded = jnp.pad(levels - 128, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    blocks = padded.reshape(batch, padded.shape[1] // 8, 8, padded.shape[2] // 8, 8, channels)
    cosines = _COSINES.astype(np.int32)
    steps = tables.astype(np.int32).transpose(1, 2, 0)[None, None, :, None]
    turned = _rounded_shift(jnp.einsum("bhiwjc,vj->bhiwvc", blocks, cosines), 11)
    turned = _rounded_shift(jnp.einsum("bhiwvc,ui->bhuwvc", turned, cosines), 15)  # 8 x the coefficients
    kept = jnp.sign(turned) * ((jnp.abs(turned) + 4 * steps) // (8 * steps)) * steps
    back = _rounded_shift(jnp.einsum("bhuwvc,ui->bhiwvc", kept, cosines), 11)
    back = _rounded_shift(jnp.einsum("bhiwvc,vj->bhiwjc", back, cosines), 18)
    return jnp.clip(back.reshape(padded.shape)[:, :height, :width] + 128, min=0, max=255)


def _rounded_shift(x: jax.Array, bits: int) -> jax.Array:
    return (x + (1 << (bits - 1))) >> bits


def _halved(levels: jax.Array) -> jax.Array:
    """Average 2 x 2 levels, halves rounded down and up alternately; repeat the right edge to whole blocks."""
    height, width = levels.shape[1:3]
    wide = jnp.pad(levels, ((0, 0), (0, height % 2), (0, -width % 16), (0, 0)), mode="edge")
    sums = wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2]
    return (sums + (1 + np.arange(sums.shape[2], dtype=np.int32) % 2)[None, None, :, None]) >> 2


def _doubled(levels: jax.Array) -> jax.Array:
    """Double both sides: each new level is 9/16 of the nearest, 3/16 of two and 1/16 of one neighbour."""
    batch, height, width, channels = levels.shape
    near = jnp.pad(levels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = jnp.stack([3 * near[:, 1:-1] + near[:, :-2], 3 * near[:, 1:-1] + near[:, 2:]], axis=2)
    rows = rows.reshape(batch, 2 * height, width + 2, channels)
    left = 3 * rows[:, :, 1:-1] + rows[:, :, :-2] + 8
    right = 3 * rows[:, :, 1:-1] + rows[:, :, 2:] + 7
    return (jnp.stack([left, right], axis=3) >> 4).reshape(batch, 2 * height, 2 * width, channels)
