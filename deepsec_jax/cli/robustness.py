"""``deepsec robustness``: the robustness study, its sentences, and its page."""

from dataclasses import dataclass

from deepsec_jax.studies.verdict.options import Options


@dataclass(frozen=True)
class Robustness(Options):
    """How robust is this model? Ten lines, and a page to send to a colleague.

    AutoAttack is run on random test images at one radius, and FMN looks for the smallest change that fools
    the model. The folder of a defended model is attacked through its surrogate. The same command
    continues an interrupted run.
    """

    def run(self) -> int:
        """Attack, print the sentences, and write the page; return 1 if something failed."""
        self.check()
        from deepsec_jax.cli.attack import write_page
        from deepsec_jax.cli.evaluate import execute, open_run
        from deepsec_jax.runs.store import read_cells
        from deepsec_jax.studies.verdict.sentences import verdict
        from deepsec_jax.studies.verdict.tables import ROBUSTNESS_STUDY

        run = open_run(ROBUSTNESS_STUDY, self)
        jobs = ROBUSTNESS_STUDY.jobs(self, run)
        code = execute(jobs, run, unit=ROBUSTNESS_STUDY.unit, dry_run=self.dry_run)
        if self.dry_run:
            return code
        names = {job.name for job in jobs}
        cells = [cell for cell in read_cells(run.store.folder, run.store.versions) if cell.name in names]
        print(f"\nHow robust is {run.about['name']}?")
        for topic, text in verdict(cells).items():
            print(f"  {topic}: {text}")
        write_page(run.store.folder, run.store.folder / "report")
        return code
