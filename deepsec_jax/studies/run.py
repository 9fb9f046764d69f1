"""The context of a study's jobs: one model, one data set, one run directory."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import check_model_outputs
from deepsec_jax.attacks.model_outputs import ROWS
from deepsec_jax.data import (
    Candidates,
    Dataset,
    candidates_name,
    draw_candidates,
    stored_candidates,
    training_sample,
    unit_images,
)
from deepsec_jax.evaluation.machine import machine_facts
from deepsec_jax.evaluation.measured import bare_gradient_seconds
from deepsec_jax.evaluation.sample import split_name
from deepsec_jax.placement import of_leader, rows_sharding, whole_parts
from deepsec_jax.protocols import Attack, Classifier
from deepsec_jax.runs.store import Store
from deepsec_jax.studies.batch_size import choose, of_attack
from deepsec_jax.studies.options import BatchSize


@dataclass(frozen=True)
class Run:
    """One model, one data set, one run directory; costly values are computed once and cached.

    Attributes:
        model: the model, in evaluation mode.
        about: its entries in a config: ``name``, and further known facts.
        dataset: of the evaluation.
        classes: number of classes.
        store: the run directory.
        size: images per call, or ``auto``.
        warn: called with problems of a model, one line each.
        keeps: whether candidate sets are stored in the run directory; False writes nothing.
        surrogate: of a defended model, the model to differentiate in place of it; None for itself.
    """

    model: Classifier
    about: dict[str, Any]
    dataset: Dataset
    classes: int
    store: Store
    size: BatchSize = "auto"
    warn: Callable[[str], Any] = print
    keeps: bool = True
    surrogate: Classifier | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)
    _scope: str = field(default="", repr=False)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the cached result of ``make`` for this key."""
        scoped = (self._scope, key)
        if scoped not in self._kept:
            self._kept[scoped] = make()
        return self._kept[scoped]

    def of(self, model: Classifier, about: dict[str, Any], scope: str) -> "Run":
        """Return the run of another model, with the same data and directory.

        Args:
            model: the other model, in evaluation mode.
            about: its entries in a config.
            scope: tells its cached values from this model's, such as a digest of its weights;
                :meth:`forget` drops both.
        """
        return replace(self, model=model, about=about, surrogate=None, _scope=scope)

    def forget(self) -> None:
        """Drop cached values: after a failure the processes of a run may have cached different ones."""
        self._kept.clear()

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.dataset.image_shape[2]

    def images(self) -> str:
        """Return the name of the test split, a hash over it."""
        return str(self.once("images", lambda: split_name(self.dataset.test)))

    def batch_size(self, n: int) -> int:
        """Return images per call for ``n`` images; the model's devices divide it."""

        def make() -> int:
            size = of_leader(choose(self.size, self.model, self.dataset.image_shape, n))
            return whole_parts(size, rows_sharding(self.model))

        return int(self.once(("batch", n), make))

    def attack_batch_size(self, n: int, attack: Attack) -> int:
        """Return images per call of one attack; ``auto`` on an accelerator is from its program's memory."""
        size = self.batch_size(n)
        if self.size != "auto":
            return size
        return of_attack(attack, self.model, self.dataset.image_shape, n, otherwise=size)

    def candidates_name(self, n: int, seed: int) -> str:
        """Return the name of a candidate set without drawing it."""
        make = partial(candidates_name, self.model, self.dataset, n, seed)
        return str(self.once(("name", n, seed), make))

    def candidates(self, n: int, seed: int) -> Candidates:
        """Return a candidate set, stored in the run directory if there is one."""
        make = partial(draw_candidates, self.model, self.dataset, n, seed)
        if self.keeps:
            folder = self.store.folder / "candidates"
            make = partial(stored_candidates, self.model, self.dataset, n, seed, folder)
        found: Candidates = self.once(("candidates", n, seed), make)
        return found

    def training_images(self, seed: int) -> np.ndarray:
        """Return the images for fitting a UAP."""
        return np.asarray(training_sample(self.dataset, seed))

    def gradient_seconds(self, n: int) -> float:
        """Return the wall time of one bare gradient per image, measured on test images in batches."""
        rows = min(n, len(self.dataset.test), self.batch_size(n))
        images, labels = unit_images(self.dataset.test.images[:rows]), self.dataset.test.labels[:rows]
        measure = partial(bare_gradient_seconds, self.model, jnp.asarray(images), jnp.asarray(labels))
        return float(self.once("gradient", lambda: of_leader(measure())))  # a budget depends on it

    def notes(self, **more: Any) -> dict[str, Any]:
        """Return the common entries of cells' environments, and ``more``."""
        device = self.once("device", machine_facts)["Device"]
        return {"device": device, "class_names": list(self.dataset.class_names), **more}

    def config(self, kind: str, *, version: int = 1, **more: Any) -> dict[str, Any]:
        """Return the config of a cell of a study's own kind.

        Args:
            kind: name of the kind.
            version: increase it if the meaning of the cell's arrays changes.
            more: everything else that determines the cell, as plain values; ``row`` is its label in tables.
        """
        about = {"data": self.dataset.name, "model": self.about, "images": self.images()}
        return {"kind": kind, "version": version, **about, **more}

    def look(self, model: Classifier, who: str, *, gradients: bool = True) -> list[str]:
        """Return problems of a model's outputs on the first test images; warn once.

        Args:
            model: a callable pytree in evaluation mode.
            who: name of the model.
            gradients: whether attacks will use its gradients.
        """

        def find() -> list[str]:
            images = unit_images(self.dataset.test.images[:ROWS])
            found = check_model_outputs(model, images, self.dataset.test.labels[:ROWS], gradients=gradients)
            for finding in found:
                self.warn(f"warning: {who}: {finding}")
            return list(found)

        return list(self.once(("look", who, gradients), find))
