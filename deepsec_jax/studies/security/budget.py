"""A time budget: the number of images of each cell, from its time per image."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepsec_jax.evaluation.defense_cells import UNDEFENDED
from deepsec_jax.runs.cells import ATTACK, SECURITY, kind_of
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.options import InputError
from deepsec_jax.studies.run import Run

STEPS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Numbers of images that a budget chooses from."""

NOISE = 2.0
"""Factor by which two measurements of one time may differ."""


def shares(each: Sequence[float], n: int, seconds: float) -> list[int]:
    """Return the number of images of each cell, so that all together take at most this time.

    Every cell gets the same time, and no more images than n.  The others share what a cheap cell leaves.
    Numbers are those of :data:`STEPS`, or n.

    Args:
        each: seconds per image of each cell; NaN is unknown, and counts as the largest known.
        n: most images of a cell.
        seconds: of the budget.

    Raises:
        InputError: the budget does not suffice for the smallest numbers.
    """
    known = [value for value in each if not math.isnan(value)]
    costs = [max(known, default=0.0) if math.isnan(value) else value for value in each]
    allowed = sorted({step for step in STEPS if step < n} | {n})

    def chosen(time: float) -> list[int]:
        """Return the largest numbers whose cells take at most this time each."""
        return [max([step for step in allowed if step * cost <= time], default=allowed[0]) for cost in costs]

    def total(numbers: Sequence[int]) -> float:
        return sum(number * cost for number, cost in zip(numbers, costs, strict=True))

    if total(least := chosen(0.0)) > seconds:
        raise InputError(
            f"--budget leaves {max(seconds, 0.0):.0f} s for attacks, but {allowed[0]} images in each of "
            f"{len(costs)} cells take about {total(least):.0f} s: give more time, or fewer --attacks or "
            "--defenses"
        )
    # Every number changes only at a product of a step and a cost.
    times = sorted({step * cost for step in allowed for cost in costs})
    fitting = [time for time in times if total(chosen(time)) <= seconds]
    return chosen(fitting[-1]) if fitting else least


def place(access: str, attack: str, weights: str = "") -> str:
    """Return the identity of a cell but for its number of images."""
    return " ".join(filter(None, (access, attack, weights)))


def place_of(config: Mapping[str, Any]) -> str:
    """Return the place of a cell of an attack, on a defended model or on the undefended one."""
    access = str(config.get("access", UNDEFENDED))
    return place(access, str(config["attack"]["name"]), config.get("weights", {}).get("defended", ""))


def seconds_of_job(run: Run, job: Job) -> float:
    """Return the time per image of a job; NaN if the attack states no number of calls."""
    if job.gradients is None:
        return math.nan
    if job.seconds is not None:
        return job.seconds()
    return job.gradients * run.gradient_seconds(min(job.images, 64))


def numbers_of(
    jobs: Sequence[Job],
    plan: Mapping[str, Mapping[str, Any]],
    seconds_each: Callable[[Job], float],
    *,
    n: int,
    seconds: float,
) -> dict[str, int]:
    """Return place -> number of images of each attacked cell.

    A number that an earlier call has planned is kept if measured times that are :data:`NOISE` times as long
    or short explain it, so that noise of the clock starts no new cell.

    Args:
        jobs: all cells with n images.
        plan: cell name -> config, of earlier calls.
        seconds_each: returns the time per image of a job.
        n: most images of a cell.
        seconds: of the budget.
    """
    kinds = (ATTACK, SECURITY)
    mine = [job for job in jobs if kind_of(job.config) in kinds]
    others = (job.images * seconds_each(job) for job in jobs if kind_of(job.config) not in kinds)
    seconds -= sum(time for time in others if not math.isnan(time))
    each = [seconds_each(job) for job in mine]
    numbers = shares(each, n, seconds)
    more = shares(each, n, NOISE * max(seconds, 0.0))
    fewer = shares([NOISE * cost for cost in each], n, max(seconds, NOISE * _least(each, n)))
    shared = ("data", "model", "seed", "images")
    earlier: dict[str, set[int]] = {}
    for config in plan.values():
        if kind_of(config) in kinds and all(config.get(key) == mine[0].config.get(key) for key in shared):
            earlier.setdefault(place_of(config), set()).add(int(config["n"]))
    found = {}
    for job, low, number, high in zip(mine, fewer, numbers, more, strict=True):
        where = place_of(job.config)
        near = {planned for planned in earlier.get(where, ()) if low <= planned <= high}
        found[where] = number if number in near or not near else max(near)
    return found


def _least(each: Sequence[float], n: int) -> float:
    """Return the time of the smallest number of images in every cell."""
    known = [value for value in each if not math.isnan(value)]
    return min(STEPS[0], n) * sum(max(known, default=0.0) if math.isnan(cost) else cost for cost in each)
