"""The cells of the security evaluation: one attack, one defended model, one kind of knowledge."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deepsec_jax.attacks import Transfer, prepare
from deepsec_jax.attacks.cost import cost, uses_gradients
from deepsec_jax.batches import OnBatch
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX, DefendedModel, is_exact
from deepsec_jax.evaluation.generate import Generated, generate
from deepsec_jax.evaluation.judge import draws_of
from deepsec_jax.evaluation.predictions import Predictions, has_gradient, predict
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.protocols import Attack
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.cells import KINDS, SECURITY
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store

Environment = dict[str, Any]
Arrays = dict[str, np.ndarray]
DISTANCES = ("l0", "l1", "l2", "linf")

MORE = ":more"
"""End of the name of the attack with more steps and restarts: it must fool nothing that the others miss."""


@dataclass(frozen=True)
class Attacked:
    """One attack on the undefended model, whose images others replay.

    Attributes:
        name: preset row.
        attack: the attack.
        config: of its cell.
        cell: name of its cell.
    """

    name: str
    attack: Attack
    config: dict[str, Any]
    cell: str


@dataclass(frozen=True)
class Makers:
    """Makes the jobs of a security evaluation.

    Attributes:
        store: the run directory with the images to replay.
        candidates: returns the clean images, the same for all models.
        train_images: returns the images that a UAP is fitted to.
        image_shape: height, width, channels.
        classes: number of classes.
        batch_size: images per call.
        notes: defended model -> entries of its cells' environments.
        once: key, function -> the function's value, computed once per key.
    """

    store: Store
    candidates: Callable[[], Candidates]
    train_images: Callable[[], np.ndarray]
    image_shape: tuple[int, ...]
    classes: int
    batch_size: int
    notes: Callable[[DefendedModel], dict[str, Any]]
    once: Callable[[Any, Callable[[], Any]], Any]

    def job(self, access: str, attacked: Attacked, defended: DefendedModel) -> Job | None:
        """Return the job of one cell; None if it would be a copy of another cell.

        Through a surrogate that is the model itself an attack is the white-box attack.  An attack without
        gradients does not need a surrogate.
        """
        if access == ADAPTIVE and (is_exact(defended) or not uses_gradients(attacked.attack)):
            return None
        if access == REPLAYED and attacked.name.endswith(MORE):
            return None
        source = attacked.config
        kept = {
            name: source[name] for name in ("data", "model", "attack", "n", "seed", "candidates", "images")
        }
        weights = {"defended": defended.weights}
        if access == ADAPTIVE:
            weights["surrogate"] = defended.surrogate_weights
        config = {
            "kind": SECURITY, "version": KINDS[SECURITY].version, **kept, "access": access,
            "defense": defended.about, "weights": weights, "draws": draws_of(defended.classifier),
        }  # fmt: skip
        config |= {"source": attacked.cell} if access == REPLAYED else {}
        n, entries = int(source["n"]), int(np.prod(self.image_shape))
        stated = cost(attacked.attack, classes=self.classes, entries=entries)
        made = access != REPLAYED
        return Job(
            config, partial(self._compute, access, attacked, defended), images=n,
            gradients=1 if not made else None if stated is None else int(stated.gradients + stated.forwards),
            after=() if made else (attacked.cell,), bytes=n * (4 * entries * made + 80) + 65536,
            notes=partial(self.notes, defended), ready=self.candidates,
        )  # fmt: skip

    def _compute(
        self, access: str, attacked: Attacked, defended: DefendedModel, on_batch: OnBatch
    ) -> tuple[Environment, Arrays]:
        chosen, model = self.candidates(), defended.classifier
        batch_size = min(self.batch_size, len(chosen))
        notes: Environment = {"batch_size": batch_size}
        if access == REPLAYED:
            found = self._replayed(attacked)
            on_batch(len(chosen))
        elif access == WHITE_BOX and self._is_blind(attacked.attack, defended, chosen, batch_size):
            found = Generated(chosen.images, np.full(len(chosen), -1, np.int32))
            notes["zero_gradient"] = True
            on_batch(len(chosen))
        else:
            found = self._made(access, attacked, defended, chosen, batch_size, on_batch)
        notes |= {
            "seconds": found.seconds, "compile_seconds": found.compile_seconds,
            "gradients": _known(found.gradients), "forwards": _known(found.forwards),
        }  # fmt: skip

        def asked(images: np.ndarray) -> Predictions:
            return predict(model, images, chosen.labels, batch_size=batch_size)

        clean = self.clean(defended)
        said = clean if found.x_adv is chosen.images else asked(found.x_adv)
        arrays = {
            "labels": chosen.labels, "rows": chosen.rows.astype(np.int32), "targets": found.targets,
            "success": said.success(clean, chosen.labels, found.targets),
            "clean": clean.correct, "right_or_rejected": said.holds, "rejected": said.rejected,
            "predicted": said.predicted, "no_answer": said.no_answer,
            **distances(chosen.images, found.x_adv),
        }  # fmt: skip
        if access == REPLAYED:
            return notes, arrays
        rounded = clean if said is clean else asked(to_8bit(found.x_adv))
        return notes, arrays | {"x_adv": found.x_adv, "right_or_rejected_8bit": rounded.holds}

    def clean(self, defended: DefendedModel) -> Predictions:
        """Return a defended model's predictions on the clean images, computed once."""

        def found() -> Predictions:
            chosen = self.candidates()
            size = min(self.batch_size, len(chosen))
            return predict(defended.classifier, chosen.images, chosen.labels, batch_size=size)

        clean: Predictions = self.once(("clean", defended.weights), found)
        return clean

    def _replayed(self, attacked: Attacked) -> Generated:
        if not self.store.has_cell(attacked.cell):
            raise RuntimeError(
                f"there are no images to replay, because {attacked.cell} failed: run it again first"
            )
        arrays = self.store.arrays(attacked.cell)
        return Generated(arrays["x_adv"], arrays["targets"])

    def _made(
        self, access: str, attacked: Attacked, defended: DefendedModel, chosen: Candidates, batch_size: int,
        on_batch: OnBatch,
    ) -> Generated:  # fmt: skip
        """Return images made on the defended model, or through its surrogate."""
        attack, key = attacked.attack, root_key(int(attacked.config["seed"]))
        targeted = bool(getattr(attack, "targeted", False))
        if access == ADAPTIVE:
            surrogate = reseed(defended.surrogate, example_keys(key, batch_size))
            if hasattr(attack, "fit"):  # a universal perturbation is fitted through the surrogate, then added
                attack = prepare(attack, surrogate, self.train_images(), key=key)
            else:
                attack = Transfer(attack, surrogate)
        return generate(
            attack, defended.classifier, chosen.images, chosen.targets if targeted else chosen.labels,
            key=key, batch_size=batch_size, train_images=self.train_images, on_batch=on_batch,
        )  # fmt: skip

    def _is_blind(self, attack: Attack, defended: DefendedModel, chosen: Candidates, batch_size: int) -> bool:
        """Tell whether an attack follows gradients of a model that has none."""

        def found() -> bool:
            sample = Sample(chosen.images, chosen.labels, chosen.rows.astype(np.int32))
            return has_gradient(defended.classifier, sample, key=root_key(0), batch_size=batch_size)

        return uses_gradients(attack) and not self.once(("gradient", defended.weights), found)


def to_8bit(images: np.ndarray) -> np.ndarray:
    """Return images rounded to the 256 levels of an image file."""
    return (np.round(images * np.float32(255)) / np.float32(255)).astype(np.float32)


def distances(x: np.ndarray, x_adv: np.ndarray) -> Arrays:
    """Return the norms of the changes by name, float32 [N]; L0 is the share of changed entries."""
    change = np.abs(x_adv.astype(np.float64) - x.astype(np.float64)).reshape(len(x), -1)
    found = {
        "l0": (change > 0).mean(axis=1), "l1": change.sum(axis=1),
        "l2": np.sqrt((change**2).sum(axis=1)), "linf": change.max(axis=1, initial=0.0),
    }  # fmt: skip
    return {name: values.astype(np.float32) for name, values in found.items()}


def _known(count: float) -> float | None:
    return None if np.isnan(count) else count
