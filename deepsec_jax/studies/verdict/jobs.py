"""The cells of a verdict: AutoAttack at one radius, its indicators, and the smallest change in two norms."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from deepsec_jax.attacks import FMN, AutoAttack, Transfer
from deepsec_jax.attacks.settings import described
from deepsec_jax.batches import OnBatch
from deepsec_jax.evaluation.cascade import run_cascade
from deepsec_jax.evaluation.generate import generate
from deepsec_jax.evaluation.predictions import Predictions, has_gradient, predict
from deepsec_jax.evaluation.sample import Sample, draw_sample
from deepsec_jax.hashing import hash_tree
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.options import InputError
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security.gating.indicated import attack_at, indicator_arrays
from deepsec_jax.studies.security.gating.sign import ROWS
from deepsec_jax.studies.verdict.attacks import MORE_STEPS, members, surrogate_of, told
from deepsec_jax.studies.verdict.options import Options, radius_of

VERDICT = "verdict"
ACCURACY, INDICATORS, CLOSEST = "accuracy", "indicators", "closest"


def default_eps(norm: str, channels: int) -> float:
    """Return the usual radius: 0.3 or L2 1.5 for grey images, 8/255 or L2 0.5 for colour images."""
    grey, colour = {"linf": (0.3, 8 / 255), "l2": (1.5, 0.5)}[norm]
    return grey if channels == 1 else colour


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the jobs: AutoAttack, then the smallest change in L-inf and L2.

    Raises:
        InputError: more images asked for than there are.
    """
    test = len(run.dataset.test)
    if options.n > test:
        raise InputError(
            f"--n must be at most {test}, the number of test images of {run.dataset.name}, got {options.n}"
        )
    eps = default_eps(options.norm, run.channels) if options.eps is None else radius_of(options.eps)
    return [
        _accuracy(options, run, eps),
        *(_closest(options, run, norm) for norm in ("linf", "l2")),
        _indicators(options, run, eps),
    ]


def _clean(options: Options, run: Run) -> tuple[Sample, Predictions]:
    """Return the sample and the model's predictions on it, drawn and computed once for all cells."""

    def found() -> tuple[Sample, Predictions]:
        sample = draw_sample(run.dataset.test, options.n, options.seed)
        size = min(run.batch_size(options.n), options.n)
        return sample, predict(run.model, sample.images, sample.labels, batch_size=size)

    both: tuple[Sample, Predictions] = run.once(("clean", options.n, options.seed), found)
    return both


def _config(run: Run, options: Options, row: str, **more: Any) -> dict[str, Any]:
    weights = {"model": str(hash_tree(run.model).hexdigest()[:16])}
    if run.surrogate is not None:
        weights["surrogate"] = str(hash_tree(run.surrogate).hexdigest()[:16])
    return run.config(VERDICT, version=2, row=row, weights=weights, n=options.n, seed=options.seed, **more)


def _notes(run: Run) -> dict[str, Any]:
    return run.notes(findings=run.look(run.model, run.about["name"], gradients=run.surrogate is None))


