"""Bytes and float32 images: the table is NumPy's division, and what is no byte is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax.data import unit_images
from deepsec_jax.pixels import as_bytes, from_bytes


def test_bytes_and_back_bit_for_bit():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = from_bytes(jnp.asarray(pixels))
    assert images.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(images).view(np.int32), unit_images(pixels).view(np.int32))
    np.testing.assert_array_equal(as_bytes(unit_images(pixels)), pixels)
    assert as_bytes(unit_images(pixels)).dtype == np.uint8
    turned = unit_images(pixels).transpose(0, 2, 1, 3)  # not contiguous
    np.testing.assert_array_equal(as_bytes(turned), pixels.transpose(0, 2, 1, 3))
    multiplied = pixels.astype(np.float32) * np.float32(1 / 255)
    assert (multiplied != unit_images(pixels)).any()  # planted


BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, -1 / 255, 256 / 255, 0.5, BELOW_ONE])
def test_images_that_no_bytes_give(value):
    images = np.zeros((1, 2, 2, 1), np.float32)
    assert as_bytes(images) is not None
    images[0, 1, 1, 0] = np.float32(value)
    assert as_bytes(images) is None
    assert as_bytes(images.astype(np.float64)) is None
