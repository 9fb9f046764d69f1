"""Several processes at once, for tests of ``jax.distributed`` on loopback."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path


def environment(devices: int) -> dict[str, str]:
    """Return the environment of a child with this many devices."""
    tests = Path(__file__).parent
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    path = os.pathsep.join((str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")))
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}


def free_address():
    """Return an address on this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


Programs = Sequence[tuple[Sequence[str], dict[str, str]]]
"""Commands, each with its environment."""


def run_together(programs: Programs) -> list[str]:
    """Run commands at the same time; return what they print.

    A command that fails, or takes more than ten minutes, fails the test.
    """
    said = ended_together(programs)
    for code, _, error in said:
        assert code == 0, error[-3000:]
    return [out for _, out, _ in said]


def ended_together(programs: Programs) -> list[tuple[int, str, str]]:
    """Run commands at the same time; return the exit code of each, and its two streams."""
    children = [
        subprocess.Popen(words, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for words, env in programs
    ]
    try:
        said = [child.communicate(timeout=600) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *streams) for child, streams in zip(children, said, strict=True)]
