"""Options of ``deepsec evaluate ensembles``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepsec_jax.studies.options import InputError, RunOptions, at_least, once

SIZE = 3
"""Number of members of an ensemble, as in the paper."""

Way = Literal["average", "logits", "members"]


@dataclass(frozen=True)
class Options(RunOptions):
    """Combine three defenses at a time, replay attacks on them, and attack the combinations as a whole.

    Completely-random ensembles have three of the given defenses, interclass-random ones one of each of the
    paper's categories, and the best-defense ensemble the paper's best three. A combination averages the
    members' probabilities, as in the paper; a majority vote is computed beside it. The replayed images are
    those of deepsec evaluate attacks, and the images made on one member those of deepsec evaluate security.

    Attributes:
        defenses: Folders that deepsec defend has written from this model; detectors and RC have no
            confidences and are left out.
        attacks: Names of the replayed attacks; default the paper's rows that exist, then other attacks.
        whole: Attacks on the ensembles as a whole; none without names.
        ways: How: through the mean probabilities, through the mean logits, on each member alone; default all.
        repeats: Number of completely-random and of interclass-random ensembles.
        draw: Seed of the random ensembles.
        n: Number of test images that the undefended model classifies correctly.
        seed: Seed of images, targets and attacks.
        preset: Hyperparameters: the paper's tables, or an honest evaluation today.
    """

    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    whole: tuple[str, ...] = ("pgd", "apgd")
    ways: tuple[Way, ...] = ("average", "logits", "members")
    repeats: int = 3
    draw: int = 0
    n: int = 200
    seed: int = 0
    preset: Literal["paper", "strong"] = "paper"

    def check(self) -> None:
        """Raise InputError for values that no run can use."""
        if len(self.defenses) < SIZE:
            raise InputError(
                f"--defenses names {len(self.defenses)} folders: give at least {SIZE} of deepsec defend"
            )
        once("--defenses", [str(Path(folder).resolve()) for folder in self.defenses])
        once("--attacks", self.attacks)
        once("--whole", self.whole)
        once("--ways", self.ways)
        at_least("--repeats", self.repeats, 1)
        at_least("--draw", self.draw, 0)
        at_least("--n", self.n, 1)
        at_least("--seed", self.seed, 0)
        super().check()
