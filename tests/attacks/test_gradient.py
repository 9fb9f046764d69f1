"""The one gradient helper: equal bits, transposed kernels everywhere, any user's network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images
from flax import nnx
from jax import lax

from deepsec_jax import models
from deepsec_jax.attacks import BIM, FGSM, losses
from deepsec_jax.attacks import gradient as gradients
from deepsec_jax.attacks.geometry import steepest
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.rewriting import rewritten


def plain_network(params, x):
    kernel, weights = params
    features = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(features).mean(axis=(1, 2)) @ weights


def channels_first_network(params, x):
    """What ``lax.conv`` means: images NCHW, kernels OIHW."""
    kernel, weights = params
    features = lax.conv(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (2, 1), "SAME")
    return jax.nn.relu(features).mean(axis=(2, 3)) @ weights


def looped_network(params, x):
    """A user's model with a loop, a branch, a nested jit and a checkpoint around its convolutions."""
    kernel, weights = params

    @jax.checkpoint
    def layer(x):
        return jnp.tanh(
            lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )

    x, _ = lax.scan(lambda carry, _: (jax.jit(layer)(carry), None), x, length=2)
    x = lax.cond(jnp.sum(weights) > 1e9, layer, lambda y: y, x)
    return x.mean(axis=(1, 2)) @ weights


@functools.cache
def networks():
    plain = (jax.random.normal(jax.random.key(0), (3, 3, 1, 4)), jax.random.normal(jax.random.key(1), (4, 3)))
    square = (
        jax.random.normal(jax.random.key(0), (3, 3, 1, 1)),
        jax.random.normal(jax.random.key(1), (1, 3)),
    )
    cnn = models.build("small_cnn", (8, 8, 1), 3)
    resnet = models.ResNet((8, 8, 1), 3, depth=8, rngs=nnx.Rngs(0))
    resnet.eval()
    return {
        "plain": jax.tree_util.Partial(plain_network, plain),
        "channels first": jax.tree_util.Partial(channels_first_network, plain),
        "looped": jax.tree_util.Partial(looped_network, square),
        "nnx": cnn,
        "resnet": resnet,
    }


def objective(model):
    def values(x):
        logits = model(x)
        return logits[:, 0] - logits[:, 1], logits

    return values


@pytest.mark.parametrize("name", ["plain", "channels first", "looped", "nnx", "resnet"])
def test_equals_the_plain_gradient(name):
    model, x = networks()[name], make_images(shape=(8, 8, 1))
    values, logits, gradient = jax.jit(lambda m, x: value_and_gradient(objective(m), x))(model, x)
    expected = jax.jit(lambda m, x: jax.grad(lambda y: objective(m)(y)[0].sum())(x))(model, x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(logits, model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values, logits[:, 0] - logits[:, 1], rtol=1e-5, atol=1e-6)


FAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # channels-last images and result, HWIO kernel


def layouts(jaxpr):
    """The axis orders of every convolution in a jaxpr, bodies of loops and branches included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield tuple(equation.params["dimension_numbers"])
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from layouts(inner)


@pytest.mark.parametrize("name", ["plain", "channels first", "looped", "nnx"])
def test_every_convolution_is_in_the_fast_order(name):
    model, x = networks()[name], make_images(shape=(8, 8, 1))

    def gradient(x):
        return jax.grad(lambda y: objective(model)(y)[0].sum())(x)

    before = list(layouts(jax.make_jaxpr(gradient)(x).jaxpr))
    after = list(layouts(jax.make_jaxpr(rewritten(gradient))(x).jaxpr))
    assert after and set(after) == {FAST}
    assert set(before) != {FAST}  # planted: the plain gradient does not satisfy this


def test_no_gradient_flows_through_an_attack(linear, images):
    """By the images, the weights and the budget alike; along g / ||g||_2 there would be one."""
    labels = jnp.argmax(linear(images), axis=-1)

    def moved(x, model, eps):
        return jnp.sum(FGSM(eps=eps)(model, x, labels) + BIM(eps=eps, steps=2, norm="l2")(model, x, labels))

    for gradient in jax.tree.leaves(jax.grad(moved, argnums=(0, 1, 2))(images, linear, 0.1)):
        assert not np.any(gradient)

    def unattached(model):
        slope = jax.grad(lambda x: jnp.sum(losses.logit_gap(model(x), labels)))(images)
        return jnp.sum(steepest(slope, "l2") * images)

    assert any(np.any(leaf) for leaf in jax.tree.leaves(jax.grad(unattached)(linear)))  # planted


def test_many_backward_passes_on_an_accelerator_go_in_parts(monkeypatch):
    """The same gradients in less memory; planted: all at once needs more."""
    model, x = networks()["nnx"], make_images(shape=(8, 8, 1))
    cotangents = jax.random.normal(jax.random.key(0), (40, len(x), 3))

    def compiled():
        return jax.jit(lambda x: gradients.pullbacks(lambda x: model(x), x, cotangents)).lower(x).compile()

    one_by_one = compiled()(x)[1]
    monkeypatch.setattr(gradients, "on_cpu", lambda: False)
    parts = compiled()
    monkeypatch.setattr(gradients, "AT_ONCE", 40)
    np.testing.assert_allclose(parts(x)[1], one_by_one, rtol=1e-5, atol=1e-6)
    memory = [each.memory_analysis().temp_size_in_bytes for each in (parts, compiled())]
    assert memory[0] < 0.8 * memory[1]
