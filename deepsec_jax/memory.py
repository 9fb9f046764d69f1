"""How the process keeps its memory: on a CPU, half of a gradient's time can go into page faults.

XLA:CPU asks for the temporaries of every call anew, hundreds of megabytes in large pieces.  glibc returns
such pieces to the system at once and gets them back zeroed, page by page.  Kept, a gradient of the paper's
MNIST network at batch 128 took 0.78 ms an image on one core instead of 1.48.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed for the next call; returns whether it could be told.

    For a process that computes on a CPU, before it imports jax.  Peak memory stays what it was, but memory
    that was used once is not given back until the process ends.  The same without Python:
    ``MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    # One arena, since only the main one can grow without bounds; nothing by mmap; never trimmed.
    return all(mallopt(*option) == 1 for option in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))
