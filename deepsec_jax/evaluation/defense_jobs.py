"""The cells of an evaluation of defenses as jobs: computation and measurement of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from deepsec_jax.attacks import Square, Transfer
from deepsec_jax.batches import OnBatch
from deepsec_jax.data import Dataset
from deepsec_jax.evaluation.adaptive import (
    REJECTION_COLUMNS,
    ROBUSTNESS_COLUMNS,
    adaptive_runs,
    guided_search,
)
from deepsec_jax.evaluation.cascade import FromBest, run_cascade
from deepsec_jax.evaluation.defense_cells import (
    ADAPTIVE,
    GUIDED,
    ON,
    REPLAYED,
    UNDEFENDED,
    WHITE_BOX,
    DefendedModel,
    Question,
    Subset,
    Threat,
    digest,
    paper_pgd,
)
from deepsec_jax.evaluation.generate import Generated, generate
from deepsec_jax.evaluation.judge import draws_of
from deepsec_jax.evaluation.model_inputs import input_arrays
from deepsec_jax.evaluation.predictions import has_gradient, predict
from deepsec_jax.evaluation.sample import Sample, draw_sample, split_name, whole
from deepsec_jax.evaluation.utility import compare, measure_utility, utility_columns
from deepsec_jax.model_traits import gives_confidences, rejects
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store

Environment = dict[str, Any]
Arrays = dict[str, np.ndarray]
Notes = Callable[[DefendedModel | None], dict[str, Any]]
"""Defended model (None: the undefended one) -> its entries in environments."""


def question_of(raw: Classifier, about: dict[str, Any], dataset: Dataset, classes: int) -> Question:
    """Return the common entries of all configs of an evaluation.

    Args:
        raw: the undefended model.
        about: its ``name``, and further known facts.
        dataset: its test split is used.
        classes: number of the model's classes.
    """
    return Question(
        data=dataset.name, model=about, raw=digest(raw), raw_draws=draws_of(raw),
        images=split_name(dataset.test), classes=classes, channels=dataset.image_shape[2],
    )  # fmt: skip


@dataclass(frozen=True)
class Defenses:
    """Makes the jobs of one evaluation of defenses.

    Attributes:
        question: common entries of all configs.
        raw: the undefended model.
        dataset: its test split is used.
        store: has the images to replay.
        batch_size: images per call.
        notes: entries of environments.
    """

    question: Question
    raw: Classifier
    dataset: Dataset
    store: Store
    batch_size: int
    notes: Notes = lambda subject: {}

    def jobs(
        self, subjects: Sequence[DefendedModel], threat: Threat | None, part: Subset | None = None
    ) -> list[Job]:
        """Return the jobs of all cells, cheap ones first; each attack on all defenses in turn.

        Args:
            subjects: defended models.
            threat: threat model; None for clean images only.
            part: of the clean test images; None for all.
        """
        tested = cache(partial(self._clean, part))
        utility = [self.utility(each, part, tested) for each in subjects]
        if threat is None:
            return utility
        sample = cache(partial(draw_sample, self.dataset.test, threat.n, threat.seed))
        under = [
            self.robustness(knowledge, each, threat, sample)
            for knowledge in (REPLAYED, WHITE_BOX, ADAPTIVE)
            for each in subjects
        ]
        model_inputs = [self.model_inputs(each, threat) for each in subjects]
        return [*utility, self.robustness(UNDEFENDED, None, threat, sample), *under, *model_inputs]

    def _clean(self, part: Subset | None) -> Sample:
        test = self.dataset.test
        return whole(test) if part is None else draw_sample(test, part.n, part.seed)

    def utility(self, subject: DefendedModel, part: Subset | None, tested: Callable[[], Sample]) -> Job:
        """Return the job that evaluates both models on clean images."""
        config = self.question.utility(subject, part)
        images = len(self.dataset.test) if part is None else part.n
        columns = tuple(utility_columns(rejecting=subject.rejects))

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            sample = tested()
            batch_size = min(self.batch_size, len(sample))
            return {"batch_size": batch_size}, compare(
                self.raw, subject.classifier, sample, confidences=_comparable(self.raw, subject),
                batch_size=batch_size, draws=config["draws"], on_batch=on_batch,
            )  # fmt: skip

        def measure(
            environment: Environment, arrays: Arrays, names: Sequence[str], on_batch: OnBatch
        ) -> Arrays:
            on_batch(len(arrays["labels"]))
            return measure_utility(arrays, tuple(names), confidences=environment["confidences"])

        return Job(
            config, compute, {"utility": columns}, measure, images=images, gradients=config["draws"],
            measuring=0, bytes=images * (12 + 16 * self.dataset.classes + 8 * len(columns)) + 65536,
            notes=partial(self._notes, subject),
        )  # fmt: skip

    def robustness(
        self, knowledge: str, subject: DefendedModel | None, threat: Threat, sample: Callable[[], Sample]
    ) -> Job:
        """Return the job that attacks a model and evaluates it on the images.

        Args:
            knowledge: the attacker's knowledge, see :mod:`.defense_cells`.
            subject: the defended model; None for the undefended one.
            threat: threat model.
            sample: returns the clean images.
        """
        config = self.question.under(knowledge, subject, threat)
        model = self.raw if subject is None else subject.classifier
        source = cell_name(self.question.undefended(threat)) if knowledge == REPLAYED else ""
        columns = _columns(knowledge, rejecting=subject is not None and subject.rejects)

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            clean_images = sample()
            batch_size = min(self.batch_size, len(clean_images))
            if knowledge == REPLAYED:
                made = Generated(self._images(source, "to replay")["x_adv"])
                on_batch(len(clean_images))
            else:
                made = _made(config, subject, model, clean_images, batch_size, on_batch)
            costs = {
                "batch_size": batch_size, "seconds": made.seconds, "compile_seconds": made.compile_seconds,
                "gradients": made.gradients, "forwards": made.forwards,
                **({"felled": list(made.felled)} if made.felled else {}),
            }  # fmt: skip
            notes = {"zero_gradient": True} if knowledge == WHITE_BOX and made.gradients == 0 else {}
            return costs | notes, _arrays(model, clean_images, made.x_adv, batch_size)

        image = 2 * 4 * int(np.prod(self.dataset.image_shape))
        each = image + 16 + 4 * self.dataset.classes + 8 * len(columns)
        return Job(
            config, compute, {"robustness": columns}, _measure, images=threat.n,
            gradients=self._gradients(config, threat), at_most=knowledge == ADAPTIVE, measuring=0,
            after=(source,) if source else (), bytes=threat.n * each + 65536,
            notes=partial(self._notes, subject),
        )  # fmt: skip

    def model_inputs(self, subject: DefendedModel, threat: Threat) -> Job:
        """Return the job for a defended model's inputs on a few images of the adaptive attack."""
        source = cell_name(self.question.adaptive(subject, threat))

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            arrays = input_arrays(self.raw, subject.classifier, self._images(source, "to look at"))
            on_batch(threat.n)
            return {}, arrays

        return Job(
            self.question.model_inputs(subject, threat), compute, images=threat.n, after=(source,),
            measuring=0, notes=partial(self._notes, subject),
        )  # fmt: skip

    def _gradients(self, config: dict[str, Any], threat: Threat) -> int:
        """Return the maximum number of gradients per image."""
        if config["knowledge"] == REPLAYED:
            return 1
        if config["knowledge"] != ADAPTIVE:
            return paper_pgd(config["data"], threat.eps, channels=self.question.channels).steps
        asked = config["attack"]["hyperparameters"]
        climbs = 1 + asked["aims"] * asked["rounds"]
        climbs += threat.restarts * len(asked.get("losses", ())) + asked.get("confident", 0)
        return int(threat.steps * climbs + asked.get("queries", 0))

    def _images(self, source: str, what: str) -> Arrays:
        if not self.store.has_cell(source):
            raise RuntimeError(f"there are no images {what}, because {source} failed: run it again first")
        return self.store.arrays(source)

    def _notes(self, subject: DefendedModel | None) -> dict[str, Any]:
        names = {"class_names": list(self.dataset.class_names)}
        if subject is None:
            return {**names, **self.notes(None)}
        return {
            **names, "folder": subject.folder, "confidences": _comparable(self.raw, subject),
            "training": dict(subject.training or {}), **self.notes(subject),
        }  # fmt: skip


