"""Freed memory is kept: a process that computes on a CPU does not pay for the same pages again and again."""

import subprocess
import sys

import pytest

CHILD = """
import resource, sys
import numpy as np
from deepsec_jax.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
def call():
    for _ in range(4):
        np.ones(16_000_000, np.float64)  # 128 MB, and freed: more than glibc ever keeps by itself
call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True)
    if run.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert not run.returncode, run.stderr
    return int(run.stdout)


def test_freed_memory_is_kept():
    kept = page_faults("keep")
    assert kept < 1000
    assert page_faults("as it comes") > 10 * kept + 1000  # planted: what happens otherwise
