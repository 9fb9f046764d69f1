"""Compiled programs are kept on disk, so that a command compiles once and not in every process.

It is jax's own persistent cache, with a folder, a size limit and safety against killed processes.  The
results are those of a fresh compilation, bit for bit.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path

from filelock import FileLock, Timeout

SWITCH = "DEEPSEC_COMPILATION_CACHE"
"""Environment variable: a folder for the programs, or ``off``."""

LARGEST = 1 << 30
"""Size limit of the folder in bytes; jax then removes the programs that were not used for longest."""

WORTH = 0.02
"""Programs that compile in fewer seconds are not kept."""

_LOCK, _ENTRY, _USED = ".lockfile", "-cache", "-atime"  # jax's names
_JAX_DIR = "JAX_COMPILATION_CACHE_DIR"


def keep_programs() -> Path | None:
    """Let jax keep compiled programs on disk; returns the folder, or None if it keeps none.

    Call it before the first computation with jax.  The folder is that of ``DEEPSEC_COMPILATION_CACHE``, by
    default ``deepsec_jax`` in the user's folder of caches, separate for each kind of processor.  It does
    nothing if the variable is ``off``, if jax has a folder already, or if the folder cannot be written.
    Several processes may share it.
    """
    chosen = os.environ.get(SWITCH, "")
    if chosen.lower() == "off" or _JAX_DIR in os.environ:
        return None
    folder = (Path(chosen) if chosen else _default()) / _processor()
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": LARGEST,
        "jax_persistent_cache_min_compile_time_secs": WORTH,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_torn(folder)
    except (OSError, Timeout):
        return None
    if _is_jax_imported():
        import jax

        if jax.config.values["jax_compilation_cache_dir"]:
            return None
        for name, value in settings.items():
            jax.config.update(name, value)
    else:
        for name, value in settings.items():
            os.environ.setdefault(name.upper(), str(value))
    return folder


def remove_torn(folder: Path) -> int:
    """Remove programs that a killed process has left half written; returns their number.

    jax would not overwrite them, and warn in every process.  It notes the time of use after the program, in
    a second file, so an entry without it is torn.
    """
    removed = 0
    with FileLock(folder / _LOCK, timeout=10):  # jax writes under this lock
        for entry in folder.glob(f"*{_ENTRY}"):
            if not entry.with_name(entry.name.removesuffix(_ENTRY) + _USED).exists():
                entry.unlink()
                removed += 1
    return removed


def _is_jax_imported() -> bool:
    """Tell whether jax has read its environment variables already."""
    return "jax" in sys.modules


def _default() -> Path:
    """Return our folder in the user's folder of caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "deepsec_jax"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepsec_jax"


def _processor() -> str:
    """Return a name of the kind of processor: programs may use instructions that another one lacks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    kind = sorted(
        {line for line in lines if line.startswith(("model name", "flags", "Features"))} or lines[:1]
    )
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(kind).encode()).hexdigest()[:12]}"
