"""Options of ``deepsec evaluate detectors``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepsec_jax.studies.options import InputError, RunOptions, at_least, check_radius, once


@dataclass(frozen=True)
class Options(RunOptions):
    """Ask fitted detectors which images of finished attacks, and which clean ones, they flag.

    The attacks' images are those that deepsec evaluate attacks has written into the same run directory; the
    clean ones are all test images, the same for every attack, and each detector has the one threshold that
    it was fitted with. No attack here knows the detector: deepsec evaluate defenses takes the same folders
    and attacks model and detector together. The same command computes only what is missing.

    Attributes:
        detectors: Folders that deepsec defend has written from this model for lid, fs, magnet.
        attacks: Names, e.g. fgsm pgd; default every finished attack on this model in the run directory.
        n: Only attacks on this number of candidates; default any. A sweep takes theirs, or else 1000.
        seed: Only attacks of this seed; default any. A sweep takes theirs, or else 0.
        preset: Only attacks of this kind of hyperparameters; default any.
        sweep: Radii, e.g. 0.1 0.2 0.3: FGSM at each, plain and with the best image so far carried over.
    """

    detectors: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    n: int | None = None
    seed: int | None = None
    preset: Literal["paper", "strong"] | None = None
    sweep: tuple[float, ...] = ()

    def check(self) -> None:
        """Raise InputError for values that no run can use."""
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
