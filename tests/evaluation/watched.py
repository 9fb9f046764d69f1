"""Detectors of one's own before a linear model, images for them, and attacks' cells to score."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from conftest import make_linear

from deepsec_jax import attacks
from deepsec_jax.data import Dataset, Split, candidates_name, stored_candidates
from deepsec_jax.defenses.detector import FittedDetector
from deepsec_jax.evaluation.attack_jobs import attack_config, attack_job
from deepsec_jax.evaluation.defense_cells import digest
from deepsec_jax.evaluation.detector_jobs import Asked, Detectors, DetectorUnderTest, Sweep
from deepsec_jax.evaluation.sample import split_name
from deepsec_jax.pytree import Struct
from deepsec_jax.runs.runner import run_plan
from deepsec_jax.runs.store import Store

SHAPE = (4, 4, 1)
MODEL = make_linear(SHAPE)
ABOUT = {"name": "raw", "network": "linear", "recipe": "mnist-paper", "test_accuracy": 0.9}
VALIDATION, TESTS, N = 200, 300, 40
EPS = (0.02, 0.1, 0.3, 0.6)


class Edges(Struct):
    """Share of pixels at either end of the box, and a little of their contrast: what FGSM leaves behind."""

    sign: float = 1.0

    def __call__(self, x):
        at_ends = jnp.mean(((x <= 0.0) | (x >= 1.0)).astype(jnp.float32), axis=(1, 2, 3))
        return self.sign * (at_ends + 0.1 * jnp.std(x, axis=(1, 2, 3)))


class Bright(Struct):
    """Mean brightness: says nothing of an attack."""

    weight: float = 1.0

    def __call__(self, x):
        return self.weight * jnp.mean(x, axis=(1, 2, 3))


def images(seed, rows):
    x = np.random.default_rng(seed).uniform(size=(rows, *SHAPE)).astype(np.float32)
    return x, np.asarray(MODEL(jnp.asarray(x))).argmax(1).astype(np.int32)


def make_dataset(wrong=10) -> Dataset:
    """Images with the class that the model finds, but for the first few of the test split."""
    x, y = images(0, 20 + TESTS)
    y[20 : 20 + wrong] = (y[20 : 20 + wrong] + 1) % 3
    return Dataset("mnist", Split(x[:20], y[:20]), Split(x[20:], y[20:]), ("a", "b", "c"))


def watcher(name="fs", scorer=None, fpr=0.04, **about) -> DetectorUnderTest:
    fitted = FittedDetector(Edges() if scorer is None else scorer).at_fpr(images(1, VALIDATION)[0], fpr)
    whole = {"name": name, "preset": "paper", "class": name.upper(), "settings": {}, "base": "raw", **about}
    return DetectorUnderTest(
        whole, fitted, fpr, VALIDATION, f"{name}-paper-raw", {"clean_images": VALIDATION}
    )


def attack(store: Store, dataset: Dataset, names=("fgsm", "llc"), n=N):
    """Write the cells of attacks, as deepsec evaluate attacks does, and return name -> config."""
    candidates = stored_candidates(MODEL, dataset, n, 0, store.folder / "candidates")
    found = {}
    for name in names:
        made = attacks.preset(name, "mnist", "paper")
        config = attack_config(
            name, made, preset="paper", data="mnist", model=ABOUT, n=n, seed=0, train_digest=dataset.digest,
            candidates=candidates_name(MODEL, dataset, n, 0), images=split_name(dataset.test),
        )  # fmt: skip
        job = attack_job(
            config, made, MODEL, lambda: candidates, groups={}, image_shape=SHAPE, classes=3, batch_size=16,
            gradient_seconds=lambda: 0.001, train_images=lambda: dataset.train.images,
            notes=lambda: {"class_names": list(dataset.class_names)},
        )  # fmt: skip
        store.add_to_plan([config])
        assert run_plan(store, [job], advance=lambda done=1, note="": None) == []
        found[job.name] = config
    return found


def planned(store, watchers, attacked, dataset, *, eps=EPS, n=N):
    """Return the jobs of detectors."""

    def candidates():
        return stored_candidates(MODEL, dataset, n, 0, store.folder / "candidates")

    sweep = Sweep(eps, candidates_name(MODEL, dataset, n, 0), n, 0, candidates) if eps else None
    asked = Asked("mnist", ABOUT, digest(MODEL), split_name(dataset.test))
    return Detectors(asked, MODEL, dataset, store, 32).jobs(watchers, attacked, sweep)


def evaluate(folder, watchers, *, eps=EPS, names=("fgsm", "llc")):
    """Run attacks and detectors into a folder, and return its store, its jobs and its failures."""
    store, dataset = Store(Path(folder)), make_dataset()
    attacked = attack(store, dataset, names)
    jobs = planned(store, watchers, attacked, dataset, eps=eps)
    store.add_to_plan(job.config for job in jobs)
    return store, jobs, run_plan(store, jobs, advance=lambda done=1, note="": None)


def score_of(scorer, x):
    return np.asarray(jax.jit(lambda x: scorer(x).astype(jnp.float32))(jnp.asarray(x)))
