"""Random sizes and places: against Pillow, and which of them are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photographs
from PIL import Image
from scipy import stats

from deepsec_jax.transforms import resize_pad


def keys(rows, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


@pytest.mark.parametrize("side", [33, 36])
def test_a_fixed_size_is_pillows(side):
    x = photographs()
    ours = np.asarray(resize_pad(jnp.asarray(x), keys(3), side, side))
    size = (side, side)
    for image, resized in zip(x, ours, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0]))
        errors = {
            method: np.abs(resized[..., 0] - np.asarray(picture.resize(size, method))).max()
            for method in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
        }
        assert errors.pop(Image.Resampling.BILINEAR) < 1e-5
        assert min(errors.values()) > 0.01  # planted: other filters are seen


def frames(rows, smallest, largest, pad=0.0):
    """Side and place of every image, seen as white on the canvas."""
    white = jnp.ones((rows, 28, 28, 1))
    # Interpolated ones are one only up to rounding, which depends on the processor's instructions.
    inside = np.asarray(resize_pad(white, keys(rows, 1), smallest, largest, pad))[..., 0] > 1.0 - 1e-5
    sides = inside.any(axis=1).sum(axis=1)
    first = np.stack([inside.any(axis=2).argmax(axis=1), inside.any(axis=1).argmax(axis=1)], axis=1)
    assert np.array_equal(inside.sum(axis=(1, 2)), sides**2)  # a square, whole
    return sides, first


def test_sides_and_places_are_uniform_and_both_ends_are_drawn():
    sides, first = frames(4000, 28, 31)
    counts = np.bincount(sides, minlength=32)[28:]
    assert len(counts) == 4 and stats.chisquare(counts).pvalue > 0.01
    assert stats.chisquare(np.array([*counts[:3] + counts[3] // 3, 1])).pvalue < 1e-6  # planted: never 31
    for side in range(28, 32):
        at = first[sides == side]
        places = np.zeros((32 - side, 32 - side), int)
        np.add.at(places, tuple(at.T), 1)
        assert places.min() > 0 and (places.size == 1 or stats.chisquare(places.ravel()).pvalue > 0.001)


def test_around_the_image_is_the_pad_value():
    black = jnp.zeros((50, 28, 28, 3))
    framed = np.asarray(resize_pad(black, keys(50), 28, 31, 0.5))
    assert set(np.unique(framed)) == {0.0, 0.5}
    assert not np.any(resize_pad(black, keys(50), 28, 31, 0.0))


def test_one_size_and_no_room_is_the_image_itself():
    x = jnp.asarray(photographs(28, 28))
    assert np.array_equal(resize_pad(x, keys(3), 28, 28), x)
    assert not np.array_equal(resize_pad(x, keys(3), 28, 29)[:, :28, :28], x)  # planted


def test_what_would_shrink_is_refused():
    with pytest.raises(ValueError, match="need square images no larger, got 8 x 8"):
        resize_pad(jnp.zeros((1, 8, 8, 1)), keys(1), 7, 9)
    with pytest.raises(ValueError, match="need square images no larger, got 8 x 6"):
        resize_pad(jnp.zeros((1, 8, 6, 1)), keys(1), 8, 9)
