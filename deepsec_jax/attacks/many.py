"""ManyRestarts: thousands of restarts for promising images, in one compiled loop."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.ascent import Best, at_step, better, split_keys
from deepsec_jax.attacks.call import attack_call, call_and_count
from deepsec_jax.attacks.cost import Cost, Counted, cost
from deepsec_jax.attacks.fields import an_attack
from deepsec_jax.attacks.losses import max_margin, ranked, succeeded
from deepsec_jax.attacks.per_image import at_rows
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.field_checks import count, share
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Attack, Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class ManyRestarts(Struct):
    """Run a random attack up to ``n`` times per image; fooled and hopeless images make room for others.

    Every round runs a batch of ``lanes`` restarts per image of the batch, distributed cyclically over the
    remaining images: of 64 images the last four get 16 restarts each.  An image is finished with its first
    success, after ``n`` restarts, or after ``probe`` restarts if they have reduced its clean margin by less
    than the share ``near``.

    The result equals that of sequential restarts: the first success, or, without one, the restart with the
    largest margin.  So no row depends on its batch; only the total time does.

    Attributes:
        attack: a random attack, untargeted or targeted.
        n: maximum number of restarts per image, static.
        lanes: restarts per round and image of the batch, static.
        probe: number of restarts of every image, static.
        near: share of the clean margin that they must remove; 0 gives all images ``n``.
    """

    attack: Attack = field(check=an_attack)
    n: int = static(1000, check=count)
    lanes: int = static(1, check=count)
    probe: int = static(10, check=count)
    near: Scalar = field(0.5, check=share)

    version: ClassVar[int] = 1

    @property
    def targeted(self) -> bool:
        """Whether ``labels`` are targets, as for the inner attack."""
        return bool(getattr(self.attack, "targeted", False))

    @property
    def needs_key(self) -> bool:
        """True: without random numbers all restarts would be equal."""
        return True

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the inner attack's targets."""
        return self.attack.targets(model, x, labels, key=key)

    def cost(self, classes: int, entries: int) -> Cost | None:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        found = cost(self.attack, classes=classes, entries=entries)
        return None if found is None else (found.with_forwards(1.0) * self.n).with_forwards(1.0).at_most()

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        rows = x.shape[0]
        targets = self.targets(model, x, labels, key=keys)
        goal = labels if targets is None else targets
        race = _Race(self, model, x, labels, goal, targets is not None, keys)
        success, margin = race.judge(x, jnp.arange(rows), jnp.zeros(rows, jnp.int32))
        del success  # for a misclassified clean image the first restart suffices
        nothing = Best(x, jnp.zeros(rows, bool), jnp.full(rows, -jnp.inf, jnp.float32))
        zeros = jnp.zeros(rows, jnp.float32)
        state = _State(jnp.zeros(rows, jnp.int32), nothing, jnp.zeros(rows, bool), zeros, zeros)

        def goes_on(state: _State) -> jax.Array:
            return jnp.any(race.live(state))

        last = lax.while_loop(goes_on, lambda state: race.round(state, margin), varying_alike(state))
        return Counted(last.best.x, last.forwards, last.gradients)


class _State(NamedTuple):
    done: jax.Array  # int32 [B], restarts
    best: Best  # loss: margin towards the goal
    hopeless: jax.Array  # bool [B]
    forwards: jax.Array  # float32 [B]
    gradients: jax.Array


class _Race(NamedTuple):
    """The common data of all rounds."""

    attack: ManyRestarts
    model: Classifier
    x: Images
    labels: Labels
    goal: Labels
    targeted: bool
    keys: Any

    def live(self, state: _State) -> jax.Array:
        """Return the remaining images, bool [B]."""
        return (state.done < self.attack.n) & ~state.best.success & ~state.hopeless

    def judge(self, x_adv: Images, rows: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return success and margin towards the goal of these rows after these restarts."""
        fresh: Any = split_keys(self.keys[rows]).model
        fresh = jax.vmap(jax.random.fold_in)(fresh, number)
        logits = at_step(self.model, fresh, 0)(x_adv)
        goal = self.goal[rows]
        logits = open_logits(self.model, logits, goal, targeted=self.targeted)
        sign = -1.0 if self.targeted else 1.0
        success = succeeded(logits, goal, targeted=self.targeted)
        return success, ranked(sign * max_margin(logits, goal), logits)

    def round(self, state: _State, clean: jax.Array) -> _State:
        """Return the state after one batch of restarts."""
        rows = self.x.shape[0]
        lanes = jnp.arange(rows * self.attack.lanes)
        live = self.live(state)
        order = jnp.argsort(~live, stable=True)
        racing = jnp.maximum(jnp.sum(live), 1)
        row = order[lanes % racing]
        number = state.done[row] + lanes // racing
        valid = live[row] & (number < self.attack.n)

        streams: Any = split_keys(self.keys[row])
        # The first restart uses the caller's keys: n restarts include the result of one.
        drawn = jax.vmap(jax.random.fold_in)(streams.attack, number)
        own = jnp.where(number == 0, self.keys[row], drawn)
        attack = at_rows(self.attack.attack, row)
        x_adv, counted = call_and_count(attack, self.model, self.x[row], self.labels[row], key=own)
        success, margin = self.judge(x_adv, row, number)
        one = jnp.ones(lanes.shape, jnp.float32)
        forwards, gradients = (0.0 * one, one * jnp.nan) if counted is None else counted[1:]

        place = jnp.argsort(order)  # of each row with restarts in this round

        def merged(state: _State, turn: jax.Array) -> _State:
            """Include each row's next restart."""
            at = turn * racing + place
            has = (place < racing) & (at < lanes.size)
            lane = jnp.minimum(at, lanes.size - 1)
            counts = has & valid[lane] & self.live(state)
            best = better(state.best, x_adv[lane], success[lane], margin[lane])
            best = Best(*(_where(counts, new, old) for new, old in zip(best, state.best, strict=True)))
            done = state.done + counts.astype(jnp.int32)
            far = best.loss < (1.0 - self.attack.near) * clean
            return _State(
                done, best, state.hopeless | (counts & (done == self.attack.probe) & far),
                state.forwards + jnp.where(counts, forwards[lane] + 1.0, 0.0),
                state.gradients + jnp.where(counts, gradients[lane], 0.0),
            )  # fmt: skip

        turns = -(-lanes.size // racing)
        finished: _State = lax.fori_loop(0, turns, lambda turn, state: merged(state, turn), state)
        return finished


def _where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(chosen.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
