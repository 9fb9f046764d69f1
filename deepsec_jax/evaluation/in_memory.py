"""Cells of an attack evaluation in memory: the jobs of the command line, run without a run directory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepsec_jax.attacks import check_model_outputs
from deepsec_jax.attacks.model_outputs import ROWS
from deepsec_jax.data import Dataset, candidates_name, draw_candidates, training_sample, unit_images
from deepsec_jax.evaluation.attack_jobs import attack_config, attack_job, column_groups, gradient_clock
from deepsec_jax.evaluation.sample import split_name
from deepsec_jax.metrics import METRICS
from deepsec_jax.protocols import Attack, Classifier
from deepsec_jax.pytree import rejects
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.cells import Cell


def attack_cells(
    model: Classifier,
    attacks: Mapping[str, Attack],
    dataset: Dataset,
    *,
    n: int,
    seed: int,
    preset: str,
    about: Mapping[str, Any],
    metrics: Sequence[str] = (),
    batch_size: int = 128,
    on_batch: Callable[[int, str], Any] | None = None,
) -> list[Cell]:
    """Run attacks on one candidate set and measure them; one cell per attack, in order.

    Args:
        model: a pytree callable in evaluation mode.
        attacks: name -> attack.
        dataset: candidates come from its test split; a UAP is fitted to its training split.
        n: number of candidates.
        seed: of candidates, targets and random attacks.
        preset: where the hyperparameters come from: ``paper``, ``strong`` or ``own``.
        about: ``name`` of the model, and what else is known of it.
        metrics: columns of ``METRICS``; default all that the model can have.
        batch_size: images per call.
        on_batch: called after every batch with the number of images just done and the attack's name.

    Raises:
        DataError: fewer than ``n`` images are classified correctly.
        UnknownName: no such metric; names near matches.
        Exception: what an attack raises, with a note that names the attack.
    """
    can_reject = rejects(model)
    every = (name for name, column in METRICS.items() if can_reject or not column.needs_rejection)
    groups = column_groups(tuple(metrics) or tuple(every))
    test = dataset.test
    guided = any(getattr(attack, "guided", True) for attack in attacks.values())
    findings = check_model_outputs(
        model, unit_images(test.images[:ROWS]), test.labels[:ROWS], gradients=guided
    )
    candidates = draw_candidates(model, dataset, n, seed)
    candidates_are, images = candidates_name(model, dataset, n, seed), split_name(test)
    clock = gradient_clock(model, candidates, batch_size)
    cells = []
    for name, attack in attacks.items():
        config = attack_config(
            name, attack, preset=preset, data=dataset.name, model=dict(about), candidates=candidates_are,
            images=images, n=n, seed=seed, train_digest=dataset.digest,
        )  # fmt: skip
        job = attack_job(
            config, attack, model, candidates, groups=groups, batch_size=batch_size, gradient_seconds=clock,
            class_names=dataset.class_names, findings=findings,
            train_images=lambda: training_sample(dataset, seed),
        )  # fmt: skip

        def done(images: int, name: str = name) -> None:
            if on_batch is not None:
                on_batch(images, name)

        try:
            environment, arrays = job.compute(done)
            columns = {
                column: values
                for names in groups.values()
                for column, values in job.measure(environment, arrays, names, lambda _: None).items()
            }
        except Exception as error:
            error.add_note(f"while evaluating the attack {name!r}")
            raise
        cells.append(Cell(cell_name(config), config, environment, arrays, columns))
    return cells
