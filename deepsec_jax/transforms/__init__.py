"""Image transforms as pure functions on the device: what metrics and defenses do to pictures.

Each maps images [B, H, W, C] in [0, 1] to images of the same shape, row by row.
"""

from deepsec_jax.transforms.blur import gaussian_blur as gaussian_blur
from deepsec_jax.transforms.jpeg import jpeg as jpeg
from deepsec_jax.transforms.levels import to_levels as to_levels
