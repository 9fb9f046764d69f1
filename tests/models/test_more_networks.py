"""The other models of the transferability study and the static models of ensemble adversarial training."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deepsec_jax import models
from deepsec_jax.randomness import is_key, is_randomised

SHAPES = {
    "mnist_cnn_block": (28, 28, 1), "alexnet": (28, 28, 1), "densenet": (32, 32, 3),
    "static_b": (28, 28, 1), "static_c": (28, 28, 1), "static_d": (28, 28, 1),
}  # fmt: skip
TINY = {  # the same layers on images that cost little
    "mnist_cnn_block": lambda: models.build("mnist_cnn_block", (20, 20, 1), 3),
    "alexnet": lambda: models.build("alexnet", (8, 8, 1), 3),
    "densenet": lambda: models.DenseNet((8, 8, 1), 3, depth=10, growth=4, rngs=nnx.Rngs(0)),
    "static_b": lambda: models.build("static_b", (27, 27, 1), 3),
    "static_c": lambda: models.build("static_c", (8, 8, 1), 3),
    "static_d": lambda: models.build("static_d", (8, 8, 1), 3),
}
SIDES = {"mnist_cnn_block": 20, "alexnet": 8, "densenet": 8, "static_b": 27, "static_c": 8, "static_d": 8}
DROPPING = [name for name in TINY if name != "densenet"]


def shaped(name, shape=None, classes=10):
    """The network without weights."""
    return nnx.eval_shape(lambda: models.build(name, shape or SHAPES[name], classes))


def filled(build, seed=0):
    """The network with weights drawn by NumPy: initialising would compile for long."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        values = rng.normal(0.0, np.sqrt(2.0 / np.prod(leaf.shape[:-1])), leaf.shape)
        return jnp.asarray(values if leaf.ndim > 1 else np.full(leaf.shape, 0.5), leaf.dtype)

    return jax.tree.map(draw, nnx.eval_shape(build))


@pytest.fixture(scope="module")
def tiny():
    return {name: filled(build) for name, build in TINY.items()}


def images(name, rows=3):
    return jax.random.uniform(jax.random.key(1), (rows, SIDES[name], SIDES[name], 1))


def parameters(model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def conv(inputs, filters, side):
    return side * side * inputs * filters + filters


def dense(inputs, outputs):
    return inputs * outputs + outputs


def densenet(layers, growth, classes):
    """Counted as Huang et al. count: convolutions without biases, scale and shift of each normalisation."""
    channels = 2 * growth
    total = 9 * 3 * channels
    for block in range(3):
        if block:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
        for _ in range(layers):
            total += 2 * channels + channels * 4 * growth + 2 * 4 * growth + 9 * 4 * growth * growth
            channels += growth
    return total + 2 * channels + dense(channels, classes)


def test_parameter_counts():
    filters = (1, 32, 32, 64, 64, 128, 128)
    block = sum(conv(a, b, 3) for a, b in pairwise(filters))
    block += dense(2 * 2 * 128, 200) + dense(200, 200) + dense(200, 10)
    assert parameters(shaped("mnist_cnn_block")) == block == 431_242
    for channels, expected in ((1, 1_929_578), (3, 1_931_178)):
        alexnet = conv(channels, 32, 5) + conv(32, 96, 5)
        alexnet += conv(96, 192, 3) + conv(192, 128, 3) + conv(128, 128, 3)
        alexnet += dense(4 * 4 * 128, 512) + dense(512, 512) + dense(512, 10)
        side = 28 if channels == 1 else 32
        assert parameters(shaped("alexnet", (side, side, channels))) == alexnet == expected
    assert parameters(shaped("densenet")) == densenet(6, 12, 10) == 176_122


def test_parameter_counts_of_the_static_models():
    """28x28 becomes 14, 5 and 1 in B, 26 and 24 in C."""
    b = conv(1, 64, 8) + conv(64, 128, 6) + conv(128, 128, 5) + dense(128, 10)
    assert parameters(shaped("static_b")) == b == 710_218
    c = conv(1, 128, 3) + conv(128, 64, 3) + dense(24 * 24 * 64, 128) + dense(128, 10)
    assert parameters(shaped("static_c")) == c == 4_795_082
    d = dense(784, 300) + 3 * dense(300, 300) + dense(300, 10)
    assert parameters(shaped("static_d")) == d == 509_410
    shared = dense(784, 300) + dense(300, 300) + dense(300, 10)  # planted: the original's shared layer
    assert parameters(shaped("static_d")) != shared


def test_densenet_has_the_size_its_authors_print():
    """DenseNet-BC of depth 100 and growth 12: 0.8 million parameters (their Table 2)."""
    model = nnx.eval_shape(lambda: models.DenseNet((32, 32, 3), 10, depth=100, rngs=nnx.Rngs(0)))
    assert parameters(model) == densenet(16, 12, 10) and round(parameters(model) / 1e6, 1) == 0.8


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_shape_of_the_logits(name, training):
    model = shaped(name, classes=7)
    model.train() if training else model.eval()

    def logits(model, x, key):
        return model(x, rngs=nnx.Rngs(dropout=key)) if training else model(x)

    for rows in (0, 2):
        found = jax.eval_shape(logits, model, jnp.zeros((rows, *SHAPES[name])), jax.random.key(0))
        assert found.shape == (rows, 7) and found.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist_cnn_block", (31, 31, 1)), ("alexnet", (31, 31, 1)), ("densenet", (36, 36, 3)),
    ],
)  # fmt: skip
def test_randomly_resized_and_padded_images_are_accepted(name, shape):
    model = shaped(name)
    model.eval()
    assert jax.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, *shape))).shape == (2, 10)