def _accuracy(options: Options, run: Run, eps: float) -> Job:
    name = f"{options.norm} {eps:.6g}"
    attack = AutoAttack(eps=eps, norm=options.norm, version=options.version)

    def compute(on_batch: OnBatch) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        chosen, clean = _clean(options, run)
        batch_size = min(run.batch_size(options.n), options.n)
        key = root_key(options.seed)
        model = reseed(run.model, example_keys(key, batch_size))
        roles, attacks = zip(
            *members(run, options.norm, eps, options.version, example_keys(key, batch_size)), strict=True
        )
        found = run_cascade(
            attacks, model, chosen.images, chosen.labels, key=key, batch_size=batch_size, clean=clean,
            on_batch=on_batch,
        )  # fmt: skip
        under = predict(run.model, found.x_adv, chosen.labels, batch_size=batch_size)
        surrogate = surrogate_of(run)
        differentiated = run.model if surrogate is None else surrogate
        environment = {
            "batch_size": batch_size, "seconds": found.seconds, "compile_seconds": found.compile_seconds,
            "gradients": float(found.gradients.mean()), "forwards": float(found.forwards.mean()),
            "attacks": [told(each) for each in attacks], "roles": list(roles),
            "felled": [int((found.by == number).sum()) for number in range(len(attacks))],
            "has_gradient": has_gradient(differentiated, chosen, key=key, batch_size=batch_size),
        }  # fmt: skip
        return environment, {
            "x": chosen.images, "x_adv": found.x_adv, "labels": chosen.labels, "clean": clean.correct,
            "robust": np.minimum(clean.correct, under.holds), "by": found.by.astype(np.int32),
            "predicted": under.predicted, "confidence": under.confidence,
        }  # fmt: skip

    def measure(environment: Any, arrays: Any, names: Sequence[str], on_batch: Any) -> dict[str, np.ndarray]:
        on_batch(options.n)
        return {name: arrays[name] for name in names}

    config = _config(
        run, options, name, question=ACCURACY, norm=options.norm, eps=eps, attack=described(attack)
    )
    cost = attack.cost(run.classes, int(np.prod(run.dataset.image_shape)))
    gradients = None if cost is None else int(cost.gradients + cost.forwards) + MORE_STEPS + 1
    return Job(
        config, compute, {"accuracy": ("clean", "robust")}, measure, images=options.n, gradients=gradients,
        at_most=gradients is not None, measuring=0, notes=partial(_notes, run),
        bytes=options.n * 8 * int(np.prod(run.dataset.image_shape)) + 65536,
    )  # fmt: skip


def _indicators(options: Options, run: Run, eps: float) -> Job:
    attack = attack_at(options.norm, eps)
    n = min(options.n, ROWS)

    def compute(on_batch: OnBatch) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        chosen, clean = _clean(options, run)
        surrogate = surrogate_of(run)
        batch_size = min(run.batch_size(options.n), n)
        arrays = indicator_arrays(
            attack, run.model, surrogate, chosen.images, chosen.labels, clean.correct,
            key=root_key(options.seed), batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip
        return {"batch_size": batch_size, "surrogate": surrogate is not None}, arrays

    config = _config(
        run, options, f"indicators {options.norm} {eps:.6g}", question=INDICATORS, norm=options.norm, eps=eps,
        attack=described(attack),
    )  # fmt: skip
    return Job(
        config,
        compute,
        images=n,
        gradients=3 * attack.steps,
        notes=partial(_notes, run),
        bytes=n * 32 + 65536,
    )


def _closest(options: Options, run: Run, norm: str) -> Job:
    attack = FMN(norm=norm, steps=options.steps)

    def compute(on_batch: OnBatch) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        chosen, clean = _clean(options, run)
        batch_size = min(run.batch_size(options.n), options.n)
        key = root_key(options.seed)
        used: Any = attack
        surrogate = surrogate_of(run)
        if surrogate is not None:
            used = Transfer(attack, reseed(surrogate, example_keys(key, batch_size)))
        found = generate(
            used, run.model, chosen.images, chosen.labels, key=key, batch_size=batch_size, on_batch=on_batch
        )
        under = predict(run.model, found.x_adv, chosen.labels, batch_size=batch_size)
        change = np.abs(found.x_adv - chosen.images).reshape(options.n, -1).astype(np.float64)
        distance = change.max(axis=1) if norm == "linf" else np.sqrt((change**2).sum(axis=1))
        environment = {
            "batch_size": batch_size, "seconds": found.seconds, "compile_seconds": found.compile_seconds,
            "gradients": found.gradients,
        }  # fmt: skip
        success = (under.holds < 0.5) & (clean.correct >= 0.5)
        return environment, {
            "distance": distance, "success": success.astype(np.float32),
            "clean": clean.correct, "labels": chosen.labels,
        }  # fmt: skip

    def measure(environment: Any, arrays: Any, names: Sequence[str], on_batch: Any) -> dict[str, np.ndarray]:
        on_batch(options.n)
        return {name: arrays[name] for name in names}

    config = _config(run, options, f"closest {norm}", question=CLOSEST, norm=norm, attack=described(attack))
    return Job(
        config, compute, {"distance": ("distance",)}, measure, images=options.n, gradients=options.steps,
        at_most=True, measuring=0, notes=partial(_notes, run), bytes=options.n * 32 + 65536,
    )  # fmt: skip
