"""JPEG on the device against Pillow's, which is libjpeg's."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photographs, pictures, through_pillow
from PIL import Image

from deepsec_jax.transforms import jpeg
from deepsec_jax.transforms.jpeg import quantisation_table

PILLOW = {"4:4:4": 0, "4:2:0": 2}
compiled = jax.jit(jpeg, static_argnames=("quality", "subsampling"))


def within(x, theirs, levels, **options):
    """Share of pixels that differ by at most so many grey levels."""
    ours = np.asarray(compiled(jnp.asarray(x), **options))
    return float((np.abs(ours - theirs) * 255 < levels + 0.5).mean())


@pytest.mark.parametrize(("height", "width"), [(28, 28), (35, 51)])
@pytest.mark.parametrize("subsampling", PILLOW)
def test_photographs_are_pillows_bit_for_bit(height, width, subsampling):
    x = photographs(height, width)
    theirs = through_pillow(x, quality=85, subsampling=PILLOW[subsampling])
    assert within(x, theirs, 0, quality=85, subsampling=subsampling) == 1.0


def test_what_is_off_is_seen_even_with_a_level_to_spare():
    x = photographs()
    theirs = through_pillow(x, quality=85, subsampling=2)
    assert within(x, theirs, 0, quality=85, subsampling="4:2:0") == 1.0
    assert within(x, theirs, 1, quality=85, subsampling="4:4:4") < 0.9
    assert within(x, theirs, 1, quality=80, subsampling="4:2:0") < 0.9


@pytest.mark.parametrize(("channels", "quality"), [(3, 90), (1, 5)])
def test_noisy_pictures_are_pillows_too(channels, quality):
    x = pictures(channels=channels)
    options = {"subsampling": 0} if channels == 3 else {}
    assert within(x, through_pillow(x, quality=quality, **options), 0, quality=quality) == 1.0


def test_grey_pictures_have_no_colour_to_halve():
    x = photographs()[..., :1]
    theirs = through_pillow(x, quality=85)
    for subsampling in PILLOW:
        assert within(x, theirs, 0, quality=85, subsampling=subsampling) == 1.0


@pytest.mark.parametrize("quality", [1, 49, 50, 90, 100])
def test_quantisation_tables_are_pillows(quality):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    tables = Image.open(buffer).quantization
    for index, chroma in ((0, False), (1, True)):
        ours = sorted(quantisation_table(quality, chroma=chroma).ravel())
        assert ours == sorted(tables[index])  # Pillow keeps them in zigzag order


def test_rounding_leaves_no_gradient():
    x = jnp.asarray(photographs(16, 16))
    squares = lambda x: (compiled(x, quality=85, subsampling="4:2:0") ** 2).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(squares))(x)
    assert gradient.shape == x.shape and not np.any(gradient)


def test_what_jpeg_does_not_know_is_refused():
    with pytest.raises(ValueError, match="between 1 and 100, got 0"):
        jpeg(jnp.zeros((1, 8, 8, 1)), 0)
    with pytest.raises(ValueError, match="'4:4:4' or '4:2:0', got '4:1:1'"):
        jpeg(jnp.zeros((1, 8, 8, 1)), subsampling="4:1:1")
