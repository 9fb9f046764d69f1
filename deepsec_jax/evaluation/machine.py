"""What times and figures were measured on."""

import os
import platform

import jax

from deepsec_jax import __version__


def machine_facts() -> dict[str, str]:
    """Return what a page says about where its times come from."""
    devices = jax.devices()
    return {
        "Device": f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "Versions": f"deepsec_jax {__version__}, jax {jax.__version__}",
    }
