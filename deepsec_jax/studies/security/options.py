"""Options of ``deepsec evaluate security``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepsec_jax.studies.options import InputError, RunOptions, at_least, once, seconds_of


@dataclass(frozen=True)
class Options(RunOptions):
    """Run every attack against every defense, and take the worst case per image.

    Each attack is run on the undefended model. Its images are then replayed on each defended model, as in
    the paper. The attack is also run on the defended model itself (white-box), and through the surrogate of
    the defense (adaptive). All models are asked about the same images. Each of these is a cell of the run
    directory; the attacks on the undefended model are those of deepsec evaluate attacks.

    Attributes:
        defenses: Folders that deepsec defend has written from this model, detectors included.
        attacks: Names, e.g. fgsm pgd; default the paper's rows that exist, then other attacks.
        knowledge: What the attacker knows: replayed, white_box, adaptive; default all.
        n: Number of test images that the undefended model classifies correctly.
        seed: Seed of images, targets and attacks.
        preset: Hyperparameters: the paper's tables, or an honest evaluation today.
        budget: Time for all cells, e.g. 2h or 90min: slow cells get fewer images than --n, at least 10.
    """

    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    knowledge: tuple[Literal["replayed", "white_box", "adaptive"], ...] = (
        "replayed",
        "white_box",
        "adaptive",
    )
    n: int = 200
    seed: int = 0
    preset: Literal["paper", "strong"] = "paper"
    budget: str | None = None

    def check(self) -> None:
        """Raise InputError for values that no run can use."""
        if not self.defenses:
            raise InputError("--defenses names no folder: give those that deepsec defend has written")
        once("--defenses", [str(Path(folder).resolve()) for folder in self.defenses])
        once("--attacks", self.attacks)
        once("--knowledge", self.knowledge)
        at_least("--n", self.n, 1)
        if self.budget is not None:
            seconds_of(self.budget)
        at_least("--seed", self.seed, 0)
        super().check()
