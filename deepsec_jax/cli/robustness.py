"""``deepsec robustness``: the robustness study, its sentences, and its page."""

from dataclasses import dataclass
from pathlib import Path

from deepsec_jax.cli import InputError
from deepsec_jax.pretrained import CARD, folder_digest
from deepsec_jax.studies.verdict.options import Options


@dataclass(frozen=True)
class Robustness(Options):
    """How robust is this model? Ten lines, and a page to send to a colleague.

    AutoAttack is run on random test images at one radius, and FMN looks for the smallest change that fools
    the model. The folder of a defended model is attacked through its surrogate. The same command
    continues an interrupted run.

    Attributes:
        card: Also write what was found to card.json in the model's folder, for deepsec list pretrained.
    """

    card: bool = False

    def run(self) -> int:
        """Attack, print the sentences, and write the page; return 1 if something failed."""
        self.check()
        recipe = Path(self.model) / "recipe.json"
        if self.card and not recipe.is_file():
            raise InputError(
                f"--card needs the folder of a model, and {self.model} is none: leave out --card"
            )
        from deepsec_jax.cli.attack import write_page
        from deepsec_jax.cli.evaluate import carry_out, opened
        from deepsec_jax.runs.store import read_cells
        from deepsec_jax.studies.verdict.sentences import verdict
        from deepsec_jax.studies.verdict.tables import ROBUSTNESS_STUDY

        run, jobs = opened(ROBUSTNESS_STUDY, self, lambda run: ROBUSTNESS_STUDY.jobs(self, run))
        code = carry_out(self, jobs, run, unit=ROBUSTNESS_STUDY.unit)
        if code is None or self.dry_run:
            return code or 0
        names = {job.name for job in jobs}
        cells = [cell for cell in read_cells(run.store.folder, run.store.versions) if cell.name in names]
        print(f"\nHow robust is {run.about['name']}?")
        for topic, text in verdict(cells).items():
            print(f"  {topic}: {text}")
        write_page(run.store.folder, run.store.folder / "report")
        if self.card and not code:
            from deepsec_jax.studies.verdict.card import card_of, command_of, write_card

            found = card_of(cells, command_of(self), folder_digest(recipe.parent))
            write_card(recipe.with_name(CARD), found)
            print(f"card {recipe.with_name(CARD)}")
        return code
