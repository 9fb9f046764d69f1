"""The cells of an evaluation of defenses as jobs: how each is computed and measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepsec_jax.data import Dataset
from deepsec_jax.evaluation.defense_cells import (
    ADAPTIVE,
    REPLAYED,
    SEARCH_ON,
    UNDEFENDED,
    WHITE_BOX,
    Part,
    Question,
    Subject,
    Threat,
    digest,
    paper_pgd,
)
from deepsec_jax.evaluation.judge import draws_of
from deepsec_jax.evaluation.machine import machine_facts
from deepsec_jax.evaluation.robustness import (
    REJECTION_COLUMNS,
    ROBUSTNESS_COLUMNS,
    Made,
    OnBatch,
    adaptive_runs,
    ask,
    cascade,
    has_gradient,
    make,
)
from deepsec_jax.evaluation.sample import Sample, draw_sample, split_name, whole
from deepsec_jax.evaluation.sight import sight_arrays
from deepsec_jax.evaluation.utility import compare, measure_utility, utility_columns
from deepsec_jax.protocols import Classifier
from deepsec_jax.pytree import gives_confidences, rejects
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.cells import ROBUSTNESS, SIGHT, UTILITY
from deepsec_jax.runs.environment import now, versions
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store

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


def plan(
    question: Question, subjects: Sequence[Subject], threat: Threat | None, clean: Part | None = None
) -> list[Planned]:
    """Return all cells of an evaluation, the cheap ones first; each attack on all defenses in turn.

    Args:
        question: what they share.
        subjects: defended models.
        threat: what they are attacked with; None asks about clean images only.
        clean: the clean test images that are asked about; None for all.
    """
    utility = [
        Planned(
            config := question.utility(each, clean),
            each,
            None,
            {"utility": tuple(utility_columns(rejecting=each.rejects))},
            config["draws"],
        )
        for each in subjects
    ]
    return utility if threat is None else [*utility, *_under_attack(question, subjects, threat)]


def _under_attack(question: Question, subjects: Sequence[Subject], threat: Threat) -> list[Planned]:
    undefended = question.undefended(threat)
    source = (cell_name(undefended),)
    pgd = paper_pgd(question.data, threat.eps, channels=question.channels).steps

    def most(subject: Subject) -> int:
        asked = question.adaptive(subject, threat)["attack"]["hyperparameters"]
        climbs = threat.restarts * len(asked["losses"]) + asked.get("confident", 0)
        return threat.steps * climbs + asked.get("queries", 0)

    def under(access: str, subject: Subject | None = None) -> dict[str, tuple[str, ...]]:
        names = ("clean", column_of(access))
        refused = (REJECTION_COLUMNS[name].name for name in names if subject is not None and subject.rejects)
        return {"robustness": (*names, *refused)}

    return [
        Planned(undefended, None, threat, under(UNDEFENDED), pgd),
        *(
            Planned(question.replayed(each, threat), each, threat, under(REPLAYED, each), 1, source)
            for each in subjects
        ),
        *(
            Planned(question.white_box(each, threat), each, threat, under(WHITE_BOX, each), pgd)
            for each in subjects
        ),
        *(
            Planned(question.adaptive(each, threat), each, threat, under(ADAPTIVE, each), most(each))
            for each in subjects
        ),
        *(
            Planned(
                question.sight(each, threat),
                each,
                threat,
                {},
                1,
                (cell_name(question.adaptive(each, threat)),),
            )
            for each in subjects
        ),
    ]


def column_of(access: str) -> str:
    """Return the column that a cell's answer stands in: PGD on the undefended model is white-box there."""
    return WHITE_BOX if access == UNDEFENDED else access


def bytes_of(planned: Planned, dataset: Dataset) -> int:
    """Return what a cell and its columns take on disk, about."""
    columns = 8 * sum(map(len, planned.groups.values()))
    if planned.threat is None:
        return planned.config.get("n", len(dataset.test)) * (12 + 16 * dataset.classes + columns) + 65536
    image = 2 * 4 * int(np.prod(dataset.image_shape))
    return planned.threat.n * (image + 16 + 4 * dataset.classes + columns) + 65536


def jobs(
    planned: Sequence[Planned],
    raw: Classifier,
    dataset: Dataset,
    store: Store,
    *,
    batch_size: int,
    findings: Sequence[str] = (),
) -> list[Job]:
    """Return the jobs that make these cells and measure their columns.

    Args:
        planned: cells, see :func:`plan`.
        raw: the undefended model.
        dataset: whose test split is asked.
        store: where the images to replay lie.
        batch_size: images per call.
        findings: what :func:`deepsec_jax.attacks.check_model_outputs` says of the undefended model.
    """
    found = []
    for each in planned:
        if each.threat is None:
            tested = _clean(each, dataset)
            compute = _utility(each, raw, tested, batch_size)
        elif each.config["kind"] == SIGHT:
            compute = _sight(each, raw, store)
        else:
            sample = draw_sample(dataset.test, each.threat.n, each.threat.seed)
            compute = _robustness(each, raw, sample, store, min(batch_size, len(sample)))
        found.append(
            Job(
                each.config, each.groups,
                _noted(compute, each, raw, batch_size, dataset.class_names, findings),
                _measure(each),
                images=each.config.get("n", len(dataset.test)),
                gradients=each.gradients, measuring=0, after=each.after,  # columns are read off the arrays
            )
        )  # fmt: skip
    return found


Parts = Callable[[OnBatch], tuple[Environment, Arrays]]


