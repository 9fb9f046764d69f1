"""The cells of the ensembles study: what one defense says to images, and attacks on whole ensembles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.attacks.cost import cost
from deepsec_jax.batches import OnBatch, in_batches
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.defense_cells import DefendedModel
from deepsec_jax.evaluation.generate import generate
from deepsec_jax.evaluation.judge import draws_of, judging_keys
from deepsec_jax.jit import jit_per_class
from deepsec_jax.models import AveragedLogits, AveragedProbabilities
from deepsec_jax.protocols import Classifier, Keys
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.cells import DRAWN, KINDS, MEMBER, WHOLE
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store
from deepsec_jax.studies.ensembles.drawn import Ensemble
from deepsec_jax.studies.security.cells import Attacked
from deepsec_jax.studies.security.worst import distances

Arrays = dict[str, np.ndarray]
AVERAGE, LOGITS, CLEAN = "average", "logits", "clean"
"""Through the mean probabilities, through the mean logits; and the source of clean images."""


@dataclass(frozen=True)
class Makers:
    """Makes the jobs of a study of ensembles.

    Attributes:
        store: the run directory.
        shared: common entries of all configs: data, model, n, seed, candidates, images.
        candidates: returns the clean images.
        train_images: returns the images that a UAP is fitted to.
        image_shape: height, width, channels.
        classes: number of classes.
        batch_size: images per call.
        notes: defended models -> entries of cells' environments.
    """

    store: Store
    shared: dict[str, Any]
    candidates: Callable[[], Candidates]
    train_images: Callable[[], np.ndarray]
    image_shape: tuple[int, ...]
    classes: int
    batch_size: int
    notes: Callable[[Sequence[DefendedModel]], dict[str, Any]]

    def drawn(self, ensemble: Ensemble, members: Sequence[DefendedModel], seed: int) -> Job:
        """Return the job that records which members an ensemble has."""
        config = {
            "kind": DRAWN, "version": KINDS[DRAWN].version, **self.shared, "draw": seed,
            "ensemble": {"kind": ensemble.kind, "number": ensemble.number, "members": _names(members)},
        }  # fmt: skip

        def compute(on_batch: OnBatch) -> tuple[dict[str, Any], Arrays]:
            on_batch(1)
            return {}, {"labels": self.candidates().labels}

        return Job(config, compute, notes=partial(self.notes, members), ready=self.candidates)

    def member(self, defended: DefendedModel, source: Job | None, attack: dict[str, Any], access: str) -> Job:
        """Return the job that asks one defense about the images of a cell, or about the clean images.

        Args:
            defended: the defense.
            source: job of the cell with ``x_adv``; None for the clean images.
            attack: the attack's entries in a config.
            access: what the images were made on: ``clean``, ``base``, or the name of a defense.
        """
        config = {
            "kind": MEMBER, "version": KINDS[MEMBER].version, **self.shared, "attack": attack,
            "defense": defended.about, "weights": defended.weights, "draws": draws_of(defended.classifier),
            "access": access, "source": "" if source is None else source.name,
        }  # fmt: skip

        def compute(on_batch: OnBatch) -> tuple[dict[str, Any], Arrays]:
            chosen = self.candidates()
            images = chosen.images if source is None else self._images(source)
            batch_size = min(self.batch_size, len(images))
            found = ask(defended.classifier, images, batch_size=batch_size, on_batch=on_batch)
            return {"batch_size": batch_size}, {"labels": chosen.labels, "probabilities": found}

        n = int(self.shared["n"])
        return Job(
            config, compute, images=n, gradients=draws_of(defended.classifier),
            after=() if source is None else (source.name,), notes=partial(self.notes, [defended]),
            bytes=n * 4 * (2 + self.classes * draws_of(defended.classifier)) + 65536, ready=self.candidates,
        )  # fmt: skip

    def whole(self, way: str, attacked: Attacked, members: Sequence[DefendedModel]) -> Job:
        """Return the job of an attack through the mean of the members' surrogates."""
        config = {
            "kind": WHOLE, "version": KINDS[WHOLE].version, **self.shared, "access": way,
            "attack": attacked.config["attack"],
            "members": [
                {"defense": each.about, "weights": each.weights, "surrogate": each.surrogate_weights}
                for each in members
            ],
        }  # fmt: skip
        n = int(self.shared["n"])
        stated = cost(attacked.attack, classes=self.classes, entries=int(np.prod(self.image_shape)))
        return Job(
            config, partial(self._whole, way, attacked, members), images=n, ready=self.candidates,
            gradients=None if stated is None else int(len(members) * (stated.gradients + stated.forwards)),
            notes=partial(self.notes, members), bytes=n * (4 * int(np.prod(self.image_shape)) + 2000) + 65536,
        )  # fmt: skip

    def _whole(
        self, way: str, attacked: Attacked, members: Sequence[DefendedModel], on_batch: OnBatch
    ) -> tuple[dict[str, Any], Arrays]:
        chosen, attack = self.candidates(), attacked.attack
        batch_size = min(self.batch_size, len(chosen))
        surrogates = tuple(each.surrogate for each in members)
        mean: Classifier = (AveragedProbabilities if way == AVERAGE else AveragedLogits)(surrogates)
        targeted = bool(getattr(attack, "targeted", False))
        found = generate(
            attack, mean, chosen.images, chosen.targets if targeted else chosen.labels,
            key=root_key(int(self.shared["seed"])), batch_size=batch_size, train_images=self.train_images,
            on_batch=on_batch,
        )  # fmt: skip
        notes = {
            "batch_size": batch_size, "seconds": found.seconds, "compile_seconds": found.compile_seconds,
            "gradients": None if np.isnan(found.gradients) else found.gradients,
        }  # fmt: skip
        each = [ask(model.classifier, found.x_adv, batch_size=batch_size) for model in members]
        draws = max(answers.shape[1] for answers in each)
        padded = [np.broadcast_to(part, (len(part), draws, part.shape[2])) if part.shape[1] == 1 else part
                  for part in each]  # fmt: skip
        return notes, {
            "labels": chosen.labels, "x_adv": found.x_adv, "probabilities": np.stack(padded, axis=1),
            **distances(chosen.images, found.x_adv),
        }  # fmt: skip

    def _images(self, source: Job) -> np.ndarray:
        if not self.store.has_cell(source.name):
            raise RuntimeError(
                f"there are no images to replay, because {source.name} failed: run it again first"
            )
        arrays = self.store.arrays(source.name)
        # A white-box attack on a model without gradients keeps the clean images.
        return arrays["x_adv"]


