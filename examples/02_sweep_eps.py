"""A success curve with one compilation: vmap over sixteen values of eps.

eps and step_size are traced, so a grid of them is an additional batch axis.

Run: python examples/02_sweep_eps.py [folder]
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from deepsec_jax import attacks, data, training
from deepsec_jax.evaluation import judge

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")

digits = data.load("digits")
recipe = replace(training.recipe("digits-small"), epochs=6)
model = training.train(recipe, digits, folder / "digits").model
x = jnp.asarray(data.unit_images(digits.test.images[:100]))
labels = jnp.asarray(digits.test.labels[:100])


@jax.jit
def misclassified(model, eps, x, labels, key):
    """Return the share of wrong predictions under PGD of this eps, for the given key."""
    attack = attacks.PGD(eps=eps, step_size=2.5 * eps / 20, steps=20)
    x_adv = attack(model, x, labels, key=key)
    return 1 - judge(model, x, x_adv, labels).correct.mean()


grid = jnp.linspace(0.0, 0.5, 16)
curve = jax.vmap(misclassified, in_axes=(None, 0, None, None, None))(
    model, grid, x, labels, jax.random.key(0)
)

for eps, share in zip(grid.tolist(), curve.tolist(), strict=True):
    print(f"eps {eps:.3f}  {share:6.1%}  {'#' * round(40 * share)}")

# The same over keys: the variation of one attack over random starts.
keys = jax.random.split(jax.random.key(1), 8)
shares = jax.vmap(misclassified, in_axes=(None, None, None, None, 0))(model, 0.1, x, labels, keys)
print(f"\neps 0.1 under eight keys: {shares.min():.1%} to {shares.max():.1%}")
