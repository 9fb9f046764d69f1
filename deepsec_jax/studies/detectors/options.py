"""Options of ``deepsec evaluate detectors``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepsec_jax.studies.options import InputError, RunOptions, at_least, check_radius, once


@dataclass(frozen=True)
class Options(RunOptions):
    """Score the images of finished attacks, and clean images, with fitted detectors.

    The attacks' images are those that deepsec evaluate attacks has written to the same run directory. The
    clean images are all test images. Each detector has one threshold for all attacks. No attack here knows
    the detector: deepsec evaluate defenses takes the same folders and attacks model and detector together.
    The same command computes only missing cells.

    Attributes:
        detectors: Folders that deepsec defend has written from this model for lid, fs, magnet.
        attacks: Names, e.g. fgsm pgd; default every attack of deepsec evaluate attacks that is
            finished on this model in the run directory.
        n: Only attacks on this number of candidates; default any. A sweep uses theirs, or 1000.
        seed: Only attacks of this seed; default any. A sweep uses theirs, or 0.
        preset: Only attacks of this kind of hyperparameters; default any.
        sweep: Radii, e.g. 0.1 0.2 0.3: FGSM at each, plain and as the best image over all radii up to each.
    """

    detectors: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    n: int | None = None
    seed: int | None = None
    preset: Literal["paper", "strong"] | None = None
    sweep: tuple[float, ...] = ()

    def check(self) -> None:
        """Raise InputError for invalid values."""
        if not self.detectors:
            raise InputError(
                "--detectors names no folder: give those that deepsec defend lid, fs or magnet has written"
            )
        once("--detectors", [str(Path(folder).resolve()) for folder in self.detectors])
        once("--attacks", self.attacks)
        once("--sweep", [f"{eps:g}" for eps in self.sweep])
        at_least("--n", self.n, 1)
        at_least("--seed", self.seed, 0)
        for eps in self.sweep:
            check_radius("--sweep", eps)
        super().check()
