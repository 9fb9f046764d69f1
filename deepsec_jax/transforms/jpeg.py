"""The lossy part of JPEG on the device: colour transform, 8 x 8 cosine transform, quantisation.

Entropy coding loses nothing and is left out.  Baseline JPEG without chroma subsampling (4:4:4), after
ITU-T T.81 and JFIF; quality scales the standard tables as libjpeg does.  A real codec works in fixed
point, so single pixels differ by a level or two.
"""

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

_TO_YCC = np.array([
    [0.299, 0.587, 0.114],
    [-0.168735892, -0.331264108, 0.5],
    [0.5, -0.418687589, -0.081312411],
])  # fmt: skip
_CHROMA_OFFSET = np.array([0.0, 128.0, 128.0])

_FREQUENCY, _POSITION = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
_COSINES = 0.5 * np.cos((2 * _POSITION + 1) * _FREQUENCY * np.pi / 16)
_COSINES[0] /= np.sqrt(2)  # orthonormal: the inverse is the transpose


def quantisation_table(quality: int, *, chroma: bool = False) -> np.ndarray:
    """Return the 8 x 8 table of a quality from 1 to 100."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must lie between 1 and 100, got {quality}")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip(((_CHROMINANCE if chroma else _LUMINANCE) * percent + 50) // 100, 1, 255)


def jpeg(x: Images, quality: int = 90) -> Images:
    """Return what is left of images after JPEG compression.

    Three channels are taken as RGB; any other number as so many grey pictures.

    Args:
        x: images [B, H, W, C] in [0, 1]; rounded to 8 bits first.
        quality: 1 to 100, static.

    Returns:
        Images of the same shape, at 8-bit levels, float32.
    """
    height, width, channels = x.shape[1:]
    colour = channels == 3
    levels = jnp.round(x.astype(jnp.float32) * 255.0)
    if colour:
        levels = jnp.round(
            _mixed(levels, _TO_YCC) + jnp.asarray(_CHROMA_OFFSET, jnp.float32)[None, None, None]
        )
    tables = np.stack([quantisation_table(quality, chroma=colour and c > 0) for c in range(channels)])
    padded = jnp.pad(levels - 128.0, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    decoded = _quantised(padded, jnp.asarray(tables, jnp.float32))[:, :height, :width]
    decoded = jnp.clip(jnp.round(decoded + 128.0), min=0.0, max=255.0)
    if colour:
        decoded = _mixed(
            decoded - jnp.asarray(_CHROMA_OFFSET, jnp.float32)[None, None, None], np.linalg.inv(_TO_YCC)
        )
        decoded = jnp.clip(jnp.round(decoded), min=0.0, max=255.0)
    return decoded / 255.0


def _mixed(x: Images, matrix: np.ndarray) -> Images:
    return jnp.einsum("bhwc,dc->bhwd", x, jnp.asarray(matrix, jnp.float32), precision="highest")


def _quantised(x: Images, tables: Images) -> Images:
    """Round the cosine coefficients of every 8 x 8 block to multiples of the tables [C, 8, 8]."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 8, 8, width // 8, 8, channels)
    cosines = jnp.asarray(_COSINES, jnp.float32)
    steps = tables.transpose(1, 2, 0)[None, None, :, None]
    turned = jnp.einsum("bhiwjc,ui,vj->bhuwvc", blocks, cosines, cosines, precision="highest")
    kept = jnp.round(turned / steps) * steps
    return jnp.einsum("bhuwvc,ui,vj->bhiwjc", kept, cosines, cosines, precision="highest").reshape(x.shape)