def column_of(knowledge: str) -> str:
    """Return the column of a cell: PGD on the undefended model is its white-box column."""
    return WHITE_BOX if knowledge == UNDEFENDED else knowledge


def _columns(knowledge: str, *, rejecting: bool) -> tuple[str, ...]:
    names = ("clean", column_of(knowledge))
    return (*names, *(REJECTION_COLUMNS[name].name for name in names if rejecting))


def _comparable(raw: Classifier, subject: DefendedModel) -> bool:
    """Tell whether both models have confidences to compare."""
    return subject.confidences and gives_confidences(raw)


def _arrays(model: Classifier, sample: Sample, x_adv: np.ndarray, batch_size: int) -> Arrays:
    """Return the arrays of a ``robustness`` cell: a model's outputs on clean and attacked images."""
    clean = predict(model, sample.images, sample.labels, batch_size=batch_size)
    answers = predict(model, x_adv, sample.labels, batch_size=batch_size)
    refuses = {"rejected": answers.rejected, "clean_rejected": clean.rejected} if rejects(model) else {}
    return {
        "x_adv": x_adv, "x": sample.images, "labels": sample.labels, "rows": sample.rows,
        "clean": clean.correct, "right_or_rejected": answers.holds, "predicted": answers.predicted,
        "confidence": answers.confidence, "probabilities": answers.probabilities,
        "no_answer": answers.no_answer, "clean_no_answer": clean.no_answer, **refuses,
    }  # fmt: skip


