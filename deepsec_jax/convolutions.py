"""Convolutions on a CPU: in jax 0.10 XLA uses a library that is slow for gradients.

XLA:CPU of jax 0.10 uses YNNPACK for convolutions, which fuses them with the next operations.  If a layer's
output is stored, as in every gradient, this is slower than XLA's own: the gradient of the paper's MNIST
network took 2.00 ms per image with it on two cores, and 1.20 without.  Forward passes alone are faster with
it.
"""

import os
from importlib.metadata import PackageNotFoundError, entry_points, version

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
"""The flag with an empty list of fusion types."""


def convolve_for_gradients() -> bool:
    """Make XLA compute convolutions on a CPU itself; returns whether the flag was set.

    Call it before the first computation with jax.  It does nothing if ``XLA_FLAGS`` is set, even if empty; if
    jax is not 0.10, because XLA ends a process with unknown flags; or if jax has a plugin for another device.
    """
    if "XLA_FLAGS" in os.environ or not _known() or _other_devices():
        return False
    os.environ["XLA_FLAGS"] = FLAG
    return True


def _known() -> bool:
    """Tell whether this XLA has the flag."""
    return version("jaxlib").startswith("0.10.")


def _other_devices() -> bool:
    """Tell whether jax may compute on another device than the CPU."""
    if entry_points(group="jax_plugins"):
        return True
    try:
        version("libtpu")
    except PackageNotFoundError:
        return False
    return True
