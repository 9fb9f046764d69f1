"""The command line: ``deepsec <verb>``, the same as ``python -m deepsec_jax.cli <verb>``.

One file per verb; each verb is a frozen dataclass, which is also its options and their help.  Whatever
is slow to import (jax, TFDS) is imported where a verb runs, so that help appears at once.
"""

from deepsec_jax.studies.options import InputError

__all__ = ["InputError"]
