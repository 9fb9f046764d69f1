"""Finished and failed cells of defenses without a model: random answers, columns that follow from them."""

import zlib

import numpy as np
from fake_cells import images_of, model_of

from deepsec_jax import defenses, training
from deepsec_jax.attacks.settings import hyperparameters
from deepsec_jax.defenses.base import changed_recipe
from deepsec_jax.defenses.folders import settings_of
from deepsec_jax.evaluation.adaptive import ROBUSTNESS_COLUMNS
from deepsec_jax.evaluation.defense_cells import paper_pgd
from deepsec_jax.evaluation.defense_jobs import column_of
from deepsec_jax.evaluation.utility import measure_utility, utility_columns
from deepsec_jax.runs.cells import KINDS, Cell

CLASSES, TESTS, N = 10, 60, 24


def about(name="nat", *, data="mnist", model="mnist-paper", preset="paper", **settings):
    try:
        usual = settings_of(defenses.preset(name, data, preset))
    except KeyError:
        usual = {}
    recipe = training.recipe(model)
    try:
        usual_defense = defenses.preset(name, data, preset)
        kept = getattr(usual_defense, "keeps_network", False)
        recipe = recipe if kept else changed_recipe(usual_defense, recipe)
    except KeyError:
        pass
    return {
        "name": name, "preset": preset, "class": name.partition("@")[0].upper(), "base": "base",
        "settings": {**usual, **settings}, "recipe": recipe.to_dict(),
    }  # fmt: skip


def shared(kind, *, data="mnist", model="mnist-paper", weights=None):
    return {
        "kind": kind, "version": KINDS[kind].version, "data": data, "model": model_of(model),
        "images": images_of(data), "weights": weights or {"raw": f"raw-{model}"}, "draws": 1,
    }  # fmt: skip


def history(epochs=4, **curves):
    return [
        {"epoch": epoch, "loss": 1.0 / (1 + epoch), "validation": 0.6 + 0.1 * epoch, **{
            key: values[epoch] for key, values in curves.items()}}
        for epoch in range(epochs)
    ]  # fmt: skip


def environment(name, *, confidences=True, seconds=2.0, training=None, about=None):
    if training is None:
        training = {"test_accuracy": 0.95, "best_epoch": 2, "validation": 0.8, "history": history()}
    return {
        "versions": {"jax": "0.10.2"}, "device": "1 x cpu", "batch_size": 8, "seconds": seconds,
        "compile_seconds": 1.0, "gradients": 15.0, "class_names": [str(index) for index in range(CLASSES)],
        "folder": f"{name}-folder", "confidences": confidences, "training": training,
    }  # fmt: skip


def _probabilities(rng, found):
    scores = rng.uniform(size=(len(found), CLASSES)) + 4 * np.eye(CLASSES)[found]
    return (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)


def fake_utility(name="nat", *, right=0.9, others=None, raw_right=0.95, **settings):
    """A defense that is right on the first so many of the test images."""
    base = {key: settings.pop(key) for key in ("data", "model") if key in settings}
    weights = {"raw": f"raw-{base.get('model', 'mnist-paper')}", "defended": name}
    config = {
        **shared("utility", **base, weights=weights),
        "defense": about(name, **base, **settings),
    }  # fmt: skip
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    labels = (np.arange(TESTS) % CLASSES).astype(np.int32)
    correct_raw = (np.arange(TESTS) < round(raw_right * TESTS)).astype(np.float32)
    correct = (np.arange(TESTS)[::-1] < round(right * TESTS)).astype(np.float32)
    raw, defended = (
        _probabilities(rng, np.where(part > 0, labels, (labels + 1) % CLASSES))
        for part in (correct_raw, correct)
    )
    arrays = {
        "labels": labels, "logits_raw": np.log(raw), "logits": np.log(defended), "probabilities_raw": raw,
        "probabilities": defended, "correct_raw": correct_raw, "correct": correct,
    }  # fmt: skip
    known = environment(name, **(others or {}))
    columns = measure_utility(arrays, tuple(utility_columns()), confidences=known["confidences"])
    return Cell(f"{name}-utility", config, known, arrays, columns)


def fake_robustness(
    knowledge,
    name="nat",
    *,
    right,
    clean=0.95,
    eps=0.3,
    n=N,
    seed=0,
    steps=100,
    others=None,
    error=None,
    **settings,
):
    """A model under attack that stays right on the first so many images."""
    base = {key: settings.pop(key) for key in ("data", "model") if key in settings}
    data = base.get("data", "mnist")
    weights = {"raw": f"raw-{base.get('model', 'mnist-paper')}"}
    if knowledge != "undefended":
        weights["defended"] = name
    attack = {"name": "pgd", "class": "PGD", "hyperparameters": hyperparameters(paper_pgd(data, eps))}
    if knowledge == "adaptive":
        values = {"eps": eps, "steps": steps, "restarts": 5, "aims": 5, "rounds": 1, "stops": True}
        attack = {
            "name": "cascade", "class": "Cascade",
            "hyperparameters": values,
        }  # fmt: skip
    config = {
        **shared("robustness", **base, weights=weights), "knowledge": knowledge, "attack": attack,
        "eps": eps, "n": n, "seed": seed,
        **({} if knowledge == "undefended" else {"defense": about(name, **base, **settings)}),
    }  # fmt: skip
    cell_name = f"{name}-{knowledge}-{eps}-{n}-{seed}-{steps}"
    if error is not None:
        return Cell(cell_name, config, {}, error=error)
    rng = np.random.default_rng(zlib.crc32(f"{data}{n}{seed}".encode()))
    channels = 1 if data in ("mnist", "digits") else 3
    x = rng.uniform(size=(n, 8, 8, channels)).astype(np.float32)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    correct = (np.arange(n) < round(right * n)).astype(np.float32)
    arrays = {
        "x_adv": np.clip(x + eps * np.sign(rng.normal(size=x.shape)), 0, 1).astype(np.float32), "x": x,
        "labels": labels, "rows": np.arange(n, dtype=np.int32),
        "clean": (np.arange(n) < round(clean * n)).astype(np.float32), "right_or_rejected": correct,
        "predicted": np.where(correct > 0, labels, (labels + 1) % CLASSES).astype(np.int32),
        "probabilities": _probabilities(rng, np.where(correct > 0, labels, (labels + 1) % CLASSES)),
    }  # fmt: skip
    arrays["confidence"] = arrays["probabilities"].max(axis=1)
    columns = {
        column: np.asarray(ROBUSTNESS_COLUMNS[column].values(arrays), float)
        for column in ("clean", column_of(knowledge))
    }
    return Cell(cell_name, config, environment(name, **(others or {})), arrays, columns)


def fake_defense(name="nat", *, replayed=0.8, white_box=0.5, adaptive=0.4, **settings):
    """All cells of one defense."""
    return [
        fake_utility(name, **settings),
        *(
            fake_robustness(knowledge, name, right=right, **settings)
            for knowledge, right in (("replayed", replayed), ("white_box", white_box), ("adaptive", adaptive))
        ),
    ]
