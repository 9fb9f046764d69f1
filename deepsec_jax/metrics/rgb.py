"""RGB, robustness to Gaussian blur: successful images that stay successful after blur, radius 0.5."""

import jax
import jax.numpy as jnp
from PIL import Image, ImageFilter

from deepsec_jax.metrics.pictures import through_pictures
from deepsec_jax.metrics.record import AttackRecord, Column, success_on
from deepsec_jax.placement import on_host
from deepsec_jax.transforms import gaussian_blur, to_levels

RADIUS = 0.5
"""Standard deviation in pixels; the paper's value."""


def rgb(record: AttackRecord) -> jax.Array:
    """Return the success [B] of images blurred by Pillow, as the original does (on the host)."""
    blurred = through_pictures(on_host(record.x_adv), _blurred)
    return success_on(record, jnp.asarray(blurred))


def _blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(radius=RADIUS))


def rgb_device(record: AttackRecord) -> jax.Array:
    """Return the success [B] of images blurred by a true Gaussian at 8-bit levels, on the device."""
    return success_on(record, to_levels(gaussian_blur(to_levels(record.x_adv), RADIUS)))


COLUMNS = (
    Column("rgb", "rgb", "RGB", "MR of x_adv after Pillow's GaussianBlur(0.5)", "II-B3",
           "share", "higher", "successful", rgb, rate=True, host=True),
    Column("rgb_device", "rgb", "RGB device", "MR of x_adv after a 5 x 5 Gaussian, sigma 0.5, 8 bits",
           "II-B3", "share", "higher", "successful", rgb_device, rate=True, quick=False),
)  # fmt: skip
