"""The images that RGB, RIC and MR 8 bit show the model: Pillow's and scipy's at the paper's values."""

import io

import numpy as np
import pytest
from conftest import make_linear
from PIL import Image, ImageFilter
from scipy import ndimage

from deepsec_jax.evaluation.measured import record_of
from deepsec_jax.metrics import mr, rgb, ric

X = np.random.default_rng(0).uniform(size=(3, 16, 12, 3)).astype(np.float32)
X[0] = np.repeat(np.repeat(X[0, ::4, ::4], 4, axis=0), 4, axis=1)  # flat blocks, as pictures have
LEVELS = np.round(X * 255).astype(np.uint8)


@pytest.fixture
def shown(monkeypatch):
    """Return the images that a column shows to the model, at 8-bit levels."""

    def shown(module, column, x=X):
        monkeypatch.setattr(module, "success_on", lambda record, images, **_: images)
        record = record_of(make_linear(x.shape[1:], 4), x, x, np.zeros(len(x), np.int32))
        seen = np.asarray(column(record), np.float64) * 255
        assert np.allclose(seen, np.round(seen), atol=1e-3), "8-bit levels"
        return np.round(seen).astype(np.uint8)

    return shown


def blurred(radius, levels=LEVELS):
    return np.stack([np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(radius))) for x in levels])


def compressed(levels=LEVELS, **options):
    def one(picture):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", **options)
        return np.asarray(Image.open(buffer))

    return np.stack([one(x) for x in levels])


def test_rgb_is_pillows_blur_of_radius_a_half(shown):
    seen = shown(rgb, rgb.rgb)
    np.testing.assert_array_equal(seen, blurred(0.5))
    assert (seen != blurred(0.8)).any()  # planted


def test_rgb_on_the_device_is_a_gaussian_of_deviation_a_half(shown):
    seen = shown(rgb, rgb.rgb_device).astype(np.float64)
    smooth = ndimage.gaussian_filter(
        LEVELS.astype(np.float64), (0, 0.5, 0.5, 0), mode="nearest", radius=(0, 2, 2, 0)
    )
    assert np.abs(seen - smooth).max() <= 0.5 + 1e-3
    wide = ndimage.gaussian_filter(
        LEVELS.astype(np.float64), (0, 0.8, 0.8, 0), mode="nearest", radius=(0, 2, 2, 0)
    )
    assert np.abs(seen - wide).max() > 2  # planted


@pytest.mark.parametrize("column", ["ric", "ric_device"])
def test_ric_is_pillows_jpeg_of_quality_90_with_colours_at_full_size(column, shown):
    seen = shown(ric, getattr(ric, column))
    np.testing.assert_array_equal(seen, compressed(quality=90, subsampling=0))
    for wrong in ({"quality": 80, "subsampling": 0}, {"quality": 90}):  # planted
        assert (seen != compressed(**wrong)).any()


def test_grey_images_are_as_many_grey_pictures_as_channels(shown):
    two = X[..., :2]
    seen = shown(ric, ric.ric, two)
    for channel in range(2):
        grey = compressed(LEVELS[..., channel], quality=90)
        np.testing.assert_array_equal(seen[..., channel], grey)


def test_mr_8bit_rounds_to_the_nearest_level(shown):
    np.testing.assert_array_equal(shown(mr, mr.mr_8bit), LEVELS)
    assert (np.floor(X * 255) != LEVELS).any()  # planted
