"""Keep freed memory in the process: on a CPU, page faults can take half of a gradient's time.

XLA:CPU allocates the temporaries of every call anew, hundreds of megabytes in large blocks.  glibc returns
such blocks to the system immediately, and gets them back zeroed, page by page.  With memory kept, a gradient
of the paper's MNIST network at batch 128 took 0.78 ms per image on one core instead of 1.48.
"""

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory for the next call; returns whether it succeeded.

    Call it before jax is imported, in a process that computes on a CPU.  Peak memory does not change, but
    used memory is not returned until the process ends.  The same without Python: ``MALLOC_ARENA_MAX=1
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    # One arena, since only the main one can grow without bounds; nothing by mmap; never trimmed.
    return all(mallopt(*option) == 1 for option in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))


def collect_seldom() -> None:
    """Let Python look for unreachable cycles less often: tracing allocates objects by the million."""
    gc.set_threshold(100_000, 20, 50)
