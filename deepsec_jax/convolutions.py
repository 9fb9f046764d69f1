"""How XLA computes convolutions on a CPU: in jax 0.10, by a library that is slow at what attacks need.

XLA:CPU of jax 0.10 hands convolutions to YNNPACK, which fuses them with what follows.  Where a layer's output
is kept, as every gradient keeps it, that is slower than XLA's own: the gradient of the paper's MNIST network
took 2.00 ms an image with it on two cores, and 1.20 without.  Logits alone are faster with it.
"""

import os
from importlib.metadata import PackageNotFoundError, entry_points, version

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
"""The flag with no type of fusion behind it."""


def convolve_for_gradients() -> bool:
    """Ask XLA to compute convolutions on a CPU itself; returns whether it was asked.

    For a process that has not computed anything with jax yet.  It leaves ``XLA_FLAGS`` alone where the
    environment has them, empty or not; where jax is not 0.10, because XLA ends a process whose flags it does
    not know; and where jax has a plugin for another device, which computes no convolution on the CPU.
    """
    if "XLA_FLAGS" in os.environ or not _known() or _other_devices():
        return False
    os.environ["XLA_FLAGS"] = FLAG
    return True


def _known() -> bool:
    """Tell whether this XLA has the flag."""
    return version("jaxlib").startswith("0.10.")


def _other_devices() -> bool:
    """Tell whether jax may compute elsewhere than on the CPU."""
    if entry_points(group="jax_plugins"):
        return True
    try:
        version("libtpu")
    except PackageNotFoundError:
        return False
    return True
