"""EAT: ensemble adversarial training, on adversarial examples of other networks."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks import RFGSM
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.adversarial import mixed_loss
from deepsec_jax.defenses.base import Base, Changes, itself, recipe_changes, retrain, retrainable
from deepsec_jax.field_checks import each, text
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Scalar
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import typed_key
from deepsec_jax.training import Saved, cross_entropy, frozen


class EAT(Struct):
    """Train on clean images and on R+FGSM examples of a network that is drawn for every batch.

        loss = (CE(x) + CE(R+FGSM on source(x))) / 2,   source uniform over itself and the static networks

    The attack uses the label predicted by its source, to avoid label leaking.  The static networks are
    trained first, by the base's recipe, and do not change.

    Attributes:
        eps: L-inf radius of both steps of R+FGSM together.
        alpha: length of its random step.
        sources: names of the static networks, keys of ``deepsec_jax.models.MODELS``, static.
        changes: what differs from the base's recipe, static.
        source_changes: what differs from it for the static networks, static.

    References:
        Tramer et al., "Ensemble Adversarial Training: Attacks and Defenses", ICLR 2018, arXiv:1705.07204.
    """

    eps: Scalar = 0.3
    alpha: Scalar = 0.05
    sources: tuple[str, ...] = static(("mnist_cnn", "static_b", "static_c", "static_d"), check=each(text))
    changes: Changes = static((), check=recipe_changes)
    source_changes: Changes = static((), check=recipe_changes)

    card: ClassVar[Card] = Card(
        name="EAT",
        title="Adversarial training on examples of an ensemble",
        reference="Tramer et al., ICLR 2018, arXiv:1705.07204",
        goal="complete",
        kind="adversarial training",
    )
    surrogate = itself

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the retrained network; see :class:`deepsec_jax.protocols.Defense`.

        Each static network has its own folder next to ``folder``.
        """
        retrainable(self, base)
        own_key, source_key = jax.random.split(typed_key(key))
        static_models = tuple(
            self.source(base, data, name, key=jax.random.fold_in(source_key, number), folder=folder).model
            for number, name in enumerate(self.sources)
        )
        objective = Ensemble(RFGSM(eps=self.eps, alpha=self.alpha), static_models)
        return retrain(self, base, data, objective, key=own_key, folder=folder).model

    def source(
        self, base: Base, data: Dataset, name: str, *, key: Key, folder: str | os.PathLike[str] | None
    ) -> Saved:
        """Return a static network, trained by the base's recipe."""
        build, recipe = retrainable(self, base)
        beside = None if folder is None else Path(folder).with_name(f"{Path(folder).name}-{name}")
        other = Base(build, replace(recipe, model=name), base.trained)
        return retrain(
            self, other, data, cross_entropy,
            key=key, folder=beside, changes=self.source_changes, part=name,
        )  # fmt: skip


class Ensemble(Struct):
    """EAT's loss of a batch: one source for all its images."""

    attack: RFGSM
    sources: tuple[Classifier, ...]

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean of the losses on clean images and on those of the drawn source."""
        source_key, attack_key, loss_key = jax.random.split(key, 3)
        x_adv = self.examples(frozen(model), x, draw_source(source_key, len(self.sources) + 1), attack_key)
        return mixed_loss(model, x, x_adv, labels, loss_key, 1.0, 1.0)

    def examples(self, own: Classifier, x: Images, source: jax.Array, key: Key) -> Images:
        """Return R+FGSM examples on source number ``source``; 0 is the network in training."""

        def on(model: Classifier) -> Images:
            x_adv: Images = self.attack(model, x, jnp.argmax(model(x), axis=-1), key=key)
            return x_adv

        branches = [lambda model=model: on(model) for model in (own, *self.sources)]
        x_adv: Images = lax.switch(source, branches)
        return x_adv


def draw_source(key: Key, count: int) -> jax.Array:
    """Return the number of a source, uniform over 0 .. count - 1."""
    return jax.random.randint(key, (), 0, count, jnp.int32)
