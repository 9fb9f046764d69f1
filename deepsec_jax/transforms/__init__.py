"""Image transforms as pure functions on the device, used by metrics and defenses.

Each maps images [B, H, W, C] in [0, 1] to images, row by row.  Random transforms take one key per row.  All
keep the shape except :func:`resize_pad`, which returns a larger canvas.
"""

from deepsec_jax.transforms.blur import gaussian_blur
from deepsec_jax.transforms.crop import crop_resize
from deepsec_jax.transforms.cube import point_in_cube
from deepsec_jax.transforms.jpeg import jpeg
from deepsec_jax.transforms.levels import to_levels
from deepsec_jax.transforms.median import median_2x2
from deepsec_jax.transforms.nlm import non_local_means
from deepsec_jax.transforms.resize import resize_pad
from deepsec_jax.transforms.tv import kept_pixels, tv_minimised

__all__ = [
    "crop_resize",
    "gaussian_blur",
    "jpeg",
    "kept_pixels",
    "median_2x2",
    "non_local_means",
    "point_in_cube",
    "resize_pad",
    "to_levels",
    "tv_minimised",
]


def __dir__() -> list[str]:
    return __all__
