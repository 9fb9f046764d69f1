"""PAT: adversarial training on PGD examples."""

import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from deepsec_jax.attacks import PGD
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.adversarial import RobustAccuracy, mean_loss, mixed_loss, warmed
from deepsec_jax.defenses.base import Base, Changes, itself, recipe_changes, retrain
from deepsec_jax.field_checks import count, integer, share
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.training import accuracy, frozen
from deepsec_jax.training.loop import Score


class PAT(Struct):
    """Train on PGD examples of every batch, without clean images by default.

        loss = (natural CE(x) + CE(PGD(x))) / (natural + 1)

    With ``steps = 1`` and a step above eps this is fast adversarial training (Wong et al., arXiv:2001.03994).
    With ``replays`` m > 0 it is free adversarial training (Shafahi et al., arXiv:1904.12843): m updates on
    every batch, each of which also updates the perturbation; ``steps`` is then unused.  The epoch with the
    highest validation accuracy under PGD is kept, not the one with the highest clean accuracy.

    Attributes:
        eps: L-inf radius, in units of the [0, 1] pixel range.
        step_size: length of a PGD step.
        steps: PGD steps, static.
        natural: weight of the clean loss relative to the adversarial one: 0 as Madry et al., 1 as DEEPSEC's
            code.
        warmup: share of the training over which eps increases from 0.
        replays: updates on every batch, 0 for PGD, static.
        judge_steps: steps of the PGD that selects the epoch, of size 2.5 eps / judge_steps, static.
        changes: what differs from the base's recipe, static.

    References:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
        arXiv:1706.06083.
    """

    eps: Scalar = 0.3
    step_size: Scalar = 0.01
    steps: int = static(40, check=count)
    natural: Scalar = 0.0
    warmup: Scalar = field(0.0, check=share)
    replays: int = static(0, check=integer(0))
    judge_steps: int = static(20, check=count)
    changes: Changes = static((), check=recipe_changes)

    card: ClassVar[Card] = Card(
        name="PAT",
        title="Adversarial training on PGD examples",
        reference="Madry et al., ICLR 2018, arXiv:1706.06083",
        goal="complete",
        kind="adversarial training",
    )
    surrogate = itself

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the retrained network; see :class:`deepsec_jax.protocols.Defense`."""
        objective = self.objective()
        judges = PGD(eps=self.eps, step_size=2.5 * self.eps / self.judge_steps, steps=self.judge_steps)
        fgsm = PGD(eps=self.eps, step_size=1.25 * self.eps, steps=1)
        # Robust to one step but not to many: catastrophic overfitting; the history shows it.
        watch: dict[str, Score] = {"clean": accuracy, "one_step": RobustAccuracy(fgsm)}
        return retrain(
            self, base, data, objective, key=key, folder=folder, score=RobustAccuracy(judges), watch=watch
        ).model

    def objective(self) -> Any:
        """Return the loss of a batch: on PGD examples, or with replays on the carried perturbation."""
        if self.replays:
            return _Free(self.eps, self.step_size, self.warmup, self.replays)
        attack = PGD(eps=self.eps, step_size=self.step_size, steps=self.steps)
        return _Objective(attack, self.natural or None, self.warmup)


class _Objective(Struct):
    attack: PGD
    natural: Scalar | None  # None: no clean images
    warmup: Scalar

    def at(self, done: jax.Array) -> "_Objective":
        """Return the objective at that share of the training: eps and the step size increase together."""
        eps = warmed(self.attack.eps, self.warmup, done)
        step = warmed(self.attack.step_size, self.warmup, done)
        return self.replace(attack=self.attack.replace(eps=eps, step_size=step))

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        attack_key, loss_key = jax.random.split(key)
        x_adv = self.attack(frozen(model), x, labels, key=attack_key)
        if self.natural is None:
            return mean_loss(model, x_adv, labels, loss_key)
        return mixed_loss(model, x, x_adv, labels, loss_key, self.natural, 1.0)


class _Free(Struct):
    eps: Scalar
    step_size: Scalar
    warmup: Scalar
    replays: int = static(8)

    def at(self, done: jax.Array) -> "_Free":
        """Return the objective at that share of the training."""
        return self.replace(
            eps=warmed(self.eps, self.warmup, done), step_size=warmed(self.step_size, self.warmup, done)
        )

    def perturbed(self, x: Images, carried: Images) -> Images:
        """Return the perturbed images."""
        return jnp.clip(x + carried, min=0.0, max=1.0)

    def moved(self, carried: Images, gradient: Images) -> Images:
        """Return the next perturbation: one sign step up the loss."""
        return jnp.clip(carried + self.step_size * jnp.sign(gradient), min=-self.eps, max=self.eps)

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        return mean_loss(model, x, labels, key)
