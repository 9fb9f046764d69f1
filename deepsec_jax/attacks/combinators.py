"""Attacks made of attacks: each is a pytree with an attack's call, for any inner attack.

Candidates are compared by success, then by the margin towards the goal; in a tie the earlier one is kept.  An
inner attack runs once per candidate; judging a candidate costs one forward.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.ascent import Best, at_step, better, split_keys
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.cost import Cost, cost, of_all
from deepsec_jax.attacks.fields import an_attack, some_attacks
from deepsec_jax.attacks.least_likely import least_likely_class, least_likely_targets
from deepsec_jax.attacks.losses import max_margin, ranked, succeeded
from deepsec_jax.attacks.rejection import class_logits, open_logits
from deepsec_jax.field_checks import count
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import example_keys


def _needs_key(attack: Any) -> bool:
    return bool(getattr(attack, "needs_key", False))


def _candidate(
    model: Classifier, x_adv: Images, labels: Labels, targets: Labels | None, keys: Keys | None
) -> Best:
    """Judge one candidate against its targets, or without targets against the true labels."""
    logits = at_step(model, keys, 0)(x_adv)
    goal = labels if targets is None else targets
    sign = 1.0 if targets is None else -1.0
    logits = open_logits(model, logits, goal, targeted=targets is not None)
    success = succeeded(logits, goal, targeted=targets is not None)
    return Best(x_adv, success, ranked(sign * max_margin(logits, goal), logits))


def _fold(keys: Any, index: jax.Array | int) -> Any:
    """Fold ``index`` into every key; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)


class Restarts(Struct):
    """Run a random attack ``n`` times with different keys and keep the best result of each row.

    Attributes:
        attack: the attack to repeat.
        n: number of runs, static.
    """

    attack: Attack = field(check=an_attack)
    n: int = static(10, check=count)

    version: ClassVar[int] = 1

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets, as for the inner attack."""
        return bool(getattr(self.attack, "targeted", False))

    @property
    def needs_key(self) -> bool:
        """Whether the inner attack draws random numbers."""
        return _needs_key(self.attack)

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the inner attack's targets."""
        return self.attack.targets(model, x, labels, key=key)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        found = cost(self.attack, classes=classes, entries=entries)
        return None if found is None else found.with_forwards(1) * self.n  # a forward judges each run

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        targets = self.targets(model, x, labels, key=keys)
        streams = split_keys(keys)

        def run(index: jax.Array | int) -> Best:
            # The first run uses the caller's keys: n runs include the result of one.
            inner = None
            if keys is not None:
                inner = jnp.where(jnp.asarray(index) == 0, keys, _fold(streams.attack, index))
            x_adv = self.attack(model, x, labels, key=inner)
            return _candidate(model, x_adv, labels, targets, _fold(streams.model, index))

        def keep(best: Best, index: jax.Array) -> tuple[Best, None]:
            return better(best, *run(index)), None

        start = Best(x, jnp.zeros(x.shape[0], bool), jnp.full(x.shape[0], -jnp.inf, jnp.float32))
        best, _ = lax.scan(keep, varying_alike(start), jnp.arange(self.n))
        return best.x


class WorstCase(Struct):
    """Run several attacks and keep the best result of each row.

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
        """Whether any inner attack does."""
        return any(_needs_key(attack) for attack in self.attacks)

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the first attack's targets, which are everyone's."""
        return self.attacks[0].targets(model, x, labels, key=key)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        found = of_all(self.attacks, classes, entries)
        return None if found is None else found.with_forwards(len(self.attacks))

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        if len({bool(getattr(attack, "targeted", False)) for attack in self.attacks}) > 1:
            raise ValueError("WorstCase mixes targeted and untargeted attacks: give them one goal")
        targets = self.targets(model, x, labels, key=keys)
        streams = split_keys(keys)
        best = Best(x, jnp.zeros(x.shape[0], bool), jnp.full(x.shape[0], -jnp.inf, jnp.float32))
        for index, attack in enumerate(self.attacks):
            x_adv = attack(model, x, labels, key=keys)
            best = better(best, *_candidate(model, x_adv, labels, targets, _fold(streams.model, index)))
        return best.x


