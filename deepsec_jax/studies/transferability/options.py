"""Options of ``deepsec evaluate transferability``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepsec_jax.studies.options import InputError, RunOptions, at_least, once


@dataclass(frozen=True)
class Options(RunOptions):
    """Run attacks on one model and judge their images on others.

    The attacks on the model are the cells of deepsec evaluate attacks. Their images are then classified by
    each of the other models. There are further cells: some attacks on every other model (the matrix) and on
    the mean logits of all models but one, and attacks with different numbers of steps and confidences.

    Attributes:
        models: Folders of the other models, in the paper's order (model 1, 2, 3).
        attacks: Names, e.g. fgsm pgd; default the paper's rows that exist, then other attacks.
        matrix: Attacks that are also made on every other model and on averages of models; none without names.
        steps: Numbers of steps of the curves of transfer against iterations; none without numbers.
        climbs: Attacks of these curves.
        kappas: Confidences of CW2 for the curve of transfer against confidence; none without numbers.
        n: Number of test images that the attacked model classifies correctly.
        seed: Seed of images, targets and attacks.
        preset: Hyperparameters: the paper's tables, or an honest evaluation today.
    """

    models: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    matrix: tuple[str, ...] = ("fgsm", "pgd", "umifgsm", "tmifgsm", "vmifgsm", "simifgsm")
    steps: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    climbs: tuple[str, ...] = ("bim", "umifgsm", "tmifgsm")
    kappas: tuple[float, ...] = (0.0, 5.0, 10.0, 20.0, 40.0)
    n: int = 200
    seed: int = 0
    preset: Literal["paper", "strong"] = "paper"

    def check(self) -> None:
        """Raise InputError for values that no run can use."""
        if not self.models:
            raise InputError("--models names no folder: give those that deepsec train has written")
        folders = [str(Path(folder).resolve()) for folder in (self.model, *self.models)]
        once("MODEL and --models together", folders)
        for option, names in (
            ("--attacks", self.attacks),
            ("--matrix", self.matrix),
            ("--climbs", self.climbs),
        ):
            once(option, names)
        for number in self.steps:
            at_least("--steps", number, 1)
        for kappa in self.kappas:
            if kappa < 0:
                raise InputError(f"--kappas must be at least 0, got {kappa:g}")
        once("--steps", [str(number) for number in self.steps])
        once("--kappas", [f"{kappa:g}" for kappa in self.kappas])
        at_least("--n", self.n, 1)
        at_least("--seed", self.seed, 0)
        super().check()
