"""Options of ``deepsec evaluate attacks``."""

from dataclasses import dataclass
from typing import Literal

from deepsec_jax.studies.options import RunOptions, at_least, once


@dataclass(frozen=True)
class Options(RunOptions):
    """Run attacks on a model and measure them with the paper's utility metrics.

    Each attack is a cell of the run directory. The same command computes only missing cells. If an attack
    fails, the error is recorded and the others continue (exit code 1). Any number of processes may share one
    directory. deepsec report RUN_DIR writes its tables and pages.

    Attributes:
        attacks: Names, e.g. fgsm pgd fgsm@0.5; default the paper's rows that exist, then other attacks.
        n: Number of correctly classified test images to attack.
        seed: Seed of images, targets and random attacks.
        preset: Hyperparameters: paper, or strong for a reliable evaluation.
        metrics: Columns, see deepsec list metrics; default all.
    """

    attacks: tuple[str, ...] = ()
    n: int = 1000
    seed: int = 0
    preset: Literal["paper", "strong"] = "paper"
    metrics: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise InputError or UnknownName for invalid values."""
        from deepsec_jax.evaluation.attack_jobs import column_groups

        at_least("--n", self.n, 1)
        at_least("--seed", self.seed, 0)
        super().check()
        once("--attacks", self.attacks)
        once("--metrics", self.metrics)
        column_groups(self.metrics)
