"""Images through Pillow and back, on the host: what metrics with a real picture codec share."""

from collections.abc import Callable

import numpy as np
from PIL import Image


def through_pictures(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Round images to 8 bits, pass each through ``change`` as a picture, and return float32 in [0, 1].

    Three channels are one RGB picture; any other number are so many grey pictures.

    Args:
        images: [N, H, W, C] in [0, 1].
        change: from picture to picture of the same size and mode.
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
