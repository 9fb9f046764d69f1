"""Finished and failed cells without a model: random images, labels, probabilities and columns."""

import zlib

import numpy as np

from deepsec_jax import attacks, training
from deepsec_jax.attacks.settings import class_of, hyperparameters
from deepsec_jax.metrics import METRICS
from deepsec_jax.runs.cells import KINDS, Cell
from deepsec_jax.studies.paper_title import DIGESTS

CLASSES = 10


def model_of(of, /, **recipe):
    """What a config says of a model of a recipe, with other values in some of its fields."""
    data = of.partition("-")[0]
    return {
        "name": of, "recipe": training.recipe(of).to_dict() | recipe, "test_accuracy": 0.9934,
        "trained_on": DIGESTS.get(data, ("other",))[0],
    }  # fmt: skip


def images_of(data):
    """The hash of a data set's test split."""
    return DIGESTS.get(data, ("", "test-0"))[1]


def config_of(name="bim", *, data="mnist", model="mnist-paper", preset="paper", n=12, seed=0, **others):
    attack = attacks.preset(name, data, preset)
    described = {
        "name": name, "class": class_of(attack), "preset": preset,
        "hyperparameters": hyperparameters(attack),
    }  # fmt: skip
    return {
        "data": data, "model": model_of(model), "images": images_of(data), "attack": described, "n": n,
        "seed": seed, "candidates": f"{data}-{n}-{seed}", "version": KINDS["attack"].version, **others,
    }  # fmt: skip


def failed_cell(name="pgd", error="RuntimeError: out of memory", **settings):
    config = config_of(name, **settings)
    return Cell(f"{name}-failed", config, {}, error=error)


def fake_cell(name="bim", *, rate=0.75, side=8, columns=None, seconds=1.5, clean=None, **settings):
    """A cell on which the attack succeeds on the first ``rate`` of the images."""
    config = config_of(name, **settings)
    n = config["n"]
    rng = np.random.default_rng(zlib.crc32(f"{name} {config['data']}".encode()))
    channels = 1 if attacks.presets.table_of(config["data"]) == "mnist" else 3
    x = rng.uniform(size=(n, side, side, channels)) if clean is None else clean[:n]
    eps = config["attack"]["hyperparameters"]["eps"]
    x_adv = np.clip(x + eps * np.sign(rng.normal(size=x.shape)), 0, 1)
    success = (np.arange(n) < round(rate * n)).astype(np.float32)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    targeted = attacks.ATTACKS[name.partition("@")[0]].card.goal == "targeted"
    targets = (labels + 1) % CLASSES if targeted else np.full(n, -1)
    found = np.where(success > 0, (labels + 1) % CLASSES, labels)
    scores = rng.uniform(size=(n, CLASSES)) + 4 * rng.uniform(0.2, 1, (n, 1)) * np.eye(CLASSES)[found]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    arrays = {
        "x_adv": x_adv.astype(np.float32), "x": x.astype(np.float32), "labels": labels,
        "targets": targets.astype(np.int32), "rows": np.arange(n, dtype=np.int32), "success": success,
        "probabilities": probabilities.astype(np.float32), "predicted": found.astype(np.int32),
        "confidence": probabilities.max(axis=1).astype(np.float32),
    }  # fmt: skip
    environment = {
        "versions": {"jax": "0.10.2"}, "device": "1 x cpu", "batch_size": 4, "seconds": seconds,
        "compile_seconds": 2.5, "gradient_seconds": 0.001, "gradients": 15,
    }  # fmt: skip
    values = {
        column.name: (rng.uniform(size=n) < 0.8).astype(float) if column.rate else rng.uniform(size=n)
        for column in METRICS.values()
        if columns is None or column.name in columns
    }
    given = {
        "mr": success,
        "mr_8bit": success,
        "clean_error": np.zeros(n),
        "cc": np.full(n, seconds / n),
        "cc_forwards": np.full(n, np.nan),
    }
    values |= {key: np.asarray(value, float) for key, value in given.items() if key in values}
    return Cell(f"{name}-{config['data']}-{config['seed']}", config, environment, arrays, values)
