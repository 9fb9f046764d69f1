"""Software versions and time for a cell's environment."""

import platform
from datetime import UTC, datetime
from importlib import metadata

from deepsec_jax import __version__


def versions() -> dict[str, str]:
    """Return package name -> version."""
    return {
        "deepsec_jax": __version__, **{name: metadata.version(name) for name in ("jax", "flax", "numpy")},
        "python": platform.python_version(),
    }  # fmt: skip


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
