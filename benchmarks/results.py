"""How the benchmarks write what they found: one JSON file per run, and one plain table on the terminal."""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np


def write_json(folder: str, name: str, payload: dict[str, Any]) -> Path:
    """Write ``folder/name.json`` with the machine and the command line beside the figures."""
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **payload}, indent=1, default=_plain) + "\n")
    print(f"written: {path}", file=sys.stderr)
    return path


def machine() -> dict[str, Any]:
    """Return what a reader needs to place the figures."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "command": " ".join(sys.orig_argv[1:]),
        "python": platform.python_version(), "jax": jax.__version__, "device": device.device_kind,
        "devices": jax.device_count(), "cores": cores, "load": list(os.getloadavg()),
    }  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table with aligned columns; floats get four significant digits."""
    cells = [[_cell(value) for value in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles and least value."""
    low, middle, high = np.percentile(np.asarray(values, float), [25, 50, 75])
    return {"median": float(middle), "q25": float(low), "q75": float(high), "least": float(np.min(values))}


def verdict(passed: bool | None) -> str:
    """Return ``ok``, ``FAIL``, or a dash where there is no bar."""
    return "-" if passed is None else "ok" if passed else "FAIL"


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return verdict(bool(value))
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
