"""What tests of several attacks measure, in float64 and apart from the code under test."""

import numpy as np


def violations(x, x_adv, eps, norm) -> int:
    """Count rows outside the box or the eps-ball, measured in float64, beyond one ulp at 1.0 of the dtype.

    ``eps`` is one number or one per row.
    """
    if not len(x):
        return 0
    name = str(x_adv.dtype)
    ulp = {"bfloat16": 2.0**-7, "float16": 2.0**-10}.get(name, 2.0**-23)
    clean = np.asarray(x).astype(np.float64).reshape(len(x), -1)
    moved = np.asarray(x_adv).astype(np.float64).reshape(len(x), -1)
    delta = moved - clean
    size = np.abs(delta).max(axis=1) if norm == "linf" else np.sqrt((delta**2).sum(axis=1))
    outside_ball = ~(size <= np.asarray(eps, np.float64) + ulp)
    outside_box = ~((moved >= 0) & (moved <= 1)).all(axis=1)
    return int((outside_ball | outside_box).sum())


def ever_falls(rates) -> bool:
    """Tell whether a sequence of per-example flags or losses (rows: the sequence) ever decreases."""
    rates = np.asarray(rates, np.float64)
    return bool((np.diff(rates, axis=0) < -1e-6).any())
