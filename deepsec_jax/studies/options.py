"""Common options of all studies on the command line; a study adds its own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

BatchSize = int | Literal["auto"]
Devices = int | Literal["all"]


class InputError(ValueError):
    """An invalid value on the command line; one line with the value and the remedy."""


@dataclass(frozen=True)
class RunOptions:
    """Model, images and run directory of an evaluation.

    Attributes:
        model: Model folder, or package.module:function that returns a pytree model in eval mode; or --model.
        data: Data set name or path of an .npz; default the set that the model folder was trained on.
        data_dir: Folder of TFDS sets; default TFDS's own.
        batch_size: Images per call; auto is at most 64 on a CPU (fewer for large images), elsewhere as
            many as fit.
        devices: Devices to compute on; rows are split over them.
        run_dir: Run directory; default runs/evaluate/MODEL-DATA.
        distributed: Compute with all processes of jax.distributed; start the same command in each.
        wait: Wait for cells that other processes compute; --no-wait leaves these cells to them.
        spec: TOML file with these options, by these names; the command line takes precedence.
        dry_run: Check everything, print the plan and its estimated time, and write nothing.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    data: str | None = None
    data_dir: Path | None = None
    batch_size: BatchSize = "auto"
    devices: Devices = "all"
    run_dir: Path | None = None
    distributed: bool = False
    wait: bool = True
    spec: Path | None = None
    dry_run: bool = False

    def check(self) -> None:
        """Raise InputError for invalid values; nothing is loaded for it."""
        check_batch_size(self.batch_size)
        check_devices(self.devices)
        if self.distributed:
            check_distributed(self.devices, dry_run=self.dry_run)


def at_least(option: str, value: int | None, least: int) -> None:
    """Raise InputError for a number below the minimum; None is allowed."""
    if value is not None and value < least:
        raise InputError(f"{option} must be at least {least}, got {value}")


def once(option: str, names: Sequence[str]) -> None:
    """Raise InputError for a name that is given twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{option} names {', '.join(twice)} more than once: name each once")


def check_radius(option: str, eps: float | None) -> None:
    """Raise InputError for a radius outside (0, 1]; None is allowed."""
    if eps is not None and not 0 < eps <= 1:
        raise InputError(f"{option} must lie above 0 and be at most 1, the range of a pixel, got {eps:g}")


def check_batch_size(size: BatchSize) -> None:
    """Raise InputError for a number of images below 1."""
    if size != "auto":
        at_least("--batch-size", size, 1)


def check_devices(devices: Devices) -> None:
    """Raise InputError for a number of devices below 1."""
    if devices != "all":
        at_least("--devices", devices, 1)


def check_distributed(devices: Devices, *, dry_run: bool) -> None:
    """Raise InputError for options that --distributed excludes."""
    if dry_run or devices != "all":
        raise InputError("--distributed takes all devices and has no --dry-run: leave the other option out")


_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as ``2h``, ``90min`` or ``45s``.

    Raises:
        InputError: no such time.
    """
    found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?) *(s|m|min|h)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise InputError(f"--budget must be a time such as 2h, 90min or 45s, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]
