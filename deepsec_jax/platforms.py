"""The platform that a traced function will run on."""

import jax


def on_cpu() -> bool:
    """Tell whether what is traced now will run on a CPU: jax's default device is one.

    With ``lax.platform_dependent`` every version would be traced, and the model with it.  A program that is
    exported for another platform, or whose arrays are on another device, is right, but may be slower.
    """
    device = jax.config.values["jax_default_device"]
    if device is None:
        return jax.default_backend() == "cpu"
    return (device if isinstance(device, str) else device.platform) == "cpu"
