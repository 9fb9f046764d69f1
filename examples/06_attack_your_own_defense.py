"""A defense of your own, and why the attack must know it.

Rounding the pixels to a few levels has no gradient, so a white-box attack on it finds nothing. That is no
robustness: through a surrogate with a gradient the same attack succeeds.

Run: python examples/06_attack_your_own_defense.py [folder]
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deepsec_jax import attacks, data, models, training
from deepsec_jax.evaluation import judge
from deepsec_jax.pytree import Struct, static


class Rounded(Struct):
    """A model that rounds the pixels to ``levels`` values first.

    Attributes:
        model: the model behind it.
        levels: number of values of a pixel, static.
        differentiable: whether rounding has the gradient of the identity (straight-through), static.
    """

    model: Any
    levels: int = static(5)
    differentiable: bool = static(False)

    def __call__(self, x):
        """Return the logits of the rounded images."""

        def rounded(x):
            return jnp.round(x * (self.levels - 1)) / (self.levels - 1)

        return self.model(models.straight_through(rounded)(x) if self.differentiable else rounded(x))


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
digits = data.load("digits")
recipe = replace(training.recipe("digits-small"), epochs=6)
model = training.train(recipe, digits, folder / "digits").model
x, labels = data.unit_images(digits.test.images[:100]), digits.test.labels[:100]

defended = Rounded(model)
surrogate = Rounded(model, differentiable=True)
pgd = attacks.PGD(eps=0.15, step_size=0.03, steps=20)
attempts = {
    "replayed from the undefended model": attacks.Transfer(pgd, model),
    "white-box (no gradient)": pgd,
    "adaptive, through the surrogate": attacks.Transfer(pgd, surrogate),
}

# One look at the model finds the missing gradient before any attack.
for finding in attacks.check_model_outputs(defended, jnp.asarray(x), labels):
    print(f"warning: {finding}")
for name, attack in attempts.items():
    x_adv = attacks.run_in_batches(attack, defended, x, labels, key=jax.random.key(0), batch_size=100)
    print(f"{name:36s} accuracy left {judge(defended, x, x_adv, labels).correct.mean():6.1%}")
