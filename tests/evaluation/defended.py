"""Defended models that are none: a linear model behind what a defense could be, and images for it."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import Linear, Noisy, make_linear

from deepsec_jax.data import Dataset, Split
from deepsec_jax.evaluation.defense_cells import DefendedModel, Threat
from deepsec_jax.evaluation.defense_jobs import Defenses, question_of
from deepsec_jax.pytree import Struct
from deepsec_jax.runs.runner import run_plan
from deepsec_jax.runs.store import Store

SHAPE = (4, 4, 1)
RAW = make_linear(SHAPE)
THREAT = Threat(eps=0.1, n=40, seed=3, steps=8, restarts=2, queries=0)
TESTS = 60


def make_dataset(*, rows: int = TESTS, wrong: int = 5) -> Dataset:
    """Images with the class that the linear model finds, but for the first few of the test split."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(20 + rows, *SHAPE)).astype(np.float32)
    y = np.asarray(RAW(jnp.asarray(x))).argmax(1).astype(np.int32)
    y[20 : 20 + wrong] = (y[20 : 20 + wrong] + 1) % 3
    return Dataset("mnist", Split(x[:20], y[:20]), Split(x[20:], y[20:]), ("a", "b", "c"))


class Misleading(Struct):
    """A linear model whose gradient by the image is another one's: PGD runs, and runs astray."""

    base: Linear
    other: Linear

    def __call__(self, x):
        astray = self.other(x)
        return self.base(jax.lax.stop_gradient(x)) + astray - jax.lax.stop_gradient(astray)


class Rounded(Struct):
    """A linear model behind 32 levels: nothing flows back through the rounding."""

    base: Linear

    def __call__(self, x):
        return self.base(self.seen(x))

    def seen(self, x):
        return jnp.round(x * 31) / 31


def about(name="nat", preset="paper", **settings):
    return {
        "name": name, "preset": preset, "class": name.upper(), "settings": settings, "base": "raw",
        "recipe": {"name": f"{name}-mnist-paper", "epochs": 3, "optimizer": "sgd", "seed": 100},
    }  # fmt: skip


def subject(name="nat", classifier=RAW, surrogate=None, **others) -> DefendedModel:
    history = [
        {"epoch": epoch, "loss": 1.0 / (1 + epoch), "validation": 0.5 + 0.1 * epoch} for epoch in range(3)
    ]
    training = {"test_accuracy": 0.9, "best_epoch": 2, "validation": 0.7, "history": history}
    return DefendedModel(
        about(name), classifier, classifier if surrogate is None else surrogate,
        training=training, folder=f"{name}-paper-raw", **others,
    )  # fmt: skip


def planted() -> dict[str, DefendedModel]:
    """Subjects by what they are planted for."""
    away = Linear(-RAW.weights, -RAW.bias)  # its worst images are RAW's best
    return {
        "no-op": subject("nat"),
        "masked": subject("dd", Misleading(RAW, away), RAW),
        "no gradient": subject("te", Rounded(RAW), RAW),
        "wrong surrogate": subject("igr", RAW, away),
        "noisy": subject("rt", Noisy(RAW, jax.random.split(jax.random.key(5), 4), 0.1)),
    }


BASE = {"name": "raw", "network": "linear", "recipe": "mnist-paper", "test_accuracy": 0.92}


def evaluate(folder, subjects, *, threat=THREAT, clean=None, dataset=None, batch_size=16, raw=RAW, base=BASE):
    """Run an evaluation into a folder, and return its store, its jobs and its failures."""
    dataset = dataset or make_dataset()
    question = question_of(raw, base, dataset, dataset.classes)
    store = Store(folder)
    jobs = Defenses(question, raw, dataset, store, batch_size).jobs(subjects, threat, clean)
    store.add_to_plan(job.config for job in jobs)
    failures = run_plan(store, jobs, advance=lambda done=1, note="": None)
    return store, jobs, failures
