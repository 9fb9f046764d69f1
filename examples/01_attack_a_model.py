"""Train a small network on digits, run fast attacks, and measure their success.

Run: python examples/01_attack_a_model.py [folder]
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from deepsec_jax import attacks, data, training
from deepsec_jax.evaluation import judge

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")

digits = data.load("digits")
recipe = replace(training.recipe("digits-small"), epochs=6)
saved = training.train(recipe, digits, folder / "digits")
print(f"test accuracy {saved.figures['test_accuracy']:.1%} on {saved.figures['test_images']} images")

# Attack the images that the model classifies correctly.
model = saved.model
x, labels = data.unit_images(digits.test.images), digits.test.labels
right = np.asarray(model(x).argmax(-1)) == labels
x, labels = x[right][:100], labels[right][:100]

print(f"\n{'attack':10s} {'success':>8s} {'mean L2':>8s} {'max Linf':>8s}   goal")
for name in ("fgsm", "pgd", "tmifgsm", "deepfool"):  # some of attacks.ATTACKS
    # Only UAP is fitted; any other attack is returned unchanged.
    train_images = data.training_sample(digits, seed=0)
    attack = attacks.prepare(attacks.preset(name, "digits"), model, train_images, key=jax.random.key(1))
    # A targeted attack takes target classes instead of the true ones: here the next digit.
    goal = (labels + 1) % digits.classes if getattr(attack, "targeted", False) else labels
    key = jax.random.key(0)
    x_adv = attacks.run_in_batches(attack, model, x, goal, key=key, batch_size=100)
    targets = attack.targets(model, x, goal, key=key)
    outcome = judge(model, x, x_adv, labels, targets=targets)
    print(
        f"{name:10s} {outcome.success.mean():8.1%} {outcome.l2.mean():8.3f} {outcome.linf.max():8.3f}"
        f"   {'any wrong class' if targets is None else 'a target class'}"
    )
