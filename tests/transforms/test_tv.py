"""Total variation minimisation against other people's solvers, and what the dropped pixels may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photographs, pictures
from scipy import optimize
from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle

from deepsec_jax.transforms import kept_pixels, tv_minimised

LAM = 0.03


def objective(u, x, kept, lam, p, smooth=0.0):
    """What is minimised, of one grey image in float64, and its gradient by hand."""
    row = np.diff(u, axis=0, append=u[-1:])
    column = np.diff(u, axis=1, append=u[:, -1:])
    norm = np.sqrt(row**2 + column**2 + smooth) if p == 2 else None
    variation = norm.sum() if p == 2 else np.sqrt(row**2 + smooth).sum() + np.sqrt(column**2 + smooth).sum()
    value = (kept * (u - x) ** 2).sum() + lam * variation
    if not smooth:
        return value
    by_row = row / (norm if p == 2 else np.sqrt(row**2 + smooth))
    by_column = column / (norm if p == 2 else np.sqrt(column**2 + smooth))
    gradient = 2 * kept * (u - x) - lam * (by_row + by_column)
    gradient[1:] += lam * by_row[:-1]
    gradient[:, 1:] += lam * by_column[:, :-1]
    return value, gradient.ravel()


def by_scipy(x, kept, lam, p):
    """The same minimum by L-BFGS, corners rounded less and less."""
    u = np.where(kept, x, x[kept].mean())
    for smooth in (1e-3, 1e-5, 1e-7, 1e-9):
        found = optimize.minimize(
            lambda flat, smooth=smooth: objective(flat.reshape(x.shape), x, kept, lam, p, smooth),
            u.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 5000},
        )  # fmt: skip
        u = found.x.reshape(x.shape)
    return u


def whole(x):
    return jnp.ones((*x.shape[:3], 1), bool)


def test_with_all_pixels_it_is_chambolles_minimum():
    x = photographs()
    ours = np.asarray(tv_minimised(jnp.asarray(x), whole(x), LAM, sweeps=1500))
    theirs = np.stack([
        denoise_tv_chambolle(channel, LAM / 2, eps=1e-9, max_num_iter=4000)
        for image in x.astype(np.float64) for channel in np.moveaxis(image, 2, 0)
    ])  # fmt: skip
    theirs = np.moveaxis(theirs.reshape(3, 3, 32, 32), 1, 3)
    assert np.abs(ours - theirs).max() * 255 < 0.2
    other = np.asarray(tv_minimised(jnp.asarray(x), whole(x), 1.2 * LAM, sweeps=1500))
    assert np.abs(other - theirs).max() * 255 > 1  # planted: a fifth more weight is seen


def test_each_difference_for_itself_is_scikit_images_split_bregman():
    # Its borders are the input's, mirrored and never changed: inside a flat frame that is no difference.
    x = np.pad(photographs(24, 24)[..., 0], ((0, 0), (6, 6), (6, 6)), constant_values=0.5)
    ours = np.asarray(tv_minimised(jnp.asarray(x)[..., None], whole(x[..., None]), LAM, p=1, sweeps=1500))
    theirs = np.stack([
        denoise_tv_bregman(image, 2 / LAM, max_num_iter=2000, eps=1e-9, isotropic=False)
        for image in x.astype(np.float64)
    ])  # fmt: skip
    assert np.abs(ours[..., 0] - theirs).max() * 255 < 1  # 0.1 in the mean, from their borders inwards
    other = np.asarray(tv_minimised(jnp.asarray(x)[..., None], whole(x[..., None]), LAM, p=2, sweeps=1500))
    assert np.abs(other[..., 0] - theirs).max() * 255 > 2  # planted: the other norm is seen


@pytest.mark.parametrize("p", [1, 2])
def test_from_half_the_pixels_it_is_the_minimum_that_scipy_finds(p):
    x = photographs(12, 12)[..., :1]
    kept = kept_pixels(jax.random.split(jax.random.key(3), 3), (12, 12), 0.5)
    ours = np.asarray(tv_minimised(jnp.asarray(x), kept, LAM, p=p, sweeps=1000), np.float64)
    for image, seen, found in zip(
        x.astype(np.float64)[..., 0], np.asarray(kept)[..., 0], ours[..., 0], strict=True
    ):
        least = objective(by_scipy(image, seen, LAM, p), image, seen, LAM, p)
        assert objective(found, image, seen, LAM, p) < least * 1.001
        # Planted: with all pixels as data it is another problem.
        assert objective(by_scipy(image, np.ones_like(seen), LAM, p), image, seen, LAM, p) > least * 1.01


def test_a_hundred_sweeps_are_near_the_end():
    x = jnp.asarray(photographs())
    kept = kept_pixels(jax.random.split(jax.random.key(0), 3), (32, 32), 0.5)
    end = tv_minimised(x, kept, LAM, sweeps=4000)
    levels = [float(jnp.abs(tv_minimised(x, kept, LAM, sweeps=n) - end).mean()) * 255 for n in (100, 5)]
    assert levels[0] < 0.5 < levels[1]


def few_sweeps(x, lam=LAM, all_pixels=False):
    kept = kept_pixels(jax.random.split(jax.random.key(1), 6), (20, 13), 0.5)
    return tv_minimised(x, jnp.ones_like(kept) if all_pixels else kept, lam, sweeps=3), kept


def test_dropped_pixels_have_no_part_however_few_the_sweeps():
    x = pictures()
    first, kept = few_sweeps(x)
    moved = np.where(np.asarray(kept), x, 1 - x)
    assert np.array_equal(first, few_sweeps(moved)[0])
    assert not np.array_equal(first, few_sweeps(1 - moved)[0])  # planted: kept pixels that move are seen


def test_a_flat_image_stays_and_no_weight_keeps_the_image():
    flat = np.full_like(pictures(), 0.25)
    assert np.allclose(few_sweeps(flat)[0], flat, atol=1e-6)
    assert np.allclose(few_sweeps(pictures(), 0.0, all_pixels=True)[0], pictures(), atol=1e-6)


def test_half_the_pixels_are_kept_all_channels_alike():
    kept = np.asarray(kept_pixels(jax.random.split(jax.random.key(0), 100), (28, 28), 0.5))
    assert kept.shape == (100, 28, 28, 1)
    assert abs(kept.mean() - 0.5) < 4 * 0.5 / np.sqrt(kept.size)
    assert len({image.tobytes() for image in kept}) == 100


def test_gradients_reach_kept_pixels_only():
    gradient = np.asarray(jax.jit(jax.grad(lambda x: (few_sweeps(x)[0] ** 2).sum()))(pictures()))
    kept = np.broadcast_to(np.asarray(few_sweeps(pictures())[1]), gradient.shape)
    assert np.isfinite(gradient).all() and np.any(gradient[kept]) and not np.any(gradient[~kept])


def test_other_norms_are_refused():
    with pytest.raises(ValueError, match="p must be 1 or 2, got 3"):
        tv_minimised(jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1), bool), p=3)
