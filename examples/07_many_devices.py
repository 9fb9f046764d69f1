"""A large batch over every device: copy the model to them, and the rows follow.

With one CPU this shows four devices that are not there; remove the two marked lines on a machine with
several GPUs or TPU cores.

Run: python examples/07_many_devices.py [folder]
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"  # remove this
os.environ["JAX_PLATFORMS"] = "cpu"  # and this

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from deepsec_jax import attacks, data, training
from deepsec_jax.evaluation import judge
from deepsec_jax.placement import on_devices

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
digits = data.load("digits")
recipe = replace(training.recipe("digits-small"), epochs=6)
model = training.train(recipe, digits, folder / "digits").model
everywhere = on_devices(model, jax.devices())

# 4500 rows in calls of 400: 100 rows on each device. The last call is filled up.
x = np.tile(data.unit_images(digits.test.images), (10, 1, 1, 1))
labels = np.tile(digits.test.labels, 10)
pgd = attacks.PGD(eps=0.1, step_size=0.02, steps=10)
x_adv = attacks.run_in_batches(pgd, everywhere, x, labels, key=jax.random.key(0), batch_size=400)
outcome = judge(everywhere, x, x_adv, labels)
print(f"{len(jax.devices())} devices, {len(x)} images: success {outcome.success.mean():.1%}")
