"""Pictures that the tests of transforms share, and Pillow's JPEG."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data


def pictures(rows=6, height=20, width=13, channels=3, seed=0):
    """Smooth pictures with some noise: what JPEG is made for, at a size that 8 does not divide."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.uniform(size=(rows, height, width, channels)), (0, 3, 3, 0))
    spread = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.clip(spread + 0.02 * rng.normal(size=smooth.shape), 0, 1).astype(np.float32)


def photographs(height=32, width=32):
    """Three photographs in colour, float32 [3, H, W, 3] at 8-bit levels."""
    found = [
        np.asarray(Image.fromarray(picture()).resize((width, height), Image.Resampling.BOX))
        for picture in (data.astronaut, data.coffee, data.chelsea)
    ]
    return np.stack(found).astype(np.float32) / 255


def through_pillow(x, **options):
    levels = np.round(x * 255).astype(np.uint8)
    decoded = []
    for image in levels:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, "JPEG", **options)
        decoded.append(np.asarray(Image.open(buffer)).reshape(image.shape))
    return np.stack(decoded).astype(np.float32) / 255
