"""ASS, average structural similarity (Wang et al., Image quality assessment, IEEE TIP 2004).

As scikit-image's ``structural_similarity`` by default: a uniform 7 x 7 window, sample covariances, mean over
windows inside the image and over channels.
"""

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column
from deepsec_jax.metrics.windows import window_mean, window_sum
from deepsec_jax.protocols import Images


def ssim(x: Images, y: Images, *, data_range: float = 1.0) -> jax.Array:
    """Return the structural similarity of each pair of images [B], at most 1.

    Variances are sums of squared distances from the window's mean: E[x^2] - E[x]^2 would lose all digits in
    flat areas in float32.

    Args:
        x: images [B, H, W, C].
        y: images [B, H, W, C].
        data_range: largest minus smallest possible value of an image.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    side = min(7, *x.shape[1:3])
    side -= 1 - side % 2  # odd, and inside a smaller image
    norm = max(side**2 - 1, 1)
    mean_x, mean_y = window_mean(x, side), window_mean(y, side)
    cov_xx = window_sum((x,), side, lambda a: (a - mean_x) ** 2) / norm
    cov_yy = window_sum((y,), side, lambda b: (b - mean_y) ** 2) / norm
    cov_xy = window_sum((x, y), side, lambda a, b: (a - mean_x) * (b - mean_y)) / norm
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * cov_xy + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (cov_xx + cov_yy + c2)
    )
    return jnp.mean(similarity, axis=(1, 2, 3))


def ass(record: AttackRecord) -> jax.Array:
    """Return the structural similarity of x and x_adv [B] with the true data range, 1."""
    return ssim(record.x, record.x_adv)


def ass_original(record: AttackRecord) -> jax.Array:
    """Return it as the original measured it [B]: levels 0..255, but a data range of 2."""
    x, y = (jnp.round(image.astype(jnp.float32) * 255.0) for image in (record.x, record.x_adv))
    return ssim(x, y, data_range=2.0)


COLUMNS = (
    Column("ass", "ass", "ASS", "SSIM(x, x_adv), 7 x 7 uniform window, data range 1", "II-B2",
           "similarity", "higher", "successful", ass, bounds=(-1, 1)),
    Column("ass_original", "ass", "ASS original", "SSIM of levels 0..255 with data range 2, an oversight",
           "code", "similarity", "higher", "successful", ass_original, bounds=(-1, 1), quick=False),
)  # fmt: skip