@pytest.mark.parametrize(("name", "shape"), [("alexnet", (32, 32, 3)), ("densenet", (28, 28, 1))])
def test_both_data_sets(name, shape):
    model = shaped(name, shape)
    model.eval()
    assert jax.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, *shape))).shape == (2, 10)


@functools.partial(jax.jit, static_argnames="training")
def gradients(model, x, key, *, training):
    """Logits and gradients by weights and by images."""
    structure, weights, rest = nnx.split(model, nnx.Param, ...)

    def loss(weights, x):
        rngs = nnx.Rngs(dropout=key) if training else None
        logits = nnx.merge(structure, weights, rest, copy=True)(x, rngs=rngs)
        return jnp.sum(logits**2), logits

    (_, logits), found = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(weights, x)
    return logits, *found


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_finite_and_reach_every_layer(tiny, name):
    tiny[name].train()
    logits, by_weights, by_images = gradients(tiny[name], images(name), jax.random.key(0), training=True)
    for leaf in (logits, by_images, *jax.tree.leaves(by_weights)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@jax.jit
def logits_of(model, x):
    return model(x)


def rows_are_apart(model, x) -> bool:
    return np.array_equal(logits_of(model, x)[0], logits_of(model, x.at[1:].set(1.0 - x[1:]))[0])


@pytest.mark.parametrize("name", TINY)
def test_evaluation_needs_no_random_numbers_and_keeps_rows_apart(tiny, name):
    model, x = tiny[name], images(name)
    model.eval()
    assert not any(is_key(leaf) for leaf in jax.tree.leaves(model)) and not is_randomised(model)
    assert np.ptp(np.asarray(logits_of(model, x)), axis=1).min() > 1e-4
    assert rows_are_apart(model, x)


def test_batch_statistics_would_be_seen(tiny):
    """A planted violation: batch norm in training mode mixes the rows."""
    tiny["densenet"].train()
    assert not rows_are_apart(tiny["densenet"], images("densenet"))


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_in_training_mode_only(tiny, name):
    model, x = tiny[name], images(name)
    model.train()
    drawn = [gradients(model, x, jax.random.key(seed), training=True)[0] for seed in (0, 1)]
    assert not np.array_equal(*drawn)
    with pytest.raises(ValueError, match="rngs"):
        model(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.build("mnist_cnn_block", (19, 28, 1), 10), "at least 20x20, got 19x28"),
        (lambda: models.build("alexnet", (28, 7, 1), 10), "at least 8x8, got 28x7"),
        (lambda: models.build("densenet", (3, 32, 3), 10), "at least 4x4, got 3x32"),
        (lambda: models.DenseNet((32, 32, 3), 10, depth=38, rngs=nnx.Rngs(0)), "depth must be 6n.4"),
        (lambda: models.DenseNet((32, 32, 3), 10, depth=4, rngs=nnx.Rngs(0)), "depth must be 6n.4"),
        (lambda: models.build("static_b", (28, 26, 1), 10), "at least 27x27, got 28x26"),
        (lambda: models.build("static_c", (4, 28, 1), 10), "at least 5x5, got 4x28"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist_cnn_block", (20, 20, 3)), ("alexnet", (8, 8, 1)), ("densenet", (4, 4, 1)),
        ("static_b", (27, 27, 3)), ("static_c", (5, 5, 1)), ("static_d", (1, 2, 3)),
    ],
)  # fmt: skip
def test_smallest_images_work(name, shape):
    model = shaped(name, shape, 4)
    model.eval()
    assert jax.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, *shape))).shape == (2, 4)


@pytest.mark.long  # 6 s
def test_initial_weights_are_the_authors():
    """Keras's Glorot uniform in C, He normal in D: bounds and spread; biases are zero."""
    c, d = models.build("static_c", (5, 5, 1), 10), models.build("static_d", (2, 2, 1), 10)
    for kernel, fans in ((c.conv2.kernel[...], 9 * (128 + 64)), (c.dense.kernel[...], 64 + 128)):
        bound = np.sqrt(6 / fans)
        assert bound * 0.99 < np.abs(kernel).max() <= bound
    assert np.std(d.dense[1].kernel[...]) == pytest.approx(np.sqrt(2 / 300), rel=0.05)
    assert not np.any(c.dense.bias[...]) and not np.any(d.dense[0].bias[...])
