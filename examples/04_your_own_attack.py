"""Two ways to write your own attack: replace a part of PGD, or write the whole call.

Combinators, run_in_batches and judge accept both like any other attack.

Run: python examples/04_your_own_attack.py [folder]
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax import attacks, data, training
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.evaluation import judge
from deepsec_jax.field_checks import count
from deepsec_jax.protocols import Scalar
from deepsec_jax.pytree import Struct, static

# First way: parts.  A loss maps logits [B, K] and labels [B] to [B]; it increases as the label loses.


def squared_gap(logits, labels):
    """Return the signed square of the lead of the best wrong class."""
    gap = attacks.losses.max_margin(logits, labels)
    return jnp.sign(gap) * gap**2


class Decaying(Struct):
    """A step rule: sign steps that are multiplied by a factor after each step.

    Attributes:
        factor: ratio of consecutive step lengths, traced.
    """

    factor: Scalar = 0.9

    def init(self, x):
        """Return the state before the first step: the current share of step_size."""
        return jnp.ones(())

    def update(self, gradient, state, step_size, norm):
        """Return the step and the next state."""
        return state * step_size * jnp.sign(gradient), state * self.factor


# Second way: the whole call.  floats are traced, loop counts are static; row i follows from row i and
# its key only; attack_call adds the checks, the keys [B] and the jit.


class BestNoise(Struct):
    """The best of ``tries`` random sign patterns: a baseline for attacks with gradients.

    Attributes:
        eps: L-inf radius, in units of the [0, 1] pixel range.
        tries: number of patterns, static.
    """

    eps: Scalar = 0.3
    tries: int = static(50, check=count)

    needs_key = True
    targeted = False
    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        def keep(best, index):
            here = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
            signs = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(here)
            x_try = jnp.clip(x + self.eps * signs, 0.0, 1.0).astype(x.dtype)
            loss = attacks.losses.max_margin(model(x_try), labels)
            better = loss > best[1]
            return (jnp.where(better[:, None, None, None], x_try, best[0]), jnp.maximum(loss, best[1])), None

        start = (x, attacks.losses.max_margin(model(x), labels))
        (x_adv, _), _ = lax.scan(keep, start, jnp.arange(self.tries))
        return x_adv


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
digits = data.load("digits")
recipe = replace(training.recipe("digits-small"), epochs=6)
model = training.train(recipe, digits, folder / "digits").model
x, labels = data.unit_images(digits.test.images[:200]), digits.test.labels[:200]

mine = {
    "PGD": attacks.PGD(eps=0.1, step_size=0.02),
    "PGD, own parts": attacks.PGD(eps=0.1, step_size=0.04, loss=squared_gap, rule=Decaying(0.9)),
    "BestNoise": BestNoise(eps=0.1),
    "BestNoise, 4 restarts": attacks.Restarts(BestNoise(eps=0.1), n=4),
}
for name, attack in mine.items():
    x_adv = attacks.run_in_batches(attack, model, x, labels, key=jax.random.key(0), batch_size=100)
    outcome = judge(model, x, x_adv, labels)
    print(f"{name:22s} success {outcome.success.mean():6.1%}, largest change {outcome.linf.max():.3f}")
