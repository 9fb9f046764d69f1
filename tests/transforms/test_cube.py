"""Points of the hypercube around an image."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from deepsec_jax.transforms import point_in_cube


def points(value, radius, rows=200):
    x = jnp.full((rows, 8, 8, 1), value)
    return np.asarray(point_in_cube(x, jax.random.split(jax.random.key(0), rows), radius)).ravel()


def law(drawn, low, high):
    return stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue


def test_points_are_uniform_within_the_radius():
    assert law(points(0.5, 0.3), 0.2, 0.8) > 0.01
    assert law(points(0.5, 0.15), 0.2, 0.8) < 1e-6  # planted: the radius taken for the side


def test_points_are_clipped_to_the_box():
    drawn = points(0.1, 0.3)
    assert drawn.min() == 0.0 and abs((drawn == 0.0).mean() - 1 / 3) < 0.02
    assert law(drawn[drawn > 0], 0.0, 0.4) > 0.01
    assert points(1.0, 0.3).max() == 1.0


def test_radius_0_is_the_image_and_no_recompile(compiles):
    with compiles() as count:
        assert set(points(0.5, 0.0)) == {0.5}
        points(0.5, 0.7)
        assert count("point_in_cube") <= 1
