"""Options of ``deepsec evaluate defenses``."""

from dataclasses import dataclass
from pathlib import Path

from deepsec_jax.studies.options import InputError, RunOptions, at_least, check_radius, once


@dataclass(frozen=True)
class Options(RunOptions):
    """Compare defended models with the undefended one, on clean images and under attack.

    Clean: the paper's utility metrics over all test images, or clean-n random ones. Under attack,
    over n random ones: images replayed from the undefended model, PGD on the defended model itself, and
    an adaptive attack through the surrogate that the defense names. Each is a cell of the run directory,
    which may be that of deepsec evaluate attacks. The same command computes only missing cells.

    Attributes:
        defenses: Folders that deepsec defend has written from this model.
        n: Number of test images to attack, drawn at random, whether they are classified correctly or not; 0
            attacks none.
        clean_n: Number of clean test images for the utility metrics, drawn at random; default all.
        seed: Seed of images and attacks.
        eps: L-inf radius of all attacks; default 0.3 for grey images and 8/255 for colour images.
        steps: Steps of each run of the adaptive attack.
        restarts: Runs of the adaptive attack towards other classes, the nearest first.
        queries: Forwards of its final random search; 0 for none.
    """

    defenses: tuple[str, ...] = ()
    n: int = 1000
    clean_n: int | None = None
    seed: int = 0
    eps: float | None = None
    steps: int = 100
    restarts: int = 5
    queries: int = 1000

    def check(self) -> None:
        """Raise InputError for invalid values."""
        if not self.defenses:
            raise InputError("--defenses names no folder: give those that deepsec defend has written")
        once("--defenses", [str(Path(folder).resolve()) for folder in self.defenses])
        for option, value, least in (
            ("--n", self.n, 0), ("--seed", self.seed, 0), ("--steps", self.steps, 1),
            ("--restarts", self.restarts, 1), ("--queries", self.queries, 0), ("--clean-n", self.clean_n, 1),
        ):  # fmt: skip
            at_least(option, value, least)
        check_radius("--eps", self.eps)
        super().check()
