"""A 95 % interval of the difference of two shares over the same images: score interval of Tango (1998)."""

import math

from scipy import optimize, stats


def paired_interval(gained: int, lost: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of (gained - lost) / n, of n pairs of yes or no.

    Its ends d solve |gained - lost - n d| = z sqrt(n (2 q + d (1 - d))), where q is the maximum likelihood
    estimate of the probability of a loss given the difference d.  Without any change the interval has a width
    of about z^2 / n to each side.

    Args:
        gained: pairs of no and yes.
        lost: pairs of yes and no.
        n: all pairs, at least 1.
        level: of confidence.

    Returns:
        Both ends, in [-1, 1].

    References:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design", Statistics in Medicine 17, 1998.
    """
    z = float(stats.norm.ppf((1.0 + level) / 2.0))
    return -_upper_end(lost, gained, n, z), _upper_end(gained, lost, n, z)


def _upper_end(gained: int, lost: int, n: int, z: float) -> float:
    found = (gained - lost) / n

    def excess(d: float) -> float:
        linear = (2 * n - gained + lost) * d - gained - lost
        q = (math.sqrt(max(linear**2 + 8 * n * lost * d * (1.0 - d), 0.0)) - linear) / (4 * n)
        return gained - lost - n * d + z * math.sqrt(max(n * (2 * q + d * (1.0 - d)), 0.0))

    if gained == n:
        return 1.0
    return float(optimize.brentq(excess, found + 1e-9, 1.0))  # 0 if nothing changed
