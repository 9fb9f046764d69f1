"""Fewer Jacobian rows or noisy copies at a time: the same images in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear
from jax import lax

from deepsec_jax.attacks import DeepFool, OptMargin, Restarts, SuperDeepFool, gradient
from deepsec_jax.attacks.call import call_and_count
from deepsec_jax.attacks.settings import hyperparameters

KEY = jax.random.key(0)


def wide(classes):
    """A network whose activations are much larger than its images."""
    first, second = jax.random.split(jax.random.key(3))
    weights = jax.random.normal(first, (3, 3, 1, 32)) / 3, jax.random.normal(second, (32, classes))
    return jax.tree_util.Partial(logits, weights)


def logits(weights, x):
    for _ in range(2):
        x = jnp.tanh(lax.conv_general_dilated(x.mean(-1, keepdims=True), weights[0], (1, 1), "SAME",
                                              dimension_numbers=("NHWC", "HWIO", "NHWC")))  # fmt: skip
    return x.mean(axis=(1, 2)) @ weights[1]


def memory(attack, classes=40, rows=8):
    """Bytes of temporaries of a compiled attack."""
    x, labels = jnp.zeros((rows, 16, 16, 1)), jnp.zeros(rows, jnp.int32)
    model = wide(classes)
    run = jax.jit(lambda attack, model, x, labels: call_and_count(attack, model, x, labels, key=KEY))
    return run.lower(attack, model, x, labels).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "attack", [DeepFool(steps=5, k=5), DeepFool(steps=5, k=5, norm="linf"), SuperDeepFool(steps=5, k=5)]
)
@pytest.mark.parametrize("at_once", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 5, 100))])
def test_classes_in_parts_give_the_same_images(attack, at_once):
    model, x = wide(8), make_images(rows=4, shape=(8, 8, 1))
    labels = jnp.argmax(model(x), axis=-1)
    wanted = attack(model, x, labels)
    assert np.abs(wanted - x).max() > 1e-3
    np.testing.assert_allclose(attack.replace(at_once=at_once)(model, x, labels), wanted, atol=1e-5)


@pytest.mark.parametrize("randomised", [False, True])
@pytest.mark.parametrize("at_once", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 4, 100))])
def test_copies_in_parts_give_the_same_images(images, at_once, randomised):
    model = Noisy(make_linear(), jax.random.split(KEY, 1)) if randomised else make_linear()
    labels = jnp.argmax(make_linear()(images), axis=-1)
    attack = OptMargin(noise=0.01, copies=5, steps=20, search_steps=2, c=1.0)
    wanted, counted = call_and_count(attack, model, images, labels, key=KEY)
    found, again = call_and_count(attack.replace(at_once=at_once), model, images, labels, key=KEY)
    assert np.abs(wanted - images).max() > 1e-3
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_array_equal(again.gradients, counted.gradients)


def test_memory_grows_with_the_classes_taken_together_and_not_with_the_classes(monkeypatch):
    attack = DeepFool(steps=3, k=8)
    one, four, all_of_8 = (memory(attack.replace(at_once=each)) for each in (1, 4, 8))
    more = memory(attack.replace(k=32, at_once=1))
    assert one < 0.7 * four and four < 0.9 * all_of_8
    assert more < 1.5 * one  # the gradients themselves, one image each
    monkeypatch.setattr(gradient, "on_cpu", lambda: False)
    assert memory(attack.replace(k=16)) > 1.5 * all_of_8  # planted: all together grows with the classes


def test_memory_grows_with_the_copies_taken_together_and_not_with_the_copies():
    attack = OptMargin(copies=8, steps=5)
    one, four, together = (memory(attack.replace(at_once=each)) for each in (1, 4, None))
    more = memory(attack.replace(copies=24, at_once=1))
    assert one < 0.6 * four and four < 0.7 * together
    assert more < 1.6 * one  # the noises themselves, one image each
    assert memory(attack.replace(copies=24)) > 2.5 * together  # planted


def test_it_does_not_name_a_result():
    for attack in (DeepFool(), SuperDeepFool(), OptMargin()):
        fewer = attack.replace(at_once=2)
        assert hyperparameters(fewer) == hyperparameters(attack)
        assert hyperparameters(Restarts(fewer, n=2)) == hyperparameters(Restarts(attack, n=2))
        assert "at_once" not in hyperparameters(attack) and "steps" in hyperparameters(attack)
    with pytest.raises(ValueError, match=r"DeepFool\.at_once must be an integer of at least 1, got 0"):
        DeepFool(at_once=0)
