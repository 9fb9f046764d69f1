"""Finished and failed cells of detectors without a model: random scores, and what follows from them."""

import zlib

import numpy as np
from fake_cells import config_of, images_of, model_of

from deepsec_jax import defenses
from deepsec_jax.attacks.settings import hyperparameters
from deepsec_jax.defenses.folders import settings_of
from deepsec_jax.evaluation.detector_jobs import swept_fgsm
from deepsec_jax.runs.cells import KINDS, Cell

CLEAN, N = 200, 40
CLASSES = {"magnet": "MagNet"}


def usual(name, data, preset):
    """The settings of a preset; none of a detector that is not in the table."""
    try:
        return settings_of(defenses.preset(name, data, preset))
    except KeyError:
        return {}


def shared(kind, name="fs", *, data="mnist", model="mnist-paper", preset="paper", threshold=1.7, **settings):
    return {
        "kind": kind, "version": KINDS[kind].version, "data": data, "model": model_of(model),
        "images": images_of(data), "threshold": threshold,
        "detector": {
            "name": name, "preset": preset, "class": CLASSES.get(name, name.upper()), "base": model,
            "settings": usual(name, data, preset) | settings,
        },
        "weights": {"raw": f"raw-{model}", "detector": f"{name}-{preset}"},
    }  # fmt: skip


def environment(name, *, seconds=2.0, validation=500, fpr=0.04, **others):
    return {
        "versions": {"jax": "0.10.2"}, "device": "1 x cpu", "batch_size": 64, "seconds": seconds,
        "compile_seconds": 1.0, "folder": f"{name}-folder", "fpr": fpr, "validation": validation,
        "training": {"clean_images": validation, "test_accuracy": 0.99}, **others,
    }  # fmt: skip


def random(*words):
    return np.random.default_rng(zlib.crc32(" ".join(map(str, words)).encode()))


def fake_clean(name="fs", *, others=None, error=None, above=None, **settings):
    """Scores of clean images; ``above`` of them above the threshold, by default as many as it is set for."""
    config = shared("clean", name, **settings)
    cell_name = f"{name}-clean-{config['data']}-{config['detector']['preset']}"
    if error is not None:
        return Cell(cell_name, config, {}, error=error)
    scores = random(name, "clean").normal(size=CLEAN)
    order = np.sort(scores)
    above = 8 if above is None else above
    scores = scores - (order[-1 - above] + order[-above] if above else 2 * order[-1] + 1) / 2
    arrays = {
        "scores": (scores + config["threshold"]).astype(np.float32),
        "labels": (np.arange(CLEAN) % 10).astype(np.int32),
        "correct": (np.arange(CLEAN) >= 4).astype(np.float32),
    }  # fmt: skip
    known = environment(name, forward_seconds=0.5, channels=1, **(others or {}))
    return Cell(cell_name, config, known, arrays)


def _attacked(config, cell_name, name, shift, rate, others):
    n = config["n"]
    scores = random(name, cell_name).normal(config["threshold"] - 1.7 + shift, size=n)
    arrays = {
        "scores": scores.astype(np.float32), "rows": np.arange(n, dtype=np.int32),
        "success": (np.arange(n) < round(rate * n)).astype(np.float32),
    }  # fmt: skip
    return Cell(cell_name, config, environment(name, **(others or {})), arrays)


def fake_detection(
    attack, name="fs", *, shift=2.5, rate=0.75, n=N, seed=0, kind="paper", others=None, error=None, **settings
):
    """An attack that succeeds on the first ``rate`` of n images; scores lie ``shift`` above clean ones."""
    config = shared("detection", name, **settings)
    made = config_of(attack, data=config["data"], model=config["model"]["name"], preset=kind, n=n, seed=seed)
    config |= {key: made[key] for key in ("attack", "n", "seed", "candidates")} | {"source": f"{attack}-cell"}
    cell_name = f"{name}-detection-{attack}-{config['data']}-{kind}-{n}"
    if error is not None:
        return Cell(cell_name, config, {}, error=error)
    return _attacked(config, cell_name, name, shift, rate, others)


def fake_sweep(eps, name="fs", *, shift=2.5, rate=0.5, n=N, seed=0, others=None, error=None, **settings):
    """FGSM at one radius."""
    config = shared("sweep", name, **settings)
    data = config["data"]
    attack = {"name": "fgsm", "class": "FGSM", "preset": "paper",
              "hyperparameters": hyperparameters(swept_fgsm(data, eps, channels=1))}  # fmt: skip
    config |= {"attack": attack, "eps": eps, "n": n, "seed": seed, "candidates": f"{data}-{n}-{seed}"}
    cell_name = f"{name}-sweep-{eps:g}-{data}"
    if error is not None:
        return Cell(cell_name, config, {}, error=error)
    return _attacked(config, cell_name, name, shift, rate, others)
