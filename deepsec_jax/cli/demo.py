"""``deepsec demo``."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Demo:
    """Train a small network on digits, attack it with everything, and write a report; needs no network.

    Attributes:
        run_dir: Where model, candidates and report go; the model is trained once.
        n: Number of test images to attack.
    """

    run_dir: Path = Path("runs/demo")
    n: int = 200

    def run(self) -> None:
        """Run the demo."""
        from deepsec_jax.studies.demo import demo

        demo(self.run_dir, n=self.n)
