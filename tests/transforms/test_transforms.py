"""Levels and blur against other people's code: NumPy's rounding, SciPy's Gaussian."""

import jax.numpy as jnp
import numpy as np
import pytest
from pictures import pictures
from scipy import ndimage

from deepsec_jax.data import unit_images
from deepsec_jax.transforms import as_bytes, from_bytes, gaussian_blur, to_levels


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_levels(bits):
    x = pictures()
    np.testing.assert_allclose(
        to_levels(jnp.asarray(x), bits), np.round(x * (2**bits - 1)) / (2**bits - 1), atol=1e-7
    )
    assert len(np.unique(np.asarray(to_levels(jnp.asarray(x), bits)))) <= 2**bits


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_blur_is_scipys(sigma):
    x = pictures()
    expected = ndimage.gaussian_filter(
        x.astype(np.float64), (0, sigma, sigma, 0), mode="nearest", radius=(0, 2, 2, 0)
    )
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(x), sigma), expected, atol=1e-5)
    assert np.abs(expected - x).max() > 0.01  # planted: no blur at all is seen


def test_bytes_and_back_bit_for_bit():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = from_bytes(jnp.asarray(pixels))
    assert images.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(images).view(np.int32), unit_images(pixels).view(np.int32))
    np.testing.assert_array_equal(as_bytes(unit_images(pixels)), pixels)
    assert as_bytes(unit_images(pixels)).dtype == np.uint8
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
