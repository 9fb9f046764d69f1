"""Cascade: each attack only on the images that the previous ones did not fool."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.ascent import Best, at_step, better, split_keys
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.compaction import phase_sizes
from deepsec_jax.attacks.cost import Cost, of_all
from deepsec_jax.attacks.fields import some_attacks
from deepsec_jax.attacks.losses import max_margin, ranked, succeeded
from deepsec_jax.attacks.per_image import at_rows
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import Struct, field


class Cascade(Struct):
    """Run attacks one after the other, each only on the rows where the previous ones failed.

    Like ``WorstCase``, without the work on rows that are fooled already; put cheap attacks first.  The
    remaining rows are sorted to the front and attacked with the smallest sufficient of at most three static
    batch sizes. A row keeps the first success; if all fail, the candidate with the largest margin towards the
    goal.  Judging a candidate costs one forward.

    Attributes:
        attacks: attacks with one goal: all untargeted on ``labels``, or all driving rows to the same
            targets.
    """

    attacks: tuple[Attack, ...] = field(check=some_attacks)

    version: ClassVar[int] = 1

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets, as for the inner attacks."""
        return bool(getattr(self.attacks[0], "targeted", False))

    @property
    def needs_key(self) -> bool:
        """Whether any inner attack draws random numbers."""
        return any(bool(getattr(attack, "needs_key", False)) for attack in self.attacks)

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the first attack's targets, which are those of all."""
        return self.attacks[0].targets(model, x, labels, key=key)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        found = of_all(self.attacks, classes, entries)
        return None if found is None else found.with_forwards(len(self.attacks)).at_most()

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        if len({bool(getattr(attack, "targeted", False)) for attack in self.attacks}) > 1:
            raise ValueError("Cascade mixes targeted and untargeted attacks: give them one goal")
        rows = x.shape[0]
        targets = self.targets(model, x, labels, key=keys)
        best = varying_alike(Best(x, jnp.zeros(rows, bool), jnp.full(rows, -jnp.inf, jnp.float32)), labels)
        for index, attack in enumerate(self.attacks):
            best = _attack_survivors(attack, index, model, x, labels, targets, keys, best)
        return best.x


def _attack_survivors(
    attack: Attack,
    index: int,
    model: Classifier,
    x: Images,
    labels: Labels,
    targets: Labels | None,
    keys: Keys | None,
    best: Best,
) -> Best:
    rows = x.shape[0]
    order = jnp.argsort(best.success, stable=True)  # remaining rows first
    survivors = jnp.sum(~best.success)
    sizes = phase_sizes(rows)

    def on_first(size: int) -> Best:
        chosen = order[:size]
        own = None if keys is None else keys[chosen]
        x_adv = at_rows(attack, chosen)(model, x[chosen], labels[chosen], key=own)
        logits = at_step(model, _judging(own, index), 0)(x_adv)
        goal = labels[chosen] if targets is None else targets[chosen]
        logits = open_logits(model, logits, goal, targeted=targets is not None)
        success = succeeded(logits, goal, targeted=targets is not None)
        loss = ranked(max_margin(logits, goal) * (1.0 if targets is None else -1.0), logits)
        before = Best(*(part[chosen] for part in best))
        # A fooled row keeps its image, even if it was in the batch.
        after = better(before, x_adv, success & ~before.success, jnp.where(before.success, -jnp.inf, loss))
        return Best(*(whole.at[chosen].set(part) for whole, part in zip(best, after, strict=True)))

    branches: list[Any] = [lambda size=size: on_first(size) for size in sizes]
    fits = jnp.sum(jnp.asarray(sizes) >= survivors) - 1
    attacked: Best = lax.cond(survivors > 0, lambda: lax.switch(fits, branches), lambda: best)
    return attacked


def _judging(keys: Keys | None, index: int) -> Any:
    """Return the keys for judging a randomised model after attack ``index``."""
    streams = split_keys(keys)
    if streams.model is None:
        return None
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(streams.model, index)
