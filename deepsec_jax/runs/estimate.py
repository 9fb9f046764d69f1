"""Estimated time of missing cells, and the basis of the estimate."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from deepsec_jax.runs.cells import ATTACK, kind_of
from deepsec_jax.runs.runner import Job


@dataclass(frozen=True)
class Estimate:
    """Time of missing cells, without compilation and metrics.

    Attributes:
        seconds: sum over cells with known work.
        recorded: number of cells whose attack has run in this run directory before.
        counted: number of cells estimated as gradients x the time of one.
        timed: number of cells timed on a few images.
        most_seconds: sum over cells with only an upper bound.
        most: number of these cells.
        gradient_seconds: time of one gradient per image; None if no cell needed it.
        measured: whether it was measured now; otherwise it is from a finished cell.
        unknown: names of attacks without an estimate.
    """

    seconds: float = 0.0
    recorded: int = 0
    counted: int = 0
    timed: int = 0
    most_seconds: float = 0.0
    most: int = 0
    gradient_seconds: float | None = None
    measured: bool = True
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the estimate in one line."""
        known = self.recorded + self.counted + self.timed
        parts = [f"about {duration(self.seconds)} for {_cells(known)}"] if known else []
        if self.recorded:
            parts.append(f"{_cells(self.recorded)} as recorded before")
        if self.timed:
            parts.append(f"{_cells(self.timed)} from a batch that was timed now")
        if self.most:
            parts.append(
                f"at most {duration(self.most_seconds)} for {_cells(self.most)}, "
                "less if images are fooled early"
            )
        if (self.counted or self.most) and self.gradient_seconds is not None:
            source = "measured now" if self.measured else "from a recorded cell"
            each = f"{1000 * self.gradient_seconds:.3g} ms per image, {source}"
            parts.append(f"{_cells(self.counted + self.most)} from the number of gradients ({each})")
        if self.unknown:
            parts.append(f"unknown for {', '.join(self.unknown)}")
        return "; ".join(parts) + "; plus compilation and metrics" if parts else "nothing to compute"


def estimate(
    wanted: Sequence[Job],
    finished: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    gradient_seconds: Callable[[], float],
) -> Estimate:
    """Estimate missing cells from finished ones, or from one bare gradient.

    Args:
        wanted: jobs of the missing cells.
        finished: config and environment of each finished cell.
        gradient_seconds: measures one bare gradient per image; called only if no cell has recorded it.
    """
    per_image: dict[str, float] = {}
    gradients: list[float] = []
    for config, environment in finished:
        if kind_of(config) == ATTACK:
            per_image[_same_work(config)] = environment["seconds"] / config["n"]
            gradients.append(environment["gradient_seconds"])
    one = cache(lambda: gradients[-1] if gradients else gradient_seconds())
    timed: dict[Any, float] = {}
    found: dict[str, Any] = dict.fromkeys(("seconds", "most_seconds"), 0.0)
    found |= dict.fromkeys(("recorded", "counted", "timed", "most"), 0)
    unknown = []
    for job in wanted:
        if kind_of(job.config) == ATTACK and _same_work(job.config) in per_image:
            found["recorded"] += 1
            found["seconds"] += job.images * per_image[_same_work(job.config)]
        elif job.seconds is not None:
            if (same := _same_time(job)) not in timed:
                timed[same] = job.seconds()
            if math.isnan(timed[same]):
                unknown.append(_name(job))
                continue
            found["timed"] += 1
            found["seconds"] += job.images * timed[same]
        elif job.gradients is None:
            unknown.append(_name(job))
        elif job.at_most:
            found["most"] += 1
            found["most_seconds"] += job.images * job.gradients * one()
        else:
            found["counted"] += 1
            found["seconds"] += job.images * job.gradients * one()
    needed = found["counted"] or found["most"]
    return Estimate(
        **found,
        gradient_seconds=one() if needed else None,
        measured=not gradients,
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _same_time(job: Job) -> str:
    """Return a key for cells with equal time per image: attack or detector, model, knowledge."""
    config = job.config
    return repr(
        (_name(job), config.get("knowledge", config.get("access")), config.get("weights"), config.get("kind"))
    )


def _name(job: Job) -> str:
    """Return the name of a job's detector or attack."""
    about = job.config.get("detector") or job.config["attack"]
    return str(about["name"])


def duration(seconds: float) -> str:
    """Return a time span in at most two units: ``1 h 5 min``, ``3 min 20 s``, ``0.4 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _same_work(config: Mapping[str, Any]) -> str:
    """Return a key for equal cost per image: attack, model and data."""
    attack = config["attack"]
    return repr((attack["class"], sorted(attack["hyperparameters"].items()), config["model"], config["data"]))
