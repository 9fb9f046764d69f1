"""deepsec_jax: attacks, defenses and security evaluation of image classifiers, on JAX.

Sub-packages are imported when they are first used: after ``import deepsec_jax``, both
``deepsec_jax.attacks.PGD`` and ``from deepsec_jax import attacks`` work, and ``import deepsec_jax`` alone
does not import jax.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

try:
    __version__ = version("deepsec_jax")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+source"

__all__ = ["attacks", "data", "defenses", "evaluation", "metrics", "models", "training", "transforms"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: its packages are {', '.join(__all__)}"
        )
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]
