"""The command line: ``deepsec <verb>``, the same as ``python -m deepsec_jax.cli <verb>``.

One file per verb.  Each verb is a frozen dataclass with its options and their help.  Slow imports (jax, TFDS)
are made when a verb runs, so that help appears quickly.
"""

from deepsec_jax.studies.options import InputError

__all__ = ["InputError"]
