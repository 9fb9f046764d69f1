"""A run directory: cells named by a hash of their settings, metric columns, failures, locks, a log.

    RUN/plan.json           the planned cells, in order of first appearance RUN/log.jsonl           a line per
    start, end and failure; only ever appended to RUN/locks/NAME.lock     held (flock) by the process that
    works on the cell, freed when it dies RUN/aside/NAME/         what is being written; nobody reads it
    RUN/cells, RUN/columns, RUN/failed: see :mod:`deepsec_jax.runs.cells`

A file or folder under its final name is complete, because it was written to a temporary path and renamed.  It
is never written again.  A process that writes under a cell's name holds the cell's lock.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from deepsec_jax.runs.atomic import StoreError, write_atomic, write_error
from deepsec_jax.runs.cell_files import (
    DamagedError,
    cell_name,
    check_cell,
    read_arrays,
    read_column,
    read_config,
    read_json,
)
from deepsec_jax.runs.cells import Cell, is_current, superseded

_PARTS = ("plan.json", "log.jsonl", "locks", "aside", "cells", "columns", "failed", "candidates", "report")
_VERSION = ".v"  # in a column's file name, from its second version on
_PLAN_PATIENCE = 60.0  # seconds; the plan's lock is held for milliseconds


@dataclass(frozen=True)
class Store:
    """Reads and writes one run directory.

    Attributes:
        folder: the run directory; created at the first write.
        versions: metric column -> its current version, 1 if not given.  Files of other versions are kept
            and not read.
    """

    folder: Path
    versions: Mapping[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Check before any computation that the folder is a run directory with undamaged records.

        Raises:
            StoreError: it is a file, holds other files, or a record is truncated or edited.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise StoreError(f"{self.folder} is a file: choose another --run-dir")
        strange = sorted({path.name for path in self.folder.iterdir()} - set(_PARTS))
        if strange and not (self.folder / "plan.json").is_file():
            raise StoreError(
                f"{self.folder} holds other files ({', '.join(strange[:3])}): "
                "choose another --run-dir or an empty folder"
            )
        for name in self.plan():
            if self.has_cell(name):
                check_cell(self._cell(name))

    def plan(self) -> dict[str, dict[str, Any]]:
        """Return cell name -> config of all cells ever planned, in order.

        Raises:
            StoreError: damaged, or of a version of deepsec_jax whose figures have another meaning.
        """
        path = self.folder / "plan.json"
        if not path.is_file():
            return {}
        try:
            cells: dict[str, dict[str, Any]] = json.loads(path.read_text())["cells"]
            belong = all(cell_name(config) == name for name, config in cells.items())
            other = next((name for name, config in cells.items() if not is_current(config)), None)
            reason = "a config does not belong to its name"
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            belong, other, reason = False, None, str(error)
        if not belong:
            raise DamagedError(
                f"{path} is damaged ({reason}): remove it, and the same commands write it again"
            )
        if other is not None:
            raise StoreError(
                f"{self.folder} holds cells of another version of deepsec_jax ({other}), whose figures have "
                "another meaning: choose another --run-dir, or remove this one"
            )
        return cells

    def add_to_plan(self, configs: Iterable[Mapping[str, Any]]) -> None:
        """Add cells to the plan; another process may do so at the same time."""
        wanted = {cell_name(config): dict(config) for config in configs}
        if wanted.keys() <= self.plan().keys():
            return
        with self._lock("plan", _PLAN_PATIENCE) as held:
            if not held:
                raise StoreError(
                    f"{self.folder}/locks/plan.lock is held by another process for {_PLAN_PATIENCE:.0f} s: "
                    "end that process and try again"
                )
            known = self.plan()  # again: another process may have added to it
            cells = known | {name: config for name, config in wanted.items() if name not in known}
            text = json.dumps({"cells": cells}, indent=1) + "\n"
            write_atomic(
                self.folder / "plan.json", lambda path: path.write_text(text),
                aside=self.folder / "aside" / "plan", replace=True,
            )  # fmt: skip

    def has_cell(self, name: str) -> bool:
        """Tell whether the cell is finished; columns may still be missing."""
        return self._cell(name).is_dir()

    def columns(self, name: str) -> set[str]:
        """Return the names of the existing columns of the current versions."""
        folder = self.folder / "columns" / name
        stems = {path.stem for path in folder.glob("*.npy")} if folder.is_dir() else set()
        names = {stem.partition(_VERSION)[0] for stem in stems}
        return {column for column in names if self._column(name, column).stem in stems}

    def failures(self, name: str) -> list[dict[str, Any]]:
        """Return the recorded failures of a cell, oldest first; see :meth:`write_failure`."""
        folder = self.folder / "failed" / name
        return [read_json(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []

    @contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Take the cell's lock; give False immediately if another process has it."""
        with self._lock(name, 0.0) as held:
            if held:
                shutil.rmtree(self.folder / "aside" / name, ignore_errors=True)  # left by a process that died
            yield held

    @contextmanager
    def _lock(self, name: str, patience: float) -> Iterator[bool]:
        path = self.folder / "locks" / f"{name}.lock"
        # Without flock raise an error: a soft lock is a file and remains after its process.
        lock = FileLock(path, timeout=patience, fallback_to_soft=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            held = False
        except OSError as error:
            raise write_error(path, error) from error
        else:
            held = True
        try:
            yield held
        finally:
            lock.release()

    def write_cell(
        self, config: Mapping[str, Any], environment: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Write a finished cell; the caller holds its lock."""
        name = cell_name(config)

        def write(folder: Path) -> None:
            folder.mkdir()
            for part, values in (("config", config), ("environment", environment)):
                (folder / f"{part}.json").write_text(json.dumps(values, indent=1) + "\n")
            np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]  # its stub takes no names

        write_atomic(self._cell(name), write, aside=self.folder / "aside" / name)

    def write_column(self, name: str, column: str, values: np.ndarray) -> None:
        """Write one metric column of a cell, float64 [N]; the caller holds the cell's lock."""
        values = np.asarray(values, np.float64)
        path = self._column(name, column)
        write_atomic(path, lambda aside: np.save(aside, values), aside=self.folder / "aside" / name)

    def write_failure(self, name: str, group: str, error: str, traceback: str) -> None:
        """Write a numbered failure of a cell or of a group of its columns; the caller holds its lock."""
        folder = self.folder / "failed" / name
        number = 1 + max((int(path.stem) for path in folder.glob("*.json")), default=0)
        record = {"group": group, "error": error, "traceback": traceback, **_by_whom()}
        text = json.dumps(record, indent=1) + "\n"
        path, aside = folder / f"{number:04}.json", self.folder / "aside" / name
        write_atomic(path, lambda path: path.write_text(text), aside=aside)

    def log(self, event: str, name: str, group: str) -> None:
        """Append a line: ``start``, ``done`` or ``failed``, with cell, group, process and time."""
        path = self.folder / "log.jsonl"
        entry = {"event": event, "cell": name, "group": group, **_by_whom()}
        line = (json.dumps(entry) + "\n").encode()
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:  # one write, so that lines of several processes do not mix
                if os.write(file, line) < len(line):
                    raise OSError("no space left for a line")
            finally:
                os.close(file)
        except OSError as error:
            raise write_error(path, error) from error

    def read_log(self) -> list[dict[str, Any]]:
        """Return the log's entries in order; a line truncated by a full disk is left out."""
        path, entries = self.folder / "log.jsonl", []
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries

    def sweep(self) -> None:
        """Remove temporary files of processes that died, and keep those of running processes."""
        folder = self.folder / "aside"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            with self.lock(path.name):
                pass  # taking the lock clears the folder

    def environment(self, name: str) -> dict[str, Any]:
        """Return versions, device and times of a finished cell."""
        return read_json(self._cell(name) / "environment.json")

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a finished cell."""
        return read_arrays(self._cell(name))

    def cell(self, name: str) -> Cell:
        """Return a finished cell with all its columns."""
        arrays = self.arrays(name)
        rows = len(next(iter(arrays.values())))
        columns = {
            column: read_column(self._column(name, column), rows) for column in sorted(self.columns(name))
        }
        return Cell(name, read_config(self._cell(name)), self.environment(name), arrays, columns)

    def _cell(self, name: str) -> Path:
        return self.folder / "cells" / name

    def _column(self, name: str, column: str) -> Path:
        version = self.versions.get(column, 1)
        stem = column if version == 1 else f"{column}{_VERSION}{version}"
        return self.folder / "columns" / name / f"{stem}.npy"


def read_cells(run_dir: str | os.PathLike[str], versions: Mapping[str, int] | None = None) -> list[Cell]:
    """Return the finished and the failed cells of a run directory, in the order of its plan.

    Cells that are only planned are left out.  So is a cell that was planned again after an attack, a defense
    or a detector had got another version.

    Args:
        run_dir: the run directory.
        versions: of metric columns, see :class:`Store`.

    Raises:
        StoreError: not a run directory, or a damaged record.
    """
    store, cells = Store(Path(run_dir), versions or {}), []
    if not (store.folder / "plan.json").is_file():
        raise StoreError(
            f"no run in {run_dir}: give a folder that deepsec evaluate attacks, defenses or detectors wrote"
        )
    plan = store.plan()
    old = superseded(plan)
    for name, config in plan.items():
        if name in old:
            continue
        if store.has_cell(name):
            cells.append(store.cell(name))
        elif failures := store.failures(name):
            cells.append(Cell(name, config, {}, error=failures[-1]["error"]))
    return cells


def _by_whom() -> dict[str, Any]:
    return {"pid": os.getpid(), "time": time.time()}
