"""deepsec_jax: attacks, defenses and honest security evaluation of image classifiers, on JAX."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("deepsec_jax")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+source"
