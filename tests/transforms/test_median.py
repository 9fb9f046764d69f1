"""The 2 x 2 median against SciPy's, bit for bit, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photographs, pictures
from scipy import ndimage

from deepsec_jax.transforms import median_2x2


@pytest.mark.parametrize("x", [pictures(), photographs(), np.round(pictures(channels=1))], ids=range(3))
def test_it_is_scipys_bit_for_bit(x):
    expected = ndimage.median_filter(x, size=(1, 2, 2, 1))
    ours = np.asarray(median_2x2(jnp.asarray(x)))
    assert np.array_equal(ours, expected) and ours.dtype == x.dtype
    # Planted: the lower of the two middle ones, or a window to the other side, is seen.
    assert not np.array_equal(ours, ndimage.percentile_filter(x, 33, size=(1, 2, 2, 1)))
    assert not np.array_equal(ours, ndimage.median_filter(x, size=(1, 2, 2, 1), origin=(0, -1, -1, 0)))


def test_the_gradient_goes_to_the_pixel_that_was_taken():
    x = jnp.asarray([[0.1, 0.9], [0.5, 0.3]]).reshape(1, 2, 2, 1)
    value, gradient = jax.value_and_grad(lambda x: median_2x2(x)[0, 1, 1, 0])(x)
    assert value == 0.5 and gradient.ravel().tolist() == [0, 0, 1, 0]


def test_rows_do_not_see_each_other():
    x = jnp.asarray(pictures())
    assert np.array_equal(median_2x2(x[2:3])[0], median_2x2(x)[2])
