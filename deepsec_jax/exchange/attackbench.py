"""AttackBench's JSON (protocol version 2) of one attack on one model: one value per image."""

import hashlib
from typing import Any

import numpy as np

from deepsec_jax.attacks.balls import BALLS, size_of
from deepsec_jax.attacks.batching import check_values
from deepsec_jax.attacks.geometry import find_norm
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.protocols import Classifier

LIBRARY = "deepsec_jax"

PROTOCOL = 2
"""Version of AttackBench's protocol."""


def attackbench(
    model: Classifier,
    x: np.ndarray,
    x_adv: np.ndarray,
    labels: np.ndarray,
    *,
    dataset: str,
    model_name: str,
    attack_name: str,
    norm: str | float,
    forwards: np.ndarray | None = None,
    gradients: np.ndarray | None = None,
    seconds: float | None = None,
    query_budget: int | None = None,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Return the results of an untargeted attack as AttackBench stores them; write it with ``json.dumps``.

        counted = attacks.count_calls(attack, model, x, labels, key=key)
        record = exchange.attackbench(
            model, x, counted.x, labels, dataset="mnist", model_name="mnist-paper", attack_name="fmn",
            norm="l2", forwards=counted.forwards, gradients=counted.gradients,
        )

    The distance of a failure is infinite, that of a misclassified clean image 0.  Our attacks return their
    best image, so final and best distances are equal.  AttackBench counts a forward for each gradient, too.

    Args:
        model: a classifier in evaluation mode.
        x: clean images, float [N, H, W, C] in [0, 1].
        x_adv: adversarial images, float [N, H, W, C] in [0, 1].
        labels: true classes [N].
        dataset: name of the data set, as AttackBench has it: "mnist", "cifar10", "imagenet".
        model_name: name of the model.
        attack_name: name of the attack.
        norm: which the attack minimises, "l0", "l1", "l2" or "linf".
        forwards: forward passes per image without those in gradients, [N]; None leaves the counts out.
        gradients: gradients per image, [N]; None leaves the counts out.
        seconds: wall time of the attack; None leaves it out.
        query_budget: largest number of forwards and backwards, if there was one.
        batch_size: images per call of the model.

    Raises:
        ValueError: no such norm, an image outside [0, 1], an invalid label, different shapes.
    """
    threat = find_norm(norm, BALLS)
    x, x_adv = np.asarray(x, np.float32), np.asarray(x_adv, np.float32)
    labels = np.asarray(labels)
    if x.shape != x_adv.shape:
        raise ValueError(f"x has shape {list(x.shape)} and x_adv {list(x_adv.shape)}: give one image per row")
    check_values(model, x, labels)
    check_values(model, x_adv, labels)
    clean = predict(model, x, labels, batch_size=batch_size).predicted
    found = predict(model, x_adv, labels, batch_size=batch_size).predicted
    already, success = clean != labels, found != labels
    distances = {}
    for name in BALLS:
        size = np.asarray(size_of(x_adv - x, name), np.float64)
        distances[name] = np.where(already, 0.0, np.where(success, size, np.inf)).tolist()
    backwards = [] if gradients is None else np.asarray(gradients, int).tolist()
    asked = [] if forwards is None else np.asarray(forwards, int).tolist()
    if backwards and asked:
        asked = [own + back for own, back in zip(asked, backwards, strict=True)]
    return {
        "distances": distances,
        "final_distances": distances,
        "adv_success": success.tolist(),
        "ori_success": already.tolist(),
        "correct": (~already).tolist(),
        "hashes": [image_hash(image) for image in x],
        "original_predictions": clean.tolist(),
        "adversarial_predictions": found.tolist(),
        "num_forwards": asked,
        "num_backwards": backwards,
        "times": [] if seconds is None else [float(seconds)],
        "box_failures": [False] * len(x),
        "batch_failures": [False],
        "targeted": False,
        "query_budget": query_budget,
        "threat_model": threat,
        "metadata": {
            "dataset": dataset, "model_name": model_name, "attack_name": attack_name, "attack_lib": LIBRARY,
            "threat_model": threat, "n_samples": len(x), "query_budget": query_budget,
            "protocol_version": PROTOCOL, "distance_semantics": "best_observed",
        },
        "ASR": float(np.mean(success)),
        "accuracy": float(np.mean(~already)),
    }  # fmt: skip


def attackbench_name(record: dict[str, Any]) -> str:
    """Return the file name that AttackBench gives to a record."""
    about = record["metadata"]
    parts = ("dataset", "threat_model", "model_name", "attack_name", "attack_lib", "n_samples")
    return "-".join(str(about[part]) for part in parts) + ".json"


def image_hash(image: np.ndarray) -> str:
    """Return the SHA-512 of an image [H, W, C], float32 in [0, 1], channels first."""
    channels_first = np.ascontiguousarray(np.moveaxis(np.asarray(image, np.float32), -1, 0))
    return hashlib.sha512(channels_first.tobytes()).hexdigest()