def _noted(
    compute: Parts,
    planned: Planned,
    raw: Classifier,
    batch_size: int,
    class_names: Sequence[str],
    findings: Sequence[str],
) -> Parts:
    """Return a computation whose environment says where, when and on what."""

    def noted(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        started = now()
        environment, arrays = compute(on_batch)
        subject = planned.subject
        about = {"findings": list(findings)} if subject is None else {
            "folder": subject.folder, "confidences": _comparable(raw, subject),
            "training": dict(subject.training or {}), "findings": list(subject.findings),
        }  # fmt: skip
        return {
            "versions": versions(), "device": machine_facts()["Device"], "batch_size": batch_size,
            "class_names": list(class_names), **about, **environment, "started": started, "finished": now(),
        }, arrays  # fmt: skip

    return noted


def _comparable(raw: Classifier, subject: Subject) -> bool:
    """Tell whether both models have confidences to compare."""
    return subject.confidences and gives_confidences(raw)


def _clean(planned: Planned, dataset: Dataset) -> Sample:
    """Return the clean images of a ``utility`` cell."""
    config = planned.config
    return draw_sample(dataset.test, config["n"], config["seed"]) if "n" in config else whole(dataset.test)


def _utility(planned: Planned, raw: Classifier, sample: Sample, batch_size: int) -> Parts:
    def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        assert planned.subject is not None
        arrays = compare(
            raw, planned.subject.classifier, sample, confidences=_comparable(raw, planned.subject),
            batch_size=min(batch_size, len(sample)), draws=planned.config["draws"], on_batch=on_batch,
        )  # fmt: skip
        return {}, arrays

    return compute


def _sight(planned: Planned, raw: Classifier, store: Store) -> Parts:
    def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        assert planned.subject is not None and planned.threat is not None
        (source,) = planned.after
        if not store.has_cell(source):
            raise RuntimeError(f"there are no images to look at, because {source} failed: run it again first")
        arrays = sight_arrays(raw, planned.subject.classifier, store.arrays(source))
        on_batch(planned.threat.n)
        return {}, arrays

    return compute


def _robustness(planned: Planned, raw: Classifier, sample: Sample, store: Store, batch_size: int) -> Parts:
    def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        model = raw if planned.subject is None else planned.subject.classifier
        made, notes = _attacked(planned, model, sample, store, batch_size, on_batch), {}
        if planned.config["access"] == WHITE_BOX and made.gradients == 0:
            notes["zero_gradient"] = True
        clean = ask(model, sample.images, sample.labels, batch_size=batch_size)
        answers = ask(model, made.x_adv, sample.labels, batch_size=batch_size)
        costs = {
            "seconds": made.seconds, "compile_seconds": made.compile_seconds, "gradients": made.gradients
        }  # fmt: skip
        refuses = {"rejected": answers.rejected, "clean_rejected": clean.rejected} if rejects(model) else {}
        return costs | notes, {
            "x_adv": made.x_adv, "x": sample.images, "labels": sample.labels, "rows": sample.rows,
            "clean": clean.correct, "right_or_rejected": answers.holds, "predicted": answers.predicted,
            "confidence": answers.confidence, "probabilities": answers.probabilities,
            "no_answer": answers.no_answer, "clean_no_answer": clean.no_answer, **refuses,
        }  # fmt: skip

    return compute


def _attacked(
    planned: Planned, model: Classifier, sample: Sample, store: Store, batch_size: int, on_batch: OnBatch
) -> Made:
    """Return the adversarial images of one access."""
    access, key = planned.config["access"], root_key(planned.config["seed"])
    if access == REPLAYED:
        (source,) = planned.after
        if not store.has_cell(source):
            raise RuntimeError(f"there are no images to replay, because {source} failed: run it again first")
        made = Made(store.arrays(source)["x_adv"], 0.0, 0.0, 0.0)
        on_batch(len(sample))
        return made
    if access == WHITE_BOX and not has_gradient(model, sample, key=key, batch_size=batch_size):
        on_batch(len(sample))
        return Made(sample.images, 0.0, 0.0, 0.0)
    if access != ADAPTIVE:
        pgd = paper_pgd(planned.config["data"], planned.config["eps"], channels=sample.images.shape[3])
        return make(pgd, model, sample, key=key, batch_size=batch_size, on_batch=on_batch)
    assert planned.subject is not None
    asked = planned.config["attack"]["hyperparameters"]
    runs = adaptive_runs(
        reseed(planned.subject.surrogate, example_keys(key, batch_size)), eps=asked["eps"],
        step_size=asked["step_size"], steps=asked["steps"], restarts=asked["restarts"],
        names=asked["losses"], decay=asked["decay"], weights=asked.get("weights", ()),
        confident=asked.get("confident", 0), queries=asked.get("queries", 0),
        stops=asked.get("search") != SEARCH_ON,
    )  # fmt: skip
    return cascade(runs, model, sample, key=key, batch_size=batch_size, on_batch=on_batch)


def _measure(planned: Planned) -> Callable[[Environment, Arrays, tuple[str, ...], OnBatch], Arrays]:
    refused = {column.name: column for column in REJECTION_COLUMNS.values()}
    measured = ROBUSTNESS_COLUMNS | refused

    def measure(
        environment: Environment, arrays: Arrays, names: tuple[str, ...], on_batch: OnBatch
    ) -> Arrays:
        on_batch(len(arrays["labels"]))
        if planned.config["kind"] == UTILITY:
            return measure_utility(arrays, names, confidences=environment["confidences"])
        assert planned.config["kind"] == ROBUSTNESS
        return {name: np.asarray(measured[name].values(arrays)) for name in names}

    return measure
