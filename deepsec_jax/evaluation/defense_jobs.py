"""The cells of an evaluation of defenses as jobs: how each is computed and measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deepsec_jax.data import Dataset
from deepsec_jax.evaluation.cells import ROBUSTNESS, UTILITY
from deepsec_jax.evaluation.defense_cells import (
    ADAPTIVE,
    REPLAYED,
    UNDEFENDED,
    WHITE_BOX,
    Question,
    Subject,
    Threat,
    digest,
    paper_pgd,
)
from deepsec_jax.evaluation.demo import machine_facts
from deepsec_jax.evaluation.judge import draws_of
from deepsec_jax.evaluation.records import cell_name
from deepsec_jax.evaluation.robustness import (
    ROBUSTNESS_COLUMNS,
    Made,
    OnBatch,
    adaptive_runs,
    ask,
    cascade,
    make,
)
from deepsec_jax.evaluation.runner import Job
from deepsec_jax.evaluation.sample import Sample, draw_sample, split_name, whole
from deepsec_jax.evaluation.store import Store
from deepsec_jax.evaluation.surroundings import now, versions
from deepsec_jax.evaluation.utility import compare, measure_utility, utility_columns
from deepsec_jax.protocols import Classifier
from deepsec_jax.pytree import example_keys, reseed

Environment = dict[str, Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Planned:
    """One cell that is wanted.

    Attributes:
        config: what decides it.
        subject: the defended model; None for the undefended one.
        threat: what it is attacked with; None for ``utility``.
        groups: stage -> columns.
        gradients: per image, at most.
        after: names of the cells that it is computed from.
    """

    config: dict[str, Any]
    subject: Subject | None
    threat: Threat | None
    groups: dict[str, tuple[str, ...]]
    gradients: int
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell's name."""
        return cell_name(self.config)


def question_of(raw: Classifier, about: dict[str, Any], dataset: Dataset, classes: int) -> Question:
    """Return what all configs of an evaluation share.

    Args:
        raw: the undefended model.
        about: its ``name``, and what else is known of it.
        dataset: whose test split is asked.
        classes: number of the model's classes.
    """
    return Question(
        data=dataset.name, model=about, raw=digest(raw), raw_draws=draws_of(raw),
        images=split_name(dataset.test), classes=classes, channels=dataset.image_shape[2],
    )  # fmt: skip


def plan(question: Question, subjects: Sequence[Subject], threat: Threat) -> list[Planned]:
    """Return all cells of an evaluation, the cheap ones first; each attack on all defenses in turn."""
    undefended = question.undefended(threat)
    source = (cell_name(undefended),)
    pgd = paper_pgd(question.data, threat.eps, channels=question.channels).steps
    most = threat.steps * threat.restarts * len(question.cascade(threat)["hyperparameters"]["losses"])
    utility = {"utility": tuple(utility_columns())}

    def under(access: str) -> dict[str, tuple[str, ...]]:
        return {"robustness": ("clean", column_of(access))}

    return [
        *(Planned(question.utility(each), each, None, utility, 1) for each in subjects),
        Planned(undefended, None, threat, under(UNDEFENDED), pgd),
        *(
            Planned(question.replayed(each, threat), each, threat, under(REPLAYED), 1, source)
            for each in subjects
        ),
        *(
            Planned(question.white_box(each, threat), each, threat, under(WHITE_BOX), pgd)
            for each in subjects
        ),
        *(Planned(question.adaptive(each, threat), each, threat, under(ADAPTIVE), most) for each in subjects),
    ]


def column_of(access: str) -> str:
    """Return the column that a cell's answer stands in: PGD on the undefended model is white-box there."""
    return WHITE_BOX if access == UNDEFENDED else access


def bytes_of(planned: Planned, dataset: Dataset) -> int:
    """Return what a cell and its columns take on disk, about."""
    columns = 8 * sum(map(len, planned.groups.values()))
    if planned.threat is None:
        return len(dataset.test) * (12 + 16 * dataset.classes + columns) + 65536
    image = 2 * 4 * int(np.prod(dataset.image_shape))
    return planned.threat.n * (image + 16 + 4 * dataset.classes + columns) + 65536


