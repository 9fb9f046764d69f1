"""``deepsec reproduce``: every study of a plan, from nothing to one site."""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deepsec_jax.cli import InputError
from deepsec_jax.cli.plan import Plan, Stage, read
from deepsec_jax.cli.processes import INTERRUPTED, beside, cores
from deepsec_jax.studies.options import at_least

PATIENCE = 2.0  # seconds between two looks at a lock that another process holds


@dataclass(frozen=True)
class Reproduce:
    """Run every study of the paper and write one site; the same command continues an interrupted run.

    Several processes, also on several machines, may share a run directory: each takes the next command or
    cell that no other works on.

    Attributes:
        plan: digits, mnist or cifar10, or a TOML file of your own.
        run_dir: Run directory; default runs/reproduce/PLAN, with -PRESET if that is given.
        data_dir: Folder of TFDS sets; default TFDS's own.
        preset: Hyperparameters of the defenses; default the plan's.
        only: Stages to run, e.g. attacks security; default all. The stages before them must be finished.
        processes: Processes that share the work on this machine; default the plan's, at most one per core.
        ahead: Go on to the next stage while other processes finish an earlier one, then once more in order;
            for a process beside another one, so it writes no site.
        times: Include values that depend on the clock; without them, runs of one plan give the same bytes.
        dry_run: Print the stages and their commands, and write nothing.
    """

    plan: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PLAN")]
    run_dir: Path | None = None
    data_dir: Path | None = None
    preset: Literal["paper", "strong", "small"] | None = None
    only: tuple[str, ...] = ()
    processes: int | None = None
    ahead: bool = False
    times: bool = True
    dry_run: bool = False

    def run(self) -> int:
        """Run the stages, write the site, and return 1 if a command failed."""
        at_least("--processes", self.processes, 1)
        name = "-".join(filter(None, (Path(self.plan).stem, self.preset)))
        here = self.run_dir or Path("runs") / "reproduce" / name
        plan = read(self.plan, here, self.data_dir, self.preset)
        stages = _chosen(plan, self.only)
        if self.dry_run:
            return _show(plan, stages)
        number = min(plan.processes, cores()) if self.processes is None else self.processes
        failed: list[str] = []
        with beside(self._words(here), number - 1, here / "logs"):
            rounds = [*stages, *stages] if self.ahead else stages
            for place, stage in enumerate(rounds, start=1):
                head, start = f"[{place}/{len(rounds)}] {stage.name}", time.monotonic()
                print(f"{head}: {stage.purpose}", file=sys.stderr)
                for command, code in _run(stage, here / "locks", ahead=self.ahead and place <= len(stages)):
                    if code == INTERRUPTED:
                        return INTERRUPTED
                    if code:
                        failed.append(shown(command))
                print(f"{head}: {(time.monotonic() - start) / 60:.1f} min", file=sys.stderr)
        for line in failed:
            print(f"failed: {line}", file=sys.stderr)
        if (here / "run").is_dir() and not self.ahead:
            from deepsec_jax.studies.site import write_site

            made = [(each.name, each.purpose, list(map(shown, each.commands))) for each in plan.stages]
            index = write_site(
                here / "run", here / "site", title=plan.title, note=plan.note, stages=made, times=self.times
            )
            print(f"site {index}")
        return 1 if failed else 0

    def _words(self, here: Path) -> list[str]:
        """Return the command of a further process."""
        words = ["reproduce", self.plan, "--run-dir", str(here), "--processes", "1", "--ahead"]
        words += ["--data-dir", str(self.data_dir)] if self.data_dir else []
        words += ["--preset", self.preset] if self.preset else []
        words += ["--only", *self.only] if self.only else []
        return words if self.times else [*words, "--no-times"]


def shown(words: Sequence[str]) -> str:
    """Return a command as one would type it."""
    return shlex.join(["deepsec", *words])


def _chosen(plan: Plan, only: Sequence[str]) -> list[Stage]:
    names = [stage.name for stage in plan.stages]
    for name in only:
        if name not in names:
            raise InputError(f"--only names no stage {name!r}: it has {', '.join(names)}")
    return [stage for stage in plan.stages if not only or stage.name in only]


def _show(plan: Plan, stages: Sequence[Stage]) -> int:
    print(f"{plan.title}; nothing is written")
    for stage in stages:
        hours = "" if stage.hours is None else f" About {stage.hours:g} h on two cores."
        print(f"{stage.name}: {stage.purpose}{hours}")
        for command in stage.commands:
            print(f"  {shown(command)}")
    return 0


def _run(stage: Stage, locks: Path, *, ahead: bool = False) -> Iterator[tuple[tuple[str, ...], int]]:
    """Run each command of a stage; yield it and its exit code.

    A command that another process runs is left for later.  Its turn comes when that process is done or dead:
    then it finds the work finished, or continues it.  With ``ahead`` cells of other processes are not waited
    for.
    """
    from filelock import FileLock, Timeout

    from deepsec_jax.cli.main import main

    locks.mkdir(parents=True, exist_ok=True)
    waiting = list(enumerate(stage.commands))
    while waiting:
        left: list[tuple[int, tuple[str, ...]]] = []
        for number, command in waiting:
            # Cells have locks of their own, so that processes share an evaluation.
            lock = FileLock(locks / f"{stage.name}-{number}.lock") if command[0] != "evaluate" else None
            if lock is None and left:  # it needs what an earlier command of another process writes
                left.append((number, command))
                continue
            try:
                if lock is not None:
                    lock.acquire(blocking=False)
            except Timeout:
                left.append((number, command))
                continue
            try:
                yield command, main([*command, "--no-wait"] if ahead and lock is None else command)
            finally:
                if lock is not None:
                    lock.release()
        if left == waiting:
            time.sleep(PATIENCE)
        waiting = left
