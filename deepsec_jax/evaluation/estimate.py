"""How long missing cells will take, and where that figure comes from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """Attack time of missing cells, without compilation and metrics.

    Attributes:
        seconds: sum over the cells that can be estimated.
        recorded: cells whose attack has run in this run directory before.
        counted: cells estimated as gradients x the time of one.
        gradient_seconds: that time per image; None if no cell needed it.
        measured: whether it was measured now; else it is a finished cell's.
        unknown: names of the attacks with neither.
    """

    seconds: float
    recorded: int
    counted: int
    gradient_seconds: float | None
    measured: bool
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line."""
        known = self.recorded + self.counted
        parts = [f"about {duration(self.seconds)} of attack for {_cells(known)}"] if known else []
        if self.recorded:
            parts.append(f"{_cells(self.recorded)} as recorded before")
        if self.counted and self.gradient_seconds is not None:
            source = "measured now" if self.measured else "from a recorded cell"
            each = f"{1000 * self.gradient_seconds:.3g} ms per image, {source}"
            parts.append(f"{_cells(self.counted)} from the number of gradients ({each})")
        if self.unknown:
            parts.append(f"unknown for {', '.join(self.unknown)}")
        return "; ".join(parts) + "; compilation and metrics come on top" if parts else "nothing to attack"


def estimate(
    wanted: Sequence[tuple[Mapping[str, Any], int | None]],
    finished: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    gradient_seconds: Callable[[], float],
) -> Estimate:
    """Estimate missing cells from finished ones, or else from one bare gradient.

    Args:
        wanted: config and gradients per image (None: not known) of each missing cell.
        finished: config and environment of each finished cell.
        gradient_seconds: measures one bare gradient, per image; called only if no cell has recorded it.
    """
    per_image: dict[str, float] = {}
    recorded_gradient: float | None = None
    for config, environment in finished:
        per_image[_kind(config)] = environment["seconds"] / config["n"]
        recorded_gradient = environment["gradient_seconds"]
    known = [config for config, _ in wanted if _kind(config) in per_image]
    others = [(config, count) for config, count in wanted if _kind(config) not in per_image]
    counted = [(config, count) for config, count in others if count is not None]
    each = None
    if counted:
        each = gradient_seconds() if recorded_gradient is None else recorded_gradient
    seconds = sum(config["n"] * per_image[_kind(config)] for config in known)
    seconds += sum(config["n"] * count * (each or 0.0) for config, count in counted)
    return Estimate(
        seconds=seconds,
        recorded=len(known),
        counted=len(counted),
        gradient_seconds=each,
        measured=recorded_gradient is None,
        unknown=tuple(config["attack"]["name"] for config, count in others if count is None),
    )


def duration(seconds: float) -> str:
    """Return a time span in the two units that fit it: ``1 h 5 min``, ``3 min 20 s``, ``0.4 s``."""
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


def _kind(config: Mapping[str, Any]) -> str:
    """Return what two cells share that cost the same per image: attack, model and data."""
    attack = config["attack"]
    return repr((attack["class"], sorted(attack["hyperparameters"].items()), config["model"], config["data"]))
