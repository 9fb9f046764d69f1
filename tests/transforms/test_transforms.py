"""Transforms against other people's code: NumPy's rounding, SciPy's Gaussian, Pillow's JPEG."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from deepsec_jax.transforms import gaussian_blur, jpeg, to_levels
from deepsec_jax.transforms.jpeg import quantisation_table


def pictures(rows=6, height=20, width=13, channels=3, seed=0):
    """Smooth pictures with some noise: what JPEG is made for, at a size that 8 does not divide."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.uniform(size=(rows, height, width, channels)), (0, 3, 3, 0))
    spread = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.clip(spread + 0.02 * rng.normal(size=smooth.shape), 0, 1).astype(np.float32)


def through_pillow(x, **options):
    levels = np.round(x * 255).astype(np.uint8)
    decoded = []
    for image in levels:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, "JPEG", **options)
        decoded.append(np.asarray(Image.open(buffer)).reshape(image.shape))
    return np.stack(decoded).astype(np.float32) / 255


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


@pytest.mark.parametrize(("channels", "quality"), [(3, 90), (1, 90), (3, 40), (1, 5)])
def test_jpeg_is_pillows_to_a_level_or_two(channels, quality):
    x = pictures(channels=channels)
    ours = np.asarray(jax.jit(jpeg, static_argnums=1)(jnp.asarray(x), quality))
    theirs = (
        through_pillow(x, quality=quality, subsampling=0)
        if channels == 3
        else through_pillow(x, quality=quality)
    )
    off = np.abs(ours - theirs) * 255
    lost = np.abs(x - theirs) * 255
    # A coefficient halfway between two steps may go either way, which moves a whole block a little.
    assert np.median(off) <= 1 and off.mean() <= 0.25 * lost.mean()
    np.testing.assert_allclose(ours, np.round(ours * 255) / 255, atol=1e-6)


def test_jpeg_of_another_quality_is_not_pillows():
    """Planted: the bounds above tell one quality from another."""
    x = pictures()
    ours, theirs = np.asarray(jpeg(jnp.asarray(x), 60)), through_pillow(x, quality=90, subsampling=0)
    assert np.abs(ours - theirs).mean() > 0.25 * np.abs(x - theirs).mean()


@pytest.mark.parametrize("quality", [1, 49, 50, 90, 100])
def test_quantisation_tables_are_pillows(quality):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    tables = Image.open(buffer).quantization
    for index, chroma in ((0, False), (1, True)):
        ours = sorted(quantisation_table(quality, chroma=chroma).ravel())
        assert ours == sorted(tables[index])  # Pillow keeps them in zigzag order


def test_jpeg_refuses_a_quality_that_is_none():
    with pytest.raises(ValueError, match="between 1 and 100, got 0"):
        jpeg(jnp.zeros((1, 8, 8, 1)), 0)
