"""Image transforms as pure functions on the device, used by metrics and defenses.

Each maps images [B, H, W, C] in [0, 1] to images, row by row.  Random transforms take one key per row.  All
keep the shape except :func:`resize_pad`, which returns a larger canvas.
"""

from deepsec_jax.transforms.blur import gaussian_blur as gaussian_blur
from deepsec_jax.transforms.crop import crop_resize as crop_resize
from deepsec_jax.transforms.cube import point_in_cube as point_in_cube
from deepsec_jax.transforms.jpeg import jpeg as jpeg
from deepsec_jax.transforms.levels import to_levels as to_levels
from deepsec_jax.transforms.median import median_2x2 as median_2x2
from deepsec_jax.transforms.nlm import non_local_means as non_local_means
from deepsec_jax.transforms.resize import resize_pad as resize_pad
from deepsec_jax.transforms.tv import kept_pixels as kept_pixels
from deepsec_jax.transforms.tv import tv_minimised as tv_minimised
