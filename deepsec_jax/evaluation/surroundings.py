"""What a cell's environment says of software and time."""

import platform
from datetime import UTC, datetime

import flax
import jax
import numpy as np

from deepsec_jax import __version__


def versions() -> dict[str, str]:
    """Return name -> version of what computes."""
    return {
        "deepsec_jax": __version__, "jax": jax.__version__, "flax": flax.__version__,
        "numpy": np.__version__, "python": platform.python_version(),
    }  # fmt: skip


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