def _made(
    config: dict[str, Any], subject: DefendedModel | None, model: Classifier, sample: Sample, batch_size: int,
    on_batch: OnBatch,
) -> Generated:  # fmt: skip
    """Return the adversarial images of one kind of knowledge."""
    knowledge, key = config["knowledge"], root_key(config["seed"])
    if knowledge == WHITE_BOX and not has_gradient(model, sample, key=key, batch_size=batch_size):
        on_batch(len(sample))
        return Generated(sample.images)
    if knowledge != ADAPTIVE:
        pgd = paper_pgd(config["data"], config["eps"], channels=sample.images.shape[3])
        return generate(
            pgd, model, sample.images, sample.labels, key=key, batch_size=batch_size, on_batch=on_batch
        )
    assert subject is not None
    asked = config["attack"]["hyperparameters"]
    attacks = adaptive_attacks(subject, asked, keys=example_keys(key, batch_size))
    found = run_cascade(
        attacks, model, sample.images, sample.labels, key=key, batch_size=batch_size, on_batch=on_batch
    )
    felled = tuple(int((found.by == number).sum()) for number in range(len(attacks)))
    return Generated(
        found.x_adv, seconds=found.seconds, compile_seconds=found.compile_seconds,
        gradients=float(found.gradients.mean()), forwards=float(found.forwards.mean()), felled=felled,
    )  # fmt: skip


def adaptive_attacks(subject: DefendedModel, asked: Mapping[str, Any], *, keys: Any) -> list[Any]:
    """Return the attacks that an adaptive config's hyperparameters describe.

    Args:
        subject: the defended model with its surrogate.
        asked: ``hyperparameters`` of the config.
        keys: one per row of a batch, for a model or surrogate that draws.
    """
    surrogate = reseed(subject.surrogate, keys)
    names = ("step_size", "restarts", "decay", "weights", "confident")
    joint = None
    if "weights" in asked:
        joint = {**{name: asked[name] for name in names}, "names": asked["losses"]}
    search, way = None, asked.get("search", "")
    if way.startswith(GUIDED):
        search = FromBest(
            guided_search(surrogate, eps=asked["eps"], queries=asked["queries"], stops=not way.endswith(ON))
        )
    elif way:
        squares = Square(eps=asked["eps"], queries=asked["queries"], share=0.8, stops=not way.endswith(ON))
        searched = surrogate if way.endswith(ON) else reseed(subject.classifier, keys)
        search = FromBest(Transfer(squares, searched))
    return adaptive_runs(
        surrogate, eps=asked["eps"], steps=asked["steps"], aims=asked["aims"], rounds=asked["rounds"],
        stops=asked["stops"], joint=joint, search=search,
    )  # fmt: skip


_MEASURED = ROBUSTNESS_COLUMNS | {column.name: column for column in REJECTION_COLUMNS.values()}


def _measure(environment: Environment, arrays: Arrays, names: Sequence[str], on_batch: OnBatch) -> Arrays:
    del environment
    on_batch(len(arrays["labels"]))
    return {name: np.asarray(_MEASURED[name].values(arrays)) for name in names}
