"""``deepsec attack``: the attacks study with few columns, a page, and the images as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deepsec_jax.studies.attacks.options import Options

if TYPE_CHECKING:
    from deepsec_jax import protocols
    from deepsec_jax.runs.runner import Job
    from deepsec_jax.runs.store import Store
    from deepsec_jax.studies.run import Run

COLUMNS = ("mr", "mr_8bit", "clean_error", "l0", "l2", "linf", "cc", "cc_gradients")


@dataclass(frozen=True)
class Attack(Options):
    """Attack a model: a table, a page with pictures, and the adversarial examples.

    The same as deepsec evaluate attacks with fewer images and columns, and its report. If it is interrupted,
    run it again.

    Attributes:
        n: Number of correctly classified test images to attack.
        metrics: Columns, see deepsec list metrics.
        export: npz writes RUN_DIR/aes/CELL.npz for each attack; deepsec_jax.attacks.load and NumPy read it.
    """

    n: int = 200
    metrics: tuple[str, ...] = COLUMNS
    export: Literal["nothing", "npz"] = "nothing"

    def run(self) -> int:
        """Attack, or resume an interrupted run; return 1 if an attack failed."""
        self.check()
        from deepsec_jax.cli.evaluate import carry_out, opened
        from deepsec_jax.runs.store import Store
        from deepsec_jax.studies.attacks.jobs import jobs_of, presets
        from deepsec_jax.studies.attacks.tables import ATTACKS

        def jobs_in(run: "Run") -> "list[Job]":
            attacks = presets(self.attacks, run, self.preset)
            return jobs_of(attacks, run, n=self.n, seed=self.seed, preset=self.preset, metrics=self.metrics)

        run, jobs = opened(ATTACKS, self, jobs_in)
        code = carry_out(self, jobs, run, unit=ATTACKS.unit)
        if code is None or self.dry_run:
            return code or 0
        write_page(run.store.folder, run.store.folder / "report")
        if self.export == "npz":
            store = Store(run.store.folder, run.store.versions)  # read here only: others have ended
            attacks = presets(self.attacks, run, self.preset)
            for attack, job in zip(attacks.values(), jobs, strict=True):
                if store.has_cell(job.name):
                    print(f"images {export(store, job.name, attack)}")
        return code


def write_page(run_dir: Path, out: Path) -> None:
    """Write the report of a run directory and print the path of its page."""
    from deepsec_jax.studies.report import write_run_report

    for path in write_run_report(run_dir, out):
        if path.suffix == ".html":
            print(f"report {path}")


def export(store: "Store", cell: str, attack: "protocols.Attack") -> Path:
    """Write the images of a cell as RUN_DIR/aes/CELL.npz, once, and return the path."""
    from deepsec_jax.attacks import save

    path = store.folder / "aes" / f"{cell}.npz"
    if path.exists():
        return path
    found = store.cell(cell)
    arrays, targeted = found.arrays, bool((found.arrays["targets"] >= 0).any())
    notes = {
        "cell": cell, **{name: found.config[name] for name in ("data", "n", "seed")},
        "model": found.config["model"]["name"], "preset": found.config["attack"]["preset"],
        "rows": arrays["rows"].tolist(), "success": arrays["success"].tolist(),
    }  # fmt: skip
    return save(
        path, arrays["x_adv"], arrays["x"], arrays["labels"], attack=attack,
        targets=arrays["targets"] if targeted else None, notes=notes,
    )  # fmt: skip
