"""Non-local means against scikit-image's, and its own formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photographs, pictures
from skimage import data
from skimage.restoration import denoise_nl_means

from deepsec_jax.transforms import non_local_means


def scikit_images(x, strength, search=13, patch=3):
    return np.stack([
        denoise_nl_means(
            image.astype(np.float64), patch_size=patch, patch_distance=search // 2, h=strength,
            fast_mode=False, channel_axis=-1,
        )
        for image in x
    ])  # fmt: skip


def by_the_formula(image, strength, search, patch):
    """Pixel by pixel in float64; also with an end to weights below e^-5, as scikit-image has it."""
    height, width, channels = image.shape
    padded = np.pad(image, ((patch // 2,) * 2, (patch // 2,) * 2, (0, 0)), mode="reflect")
    line = np.exp(-0.5 * ((np.arange(patch) - patch // 2) / ((patch - 1) / 4)) ** 2)
    weights = np.outer(line, line) / np.outer(line, line).sum() / (channels * strength**2)
    result = np.zeros((2, *image.shape))
    for row, column in np.ndindex(height, width):
        sums, totals = np.zeros((2, channels)), np.zeros(2)
        here = padded[row : row + patch, column : column + patch]
        for i in range(max(0, row - search // 2), min(height, row + search // 2 + 1)):
            for j in range(max(0, column - search // 2), min(width, column + search // 2 + 1)):
                each = ((here - padded[i : i + patch, j : j + patch]) ** 2).sum(-1) * weights
                weight = np.exp(-each.sum()) * np.array([1, each[:-1].sum() <= 5])
                sums, totals = sums + weight[:, None] * image[i, j], totals + weight
        result[:, row, column] = sums / totals[:, None]
    return result


@pytest.mark.parametrize("strength", [2 / 255, 10 / 255])
def test_it_is_the_formula_and_scikit_images_but_for_what_that_leaves_out(strength):
    x = data.astronaut()[None, 100:116, 100:115].astype(np.float32) / 255  # smooth: at 2 / 255 few are alike
    ours = np.asarray(non_local_means(jnp.asarray(x), strength))[0]
    formula, with_an_end = by_the_formula(x[0].astype(np.float64), strength, 13, 3)
    theirs = scikit_images(x, strength)[0]
    assert np.abs(ours - formula).max() < 1e-5
    # Theirs has an approximate exponential and no weights below e^-5.
    assert np.abs(theirs - with_an_end).max() < 2e-4
    assert np.abs(ours - theirs).max() < 6e-4 < 0.01 < np.abs(x - theirs).max()


@pytest.mark.parametrize(("search", "patch"), [(5, 3), (7, 5), (3, 3)])
def test_other_windows(search, patch):
    x = pictures(rows=2)
    ours = np.asarray(non_local_means(jnp.asarray(x), 0.1, search=search, patch=patch))
    assert np.abs(ours - scikit_images(x, 0.1, search, patch)).max() < 1.5e-3
    assert np.abs(ours - scikit_images(x, 0.1, search + 2, patch)).max() > 0.01  # planted: a wider search


def test_rows_do_not_see_each_other_and_flat_images_stay():
    x = jnp.asarray(photographs(12, 12))
    whole = non_local_means(x)
    assert np.allclose(non_local_means(x[1:2])[0], whole[1], atol=1e-7)
    assert not np.allclose(whole[0], whole[1], atol=0.1)
    flat = jnp.full((1, 8, 8, 3), 0.4)
    assert np.allclose(non_local_means(flat), flat, atol=1e-6)


def test_the_gradient_is_that_of_differences():
    x = jnp.asarray(photographs(10, 10)[:1])
    direction = jnp.asarray(np.random.default_rng(0).normal(size=x.shape), jnp.float32)
    look = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

    def along(step):
        return jnp.vdot(look, non_local_means(x + step * direction, 0.1, search=5))

    slope, step = float(jax.grad(along)(0.0)), 1e-3
    assert slope == pytest.approx(float(along(step) - along(-step)) / (2 * step), rel=2e-2)


@pytest.mark.parametrize("windows", [{"search": 4}, {"patch": 2}, {"patch": 33}])
def test_windows_that_do_not_fit(windows):
    with pytest.raises(ValueError, match=r"odd sides|do not fit"):
        non_local_means(jnp.zeros((1, 8, 8, 3)), **windows)
