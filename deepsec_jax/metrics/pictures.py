"""Conversion of images to Pillow and back, on the host; shared by metrics with an image codec."""

from collections.abc import Callable

import numpy as np
from PIL import Image


def through_pictures(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Round images to 8 bits, apply ``change`` to each as a Pillow image, and return float32 in [0, 1].

    Three channels are one RGB image; with any other number each channel is a grey image.

    Args:
        images: [N, H, W, C] in [0, 1].
        change: function from image to image of the same size and mode.
    """
    levels = np.round(np.asarray(images, np.float32) * 255.0).astype(np.uint8)
    if levels.shape[3] == 3:
        pictures = [np.asarray(change(Image.fromarray(image))) for image in levels]
        changed = np.stack(pictures) if pictures else levels
    else:
        changed = np.empty_like(levels)
        for row, image in enumerate(levels):
            for channel in range(levels.shape[3]):
                changed[row, :, :, channel] = np.asarray(change(Image.fromarray(image[:, :, channel])))
    return changed.astype(np.float32) / np.float32(255)
