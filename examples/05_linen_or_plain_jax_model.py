"""Attack a Flax Linen network and a plain JAX function with Partial(apply, weights).

Run: python examples/05_linen_or_plain_jax_model.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.tree_util import Partial

from deepsec_jax import attacks, data
from deepsec_jax.evaluation import judge

digits = data.load("digits")
x_train, y_train = data.unit_images(digits.train.images), digits.train.labels
x_test, y_test = data.unit_images(digits.test.images), digits.test.labels


class LinenNet(nn.Module):
    """One convolution and one dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


def plain_net(params, x):
    """Return the logits of a two-layer perceptron; the mean image is part of the model, not of the data."""
    x = (x - params["mean"]).reshape(len(x), -1)
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def fitted(apply, params, steps=200):
    """Return the parameters after full-batch Adam."""
    adam = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        def loss_of(params):
            logits = apply(params, x_train)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y_train).mean()

        updates, state = adam.update(jax.grad(loss_of)(params), state)
        return optax.apply_updates(params, updates), state

    state = adam.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


linen = LinenNet()  # create it once: the attack is compiled for this instance's apply
variables = fitted(linen.apply, linen.init(jax.random.key(0), x_train[:1]))

k1, k2 = jax.random.split(jax.random.key(0))
params = fitted(
    plain_net,
    {
        "mean": jnp.asarray(x_train.mean(axis=0)),
        "w1": 0.1 * jax.random.normal(k1, (64, 64)),
        "b1": jnp.zeros(64),
        "w2": 0.1 * jax.random.normal(k2, (64, 10)),
        "b2": jnp.zeros(10),
    },
)

attack = attacks.PGD(eps=0.1, step_size=0.02)
for name, model in (("Linen", Partial(linen.apply, variables)), ("plain JAX", Partial(plain_net, params))):
    clean = (np.asarray(model(x_test).argmax(-1)) == y_test).mean()
    x_adv = attack(model, x_test, y_test, key=jax.random.key(0))
    robust = judge(model, x_test, x_adv, y_test).correct.mean()
    print(f"{name:10s} accuracy {clean:.1%}, under PGD at eps 0.1: {robust:.1%}")

try:  # in a closure the weights would be constants of the program, so it is refused, with the remedy
    attack(lambda x: plain_net(params, x), x_test, y_test, key=jax.random.key(0))
except TypeError as error:
    print(f"\na bare closure is refused:\n  {error}")
