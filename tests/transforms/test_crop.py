"""The random crop: against Pillow, and where it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photographs
from PIL import Image
from scipy import stats

from deepsec_jax.transforms import crop_resize


def enlarged(channel, side):
    picture = Image.fromarray(np.ascontiguousarray(channel, np.float32), mode=None)
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def test_every_crop_is_one_of_pillows():
    x = photographs()
    ours = np.asarray(crop_resize(jnp.asarray(x), jax.random.split(jax.random.key(0), 3), 30))
    for image, cropped in zip(x, ours, strict=True):
        errors = [
            np.abs(cropped[..., 0] - enlarged(image[row : row + 30, column : column + 30, 0], 32)).max()
            for row in range(3) for column in range(3)
        ]  # fmt: skip
        errors.sort()
        assert errors[0] < 1e-5 and errors[1] > 0.01  # one place fits, and no other


def test_by_hand():
    # Columns 0, 1, 2 of a ramp; both crops of two columns become three by halving the way between them.
    x = jnp.broadcast_to(jnp.array([0.0, 0.5, 1.0])[None, None, :, None], (8, 3, 3, 1))
    cropped = np.asarray(crop_resize(x, jax.random.split(jax.random.key(0), 8), 2))[:, 0, :, 0]
    for line in cropped:
        assert any(np.allclose(line, start + np.array([0.0, 0.25, 0.5]), atol=1e-6) for start in (0.0, 0.5))
    assert {float(line[0]) for line in cropped.round(3)} == {0.0, 0.5}


def places(size, rows=3000, side=6):
    """Where crops were cut: an image of row and column numbers shows it in its middle."""
    numbers = jnp.arange(side, dtype=jnp.float32)
    x = jnp.stack(jnp.broadcast_arrays(numbers[:, None], numbers[None, :]), axis=-1)
    cropped = crop_resize(
        jnp.broadcast_to(x, (rows, *x.shape)), jax.random.split(jax.random.key(1), rows), size
    )
    return np.asarray(cropped).mean(axis=(1, 2)) - (size - 1) / 2  # [rows, 2]


def test_places_are_uniform_over_all_that_fit():
    found = places(4).round().astype(int)
    counts = np.zeros((3, 3), int)
    np.add.at(counts, tuple(found.T), 1)
    assert counts.min() > 0 and stats.chisquare(counts.ravel()).pvalue > 0.01
    counts[2] = 0  # planted: an upper end that is left out
    assert stats.chisquare(counts.ravel()).pvalue < 1e-6


def test_a_crop_of_the_whole_image_is_the_image():
    x = jnp.asarray(photographs())
    assert np.array_equal(crop_resize(x, jax.random.split(jax.random.key(0), 3), 32), x)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a crop of 9 x 9 does not fit"):
        crop_resize(jnp.zeros((1, 8, 8, 1)), jax.random.split(jax.random.key(0), 1), 9)