def _names(members: Sequence[DefendedModel]) -> list[dict[str, Any]]:
    return [{"name": each.about["name"], "weights": each.weights} for each in members]


def ask(
    model: Classifier, images: np.ndarray, *, batch_size: int, on_batch: OnBatch = lambda rows: None
) -> np.ndarray:
    """Return a model's probabilities under the judge's draws, float32 [N, D, K]; NaN without an answer."""
    model = reseed(model, example_keys(root_key(0), batch_size))  # one key per row; draws replace them

    def asked(rows: np.ndarray) -> dict[str, Any]:
        keys = judging_keys(model, len(rows), first=int(rows[0]))
        return {"probabilities": _probabilities(model, jnp.asarray(images[rows]), keys)}

    return in_batches(asked, len(images), batch_size, on_batch)["probabilities"]


@jit_per_class
def _probabilities(model: Classifier, x: jax.Array, keys: Keys | None) -> jax.Array:
    """Return the probabilities in each draw, float32 [B, D, K]."""
    if keys is None:
        return jax.nn.softmax(model(x).astype(jnp.float32))[:, None]
    drawn = lax.map(lambda each: jax.nn.softmax(reseed(model, each)(x).astype(jnp.float32)), keys)
    return jnp.swapaxes(drawn, 0, 1)
