"""Levels and blur against other people's code: NumPy's rounding, SciPy's Gaussian."""

import jax.numpy as jnp
import numpy as np
import pytest
from pictures import pictures
from scipy import ndimage

from deepsec_jax.transforms import gaussian_blur, to_levels


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
