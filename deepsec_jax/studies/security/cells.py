"""The cells of the security evaluation: one attack, one defended model, one kind of knowledge."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import Transfer, prepare
from deepsec_jax.attacks.cost import cost, uses_gradients
from deepsec_jax.batches import OnBatch
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX, DefendedModel, is_exact
from deepsec_jax.evaluation.generate import Generated, generate
from deepsec_jax.evaluation.judge import draws_of
from deepsec_jax.evaluation.measured import bare_gradient_seconds
from deepsec_jax.evaluation.predictions import Predictions, has_gradient, predict
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.protocols import Attack
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.cells import KINDS, SECURITY
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store
from deepsec_jax.studies.security.worst import distances, to_8bit

Environment = dict[str, Any]
Arrays = dict[str, np.ndarray]
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
        n: number of its images.
    """

    name: str
    attack: Attack
    config: dict[str, Any]
    cell: str
    n: int


@dataclass(frozen=True)
class Makers:
    """Makes the jobs of a security evaluation.

    Attributes:
        store: the run directory with the images to replay.
        candidates: returns the first n clean images, the same for all models.
        candidates_name: returns the name of these.
        train_images: returns the images that a UAP is fitted to.
        image_shape: height, width, channels.
        classes: number of classes.
        batch_size: images per call.
        notes: defended model -> entries of its cells' environments.
        once: key, function -> the function's value, computed once per key.
    """

    store: Store
    candidates: Callable[[int], Candidates]
    candidates_name: Callable[[int], str]
    train_images: Callable[[], np.ndarray]
    image_shape: tuple[int, ...]
    classes: int
    batch_size: int
    notes: Callable[[DefendedModel], dict[str, Any]]
    once: Callable[[Any, Callable[[], Any]], Any]

    def job(self, access: str, attacked: Attacked, defended: DefendedModel, n: int) -> Job | None:
        """Return the job of one cell on n images; None if it would be a copy of another cell.

        Through a surrogate that is the model itself an attack is the white-box attack.  An attack without
        gradients does not need a surrogate.
        """
        if access == ADAPTIVE and (is_exact(defended) or not uses_gradients(attacked.attack)):
            return None
        if access == REPLAYED and attacked.name.endswith(MORE):
            return None
        n = min(n, attacked.n) if access == REPLAYED else n
        kept = {name: attacked.config[name] for name in ("data", "model", "attack", "seed", "images")}
        weights = {"defended": defended.weights}
        if access == ADAPTIVE:
            weights["surrogate"] = defended.surrogate_weights
        kept |= {"n": n, "candidates": self.candidates_name(n)}
        config = {
            "kind": SECURITY, "version": KINDS[SECURITY].version, **kept, "access": access,
            "defense": defended.about, "weights": weights, "draws": draws_of(defended.classifier),
        }  # fmt: skip
        config |= {"source": attacked.cell} if access == REPLAYED else {}
        entries = int(np.prod(self.image_shape))
        made = access != REPLAYED
        calls = calls_of(attacked.attack, self.classes, self.image_shape)
        return Job(
            config, partial(self._compute, access, attacked, defended, n), images=n,
            gradients=1 if not made else None if math.isnan(calls) else int(calls), at_most=made,
            after=() if made else (attacked.cell,), bytes=n * (4 * entries * made + 80) + 65536,
            notes=partial(self.notes, defended), ready=partial(self.candidates, n),
            seconds=partial(self.seconds, access, attacked, defended),
        )  # fmt: skip

    def _compute(
        self, access: str, attacked: Attacked, defended: DefendedModel, n: int, on_batch: OnBatch
    ) -> tuple[Environment, Arrays]:
        chosen, model = self.candidates(n), defended.classifier
        batch_size = min(self.batch_size, len(chosen))
        notes: Environment = {"batch_size": batch_size}
        if access == REPLAYED:
            found = self._replayed(attacked, n)
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

        clean = self.clean(defended, n)
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

    def clean(self, defended: DefendedModel, n: int) -> Predictions:
        """Return a defended model's predictions on the first n clean images, computed once."""

        def found() -> Predictions:
            chosen = self.candidates(n)
            size = min(self.batch_size, len(chosen))
            return predict(defended.classifier, chosen.images, chosen.labels, batch_size=size)

        clean: Predictions = self.once(("clean", defended.weights, n), found)
        return clean

    def seconds(self, access: str, attacked: Attacked, defended: DefendedModel) -> float:
        """Return the wall time per image of a cell, from that of one gradient of the model; measured once.

        NaN where the attack states no number of calls.
        """
        model = defended.surrogate if access == ADAPTIVE else defended.classifier
        weights = defended.surrogate_weights if access == ADAPTIVE else defended.weights
        rows = min(self.batch_size, 16)

        def measured() -> float:
            # Grey images take as long, and a dry run must not draw and store candidates.
            images, labels = jnp.full((rows, *self.image_shape), 0.5), jnp.zeros(rows, jnp.int32)
            return bare_gradient_seconds(model, images, labels, repeats=1)

        one = float(self.once(("gradient seconds", weights), measured))
        calls = calls_of(attacked.attack, self.classes, self.image_shape)
        return one if access == REPLAYED else one * calls

    def _replayed(self, attacked: Attacked, n: int) -> Generated:
        if not self.store.has_cell(attacked.cell):
            raise RuntimeError(
                f"there are no images to replay, because {attacked.cell} failed: run it again first"
            )
        arrays = self.store.arrays(attacked.cell)
        return Generated(arrays["x_adv"][:n], arrays["targets"][:n])

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


def calls_of(attack: Attack, classes: int, image_shape: Sequence[int]) -> float:
    """Return the declared number of model calls per image; NaN if there is none."""
    stated = cost(attack, classes=classes, entries=int(np.prod(image_shape)))
    return math.nan if stated is None else float(stated.gradients + stated.forwards)


def _known(count: float) -> float | None:
    return None if np.isnan(count) else count
