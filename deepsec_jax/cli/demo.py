"""``deepsec demo``."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = 120
"""Model calls per image that an attack of the demo may state; with thousands the demo would take minutes."""

FEWEST = 10
"""Steps or queries that are always left."""


@dataclass(frozen=True)
class Demo:
    """Train a small network on digits, run every attack, and write a report; works offline.

    Attributes:
        run_dir: Folder of the model, the run and the report; each is made once.
        n: Number of test images to attack.
    """

    run_dir: Path = Path("runs/demo")
    n: int = 100

    def run(self) -> int:
        """Train, attack and write the page; return 1 if an attack failed."""
        from deepsec_jax import attacks, data, training
        from deepsec_jax.cli.attack import COLUMNS, Attack, write_page
        from deepsec_jax.cli.evaluate import execute, open_run
        from deepsec_jax.studies.attacks.jobs import jobs_of
        from deepsec_jax.studies.attacks.tables import ATTACKS

        folder = self.run_dir / "model"
        saved = training.train(training.recipe("digits-small"), data.load("digits"), folder)
        accuracy, tested = saved.figures["test_accuracy"], saved.figures["test_images"]
        print(f"model {folder}: test accuracy {100 * accuracy:.1f} % of n = {tested}")
        options = Attack(str(folder), n=self.n, run_dir=self.run_dir / "run")
        options.check()
        run = open_run(ATTACKS, options)
        entries = math.prod(run.dataset.image_shape)
        short = {
            name: shortened(attacks.preset(name, "digits"), classes=run.classes, entries=entries)
            for name in attacks.ATTACKS
        }
        code = execute(
            jobs_of(short, run, n=self.n, seed=0, preset="paper", metrics=COLUMNS), run, unit=ATTACKS.unit
        )
        write_page(run.store.folder, self.run_dir)
        return code


def shortened(attack: Any, *, classes: int, entries: int) -> Any:
    """Return an attack that states at most about :data:`CALLS` model calls per image.

    A search over constants gets few constants and longer steps, any attack fewer steps or queries.

    Args:
        attack: the attack.
        classes: number of classes.
        entries: of an image, height x width x channels.
    """
    from deepsec_jax.attacks.cost import cost

    if hasattr(attack, "search_steps") and hasattr(attack, "c"):
        changes: dict[str, Any] = {"search_steps": 4, "steps": min(60, attack.steps), "c": 0.1}
        if hasattr(attack, "learning_rate"):
            changes["learning_rate"] = 0.1
        if hasattr(attack, "copies"):
            changes["copies"] = 4
        attack = attack.replace(**changes)
    stated = cost(attack, classes=classes, entries=entries)
    calls = 0.0 if stated is None else max(stated.forwards, stated.gradients)
    for name in ("steps", "queries"):
        if calls > CALLS and hasattr(attack, name):
            attack = attack.replace(**{name: max(FEWEST, int(getattr(attack, name) * CALLS / calls))})
    return attack