def jobs(
    planned: Sequence[Planned], raw: Classifier, dataset: Dataset, store: Store, *, batch_size: int
) -> list[Job]:
    """Return the jobs that make these cells and measure their columns.

    Args:
        planned: cells, see :func:`plan`.
        raw: the undefended model.
        dataset: whose test split is asked.
        store: where the images to replay lie.
        batch_size: images per call.
    """
    tested = whole(dataset.test)
    found = []
    for each in planned:
        if each.threat is None:
            compute = _utility(each, raw, tested, batch_size)
        else:
            sample = draw_sample(dataset.test, each.threat.n, each.threat.seed)
            compute = _robustness(each, raw, sample, store, min(batch_size, len(sample)))
        found.append(
            Job(
                each.config, each.groups, _noted(compute, each, batch_size, dataset.class_names),
                _measure(each),
                images=len(tested) if each.threat is None else each.threat.n,
                gradients=each.gradients, after=each.after,
            )
        )  # fmt: skip
    return found


Parts = Callable[[OnBatch], tuple[Environment, Arrays]]


def _noted(compute: Parts, planned: Planned, batch_size: int, class_names: Sequence[str]) -> Parts:
    """Return a computation whose environment says where, when and on what."""

    def noted(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        started = now()
        environment, arrays = compute(on_batch)
        subject = planned.subject
        about = {} if subject is None else {
            "folder": subject.folder, "confidences": subject.confidences,
            "training": dict(subject.training or {}),
        }  # fmt: skip
        return {
            "versions": versions(), "device": machine_facts()["Device"], "batch_size": batch_size,
            "class_names": list(class_names), **about, **environment, "started": started, "finished": now(),
        }, arrays  # fmt: skip

    return noted


def _utility(planned: Planned, raw: Classifier, sample: Sample, batch_size: int) -> Parts:
    def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        assert planned.subject is not None
        arrays = compare(
            raw, planned.subject.classifier, sample, confidences=planned.subject.confidences,
            batch_size=min(batch_size, len(sample)), draws=planned.config["draws"], on_batch=on_batch,
        )  # fmt: skip
        return {}, arrays

    return compute


def _robustness(planned: Planned, raw: Classifier, sample: Sample, store: Store, batch_size: int) -> Parts:
    def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        model = raw if planned.subject is None else planned.subject.classifier
        made = _attacked(planned, model, sample, store, batch_size, on_batch)
        clean = ask(model, sample.images, sample.labels, batch_size=batch_size)
        answers = ask(model, made.x_adv, sample.labels, batch_size=batch_size)
        costs = {
            "seconds": made.seconds, "compile_seconds": made.compile_seconds, "gradients": made.gradients
        }  # fmt: skip
        return costs, {
            "x_adv": made.x_adv, "x": sample.images, "labels": sample.labels, "rows": sample.rows,
            "clean": clean.correct, "correct": answers.correct, "probabilities": answers.probabilities,
        }  # fmt: skip

    return compute


def _attacked(
    planned: Planned, model: Classifier, sample: Sample, store: Store, batch_size: int, on_batch: OnBatch
) -> Made:
    """Return the adversarial images of one access."""
    access, key = planned.config["access"], jax.random.key(planned.config["seed"])
    if access == REPLAYED:
        (source,) = planned.after
        if not store.has_cell(source):
            raise RuntimeError(f"there are no images to replay, because {source} failed: run it again first")
        made = Made(store.arrays(source)["x_adv"], 0.0, 0.0, 0.0)
        on_batch(len(sample))
        return made
    if access != ADAPTIVE:
        pgd = paper_pgd(planned.config["data"], planned.config["eps"], channels=sample.images.shape[3])
        return make(pgd, model, sample, key=key, batch_size=batch_size, on_batch=on_batch)
    assert planned.subject is not None
    asked = planned.config["attack"]["hyperparameters"]
    runs = adaptive_runs(
        reseed(planned.subject.surrogate, example_keys(key, batch_size)), eps=asked["eps"],
        step_size=asked["step_size"], steps=asked["steps"], restarts=asked["restarts"],
        names=asked["losses"],
    )  # fmt: skip
    return cascade(
        runs, model, sample, key=key, batch_size=batch_size, on_batch=on_batch, steps=asked["steps"]
    )


def _measure(planned: Planned) -> Callable[[Environment, Arrays, tuple[str, ...], OnBatch], Arrays]:
    def measure(
        environment: Environment, arrays: Arrays, names: tuple[str, ...], on_batch: OnBatch
    ) -> Arrays:
        on_batch(len(arrays["labels"]))
        if planned.config["kind"] == UTILITY:
            return measure_utility(arrays, names, confidences=environment["confidences"])
        assert planned.config["kind"] == ROBUSTNESS
        return {name: np.asarray(ROBUSTNESS_COLUMNS[name].values(arrays)) for name in names}

    return measure