class LeastLikely(Struct):
    """Target the least likely class of each clean image.

    Attributes:
        attack: an attack with ``targeted=True``.
    """

    attack: Attack = field(check=an_attack)

    version: ClassVar[int] = 1

    targets = least_likely_targets

    @property
    def needs_key(self) -> bool:
        """Whether the inner attack draws random numbers."""
        return _needs_key(self.attack)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        found = cost(self.attack, classes=classes, entries=entries)
        return None if found is None else found.with_forwards(1)  # for the least likely class

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        _require_targeted(self)
        return self.attack(model, x, least_likely_class(model, x), key=keys)


class RandomTarget(Struct):
    """Target a wrong class, drawn uniformly with each row's key.

    Attributes:
        attack: an attack with ``targeted=True``.
    """

    attack: Attack = field(check=an_attack)

    version: ClassVar[int] = 1

    @property
    def needs_key(self) -> bool:
        """True: the target is random."""
        return True

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels:
        """Return the targets of the call with the same key, int [B].

        Raises:
            ValueError: no key.
        """
        if key is None:
            raise ValueError("RandomTarget draws its targets: pass the attack's key=")
        classes = classes_of(model, x)
        # A stream separate from that of the inner attack.
        keys = _fold(example_keys(key, x.shape[0]), 1)
        offset = jax.vmap(lambda k: jax.random.randint(k, (), 1, classes, jnp.int32))(keys)
        return (as_labels(labels) + offset) % classes

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        return cost(self.attack, classes=classes, entries=entries)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        _require_targeted(self)
        return self.attack(model, x, self.targets(model, x, labels, key=keys), key=_fold(keys, 2))


class MultiTarget(Struct):
    """Target the ``k`` likeliest wrong classes of each row in turn; success is any wrong class.

    An untargeted attack made of targeted ones, stronger than a single one if the loss is rough.

    Attributes:
        attack: an attack with ``targeted=True``.
        k: number of targets, static; at most K - 1, the number of wrong classes.
    """

    attack: Attack = field(check=an_attack)
    k: int = static(9, check=count)

    version: ClassVar[int] = 1

    @property
    def needs_key(self) -> bool:
        """Whether the inner attack draws random numbers."""
        return _needs_key(self.attack)

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        found = cost(self.attack, classes=classes, entries=entries)
        return None if found is None else (found.with_forwards(1) * min(self.k, classes - 1)).with_forwards(1)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Images:
        _require_targeted(self)
        streams = split_keys(keys)
        logits = class_logits(model, at_step(model, streams.model, 0)(x)).astype(jnp.float32)
        count = min(self.k, logits.shape[-1] - 1)
        wrong = jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)
        ranked = jax.lax.top_k(wrong, count)[1].T  # [k, B]

        def keep(best: Best, item: tuple[jax.Array, Labels]) -> tuple[Best, None]:
            index, target = item
            x_adv = self.attack(model, x, target, key=_fold(streams.attack, index))
            return better(best, *_candidate(model, x_adv, labels, None, _fold(streams.model, index))), None

        start = Best(x, jnp.zeros(x.shape[0], bool), jnp.full(x.shape[0], -jnp.inf, jnp.float32))
        best, _ = lax.scan(keep, varying_alike(start), (jnp.arange(count), ranked))
        return best.x


def _require_targeted(combinator: Any) -> None:
    if not getattr(combinator.attack, "targeted", False):
        name, inner = type(combinator).__name__, type(combinator.attack).__name__
        raise ValueError(f"{name} needs an attack that takes targets: pass {inner}(..., targeted=True)")
