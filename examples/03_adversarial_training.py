"""Adversarial training: the attack is an argument of the jitted training step.

PGD is a pytree, so its eps can increase during training without another compilation.

Run: python examples/03_adversarial_training.py
"""

import jax
import numpy as np
import optax
from flax import nnx

from deepsec_jax import attacks, data, models
from deepsec_jax.evaluation import judge

digits = data.load("digits")
x_train, y_train = data.unit_images(digits.train.images), digits.train.labels
x_test, y_test = data.unit_images(digits.test.images[:300]), digits.test.labels[:300]
EPS, EPOCHS, BATCH = 0.15, 8, 64


@nnx.jit
def step(model, optimizer, attack, x, labels, key):
    """Attack the batch, then train on the adversarial images."""
    # Evaluation mode for the attack: a view shares the weights and has its own mode.  (This network has
    # neither dropout nor batch normalisation, so here the mode makes no difference.)
    frozen = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    x_adv = attack(frozen, x, labels, key=key)

    def loss_of(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x_adv), labels).mean()

    loss, gradient = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradient)
    return loss


def trained(eps):
    """Return a network trained on PGD examples of this eps; 0 is plain training."""
    model = models.build("small_cnn", digits.image_shape, digits.classes, seed=0)
    model.train()
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)
    steps = len(x_train) // BATCH
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(x_train))
        now = eps * min(1.0, (epoch + 1) / 4)  # four epochs of warm-up
        attack = attacks.PGD(eps=now, step_size=now / 2, steps=5)
        for i, rows in enumerate(order[: steps * BATCH].reshape(steps, BATCH)):
            step(model, optimizer, attack, x_train[rows], y_train[rows], jax.random.key(epoch * steps + i))
    model.eval()
    return model


# Evaluated with a stronger attack than in training: more steps, several starts.
strong = attacks.Restarts(attacks.PGD(eps=EPS, step_size=2.5 * EPS / 30, steps=30), n=3)
for title, eps in (("plain", 0.0), ("adversarial", EPS)):
    model = trained(eps)
    clean = (np.asarray(model(x_test).argmax(-1)) == y_test).mean()
    x_adv = attacks.run_in_batches(strong, model, x_test, y_test, key=jax.random.key(0), batch_size=150)
    robust = judge(model, x_test, x_adv, y_test).correct.mean()
    print(f"{title:12s} training: accuracy {clean:.1%}, under PGD-30 x 3 at eps {EPS}: {robust:.1%}")
