"""From the words of a command line to one verb, and from known errors to one line."""

import sys
from collections.abc import Sequence

import tyro

from deepsec_jax.cli.attack import Attack
from deepsec_jax.cli.demo import Demo
from deepsec_jax.cli.list import List
from deepsec_jax.cli.prepare import Prepare
from deepsec_jax.cli.train import Train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``deepsec`` with these arguments (default: the process's) and return the exit code."""
    verb = tyro.cli(
        Train | Attack | Demo | List | Prepare,
        prog="deepsec",
        description="Attack, defend and honestly evaluate image classifiers, on JAX.",
        args=arguments,
    )
    try:
        verb.run()
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_known(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _is_known(error: Exception) -> bool:
    """Tell our own errors, whose message says what to do, and the system's, from bugs."""
    return type(error).__module__.partition(".")[0] == "deepsec_jax" or isinstance(error, OSError)
