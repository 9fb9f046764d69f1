"""Options of ``deepsec robustness`` and ``deepsec evaluate robustness``."""

from dataclasses import dataclass
from typing import Literal

from deepsec_jax.studies.options import InputError, RunOptions, at_least, check_radius


@dataclass(frozen=True)
class Options(RunOptions):
    """Answer one question: how robust is this model?

    AutoAttack is run on random test images at one radius, and FMN looks for the smallest change that fools
    the model. The answer is a few sentences, a page, and a list of what was tried and what was not. A folder
    of a defended model is attacked through its surrogate.

    Attributes:
        norm: Norm of the change.
        eps: Radius, e.g. 8/255; default 0.3 in L-inf and 1.5 in L2 for grey images, 8/255 and 0.5 for colour.
        n: Number of random test images, whether they are classified correctly or not.
        seed: Seed of images and attacks.
        version: AutoAttack: standard, or fast with fewer gradients.
        steps: Steps of the search for the smallest change.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: str | None = None
    n: int = 200
    seed: int = 0
    version: Literal["standard", "fast"] = "standard"
    steps: int = 200

    def check(self) -> None:
        """Raise InputError for values that no run can use."""
        at_least("--n", self.n, 1)
        at_least("--seed", self.seed, 0)
        at_least("--steps", self.steps, 1)
        if self.eps is not None and self.norm == "linf":
            check_radius("--eps", radius_of(self.eps))
        elif self.eps is not None:
            radius_of(self.eps)
        super().check()


def radius_of(text: str) -> float:
    """Return the number of a text such as ``8/255`` or ``0.3``.

    Raises:
        InputError: it is no positive number.
    """
    above, _, below = text.partition("/")
    try:
        eps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        eps = float("nan")
    if not 0 < eps < float("inf"):
        raise InputError(f"--eps must be a positive number such as 8/255 or 0.3, got {text!r}")
    return eps
