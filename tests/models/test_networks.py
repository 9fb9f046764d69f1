"""The raw models: the paper's sizes, larger inputs, rows apart, one trace for one architecture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deepsec_jax import models
from deepsec_jax.catalog import UnknownName
from deepsec_jax.randomness import is_key, is_randomised

SHAPES = {"small_cnn": (8, 8, 1), "mnist_cnn": (28, 28, 1), "resnet20": (32, 32, 3)}


def filled(build, seed=0):
    """The network in evaluation mode with weights drawn by NumPy: initialising would compile for a minute."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        values = rng.normal(0.0, 1.0 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape)
        return jnp.asarray(values if leaf.ndim > 1 else np.abs(values), leaf.dtype)  # variances above 0

    model = jax.tree.map(draw, nnx.eval_shape(build))
    model.eval()
    return model


def resnet8(classes=10):
    return models.ResNet((8, 8, 1), classes, depth=8, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def networks():
    return {
        name: filled(functools.partial(models.build, name, shape, 10)) for name, shape in SHAPES.items()
    }  # fmt: skip


def images(shape, rows=3, seed=0):
    return jax.random.uniform(jax.random.key(seed), (rows, *shape))


@jax.jit
def logits_of(model, x):
    return model(x)


def parameters(model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_parameter_counts(networks):
    """The MNIST model layer by layer; ResNet-20 as He et al. count it (0.27 M), projections included."""
    convolutions = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 32 + 32 + 64 + 64
    dense = (1024 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10)
    assert parameters(networks["mnist_cnn"]) == convolutions + dense == 312_202
    assert 0.268e6 < parameters(networks["resnet20"]) < 0.275e6
    resnet56 = nnx.eval_shape(lambda: models.build("resnet56", (32, 32, 3), 10))
    assert 0.85e6 < parameters(resnet56) < 0.86e6


@pytest.mark.long  # 7 s
def test_the_papers_network_starts_as_in_the_papers_code():
    """PyTorch's default for a layer: weights and biases uniform in +-1/sqrt(fan in)."""
    model = models.build("mnist_cnn", (16, 16, 1), 10, seed=1)
    for layer in (model.conv1, model.conv4, model.dense2):
        kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
        bound = np.prod(kernel.shape[:-1]) ** -0.5
        assert np.abs(kernel).max() <= bound and np.abs(bias).max() <= bound
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.1) and np.ptp(bias) > bound


@pytest.mark.parametrize("name", SHAPES)
def test_logits(networks, name):
    x = images(SHAPES[name])
    logits = logits_of(networks[name], x)
    assert logits.shape == (3, 10) and logits.dtype == jnp.float32
    assert np.ptp(np.asarray(logits), axis=1).min() > 1e-3, "raw scores that say something"
    assert not np.allclose(logits.sum(axis=1), 1.0), "no probabilities"


@pytest.mark.parametrize(("name", "side"), [("mnist_cnn", 31), ("resnet20", 36)])
def test_randomly_resized_and_padded_images_are_accepted(networks, name, side):
    x = jnp.zeros((2, side, side, SHAPES[name][2]))
    assert jax.eval_shape(networks[name], x).shape == (2, 10)


@pytest.mark.parametrize("name", SHAPES)
def test_empty_batch(networks, name):
    assert jax.eval_shape(networks[name], jnp.zeros((0, *SHAPES[name]))).shape == (0, 10)


@pytest.mark.parametrize("name", SHAPES)
def test_deterministic_in_evaluation_mode(networks, name):
    """No leaf of keys: neither a stream for dropout nor a randomised model."""
    leaves = jax.tree.leaves(networks[name])
    assert leaves and not any(is_key(leaf) for leaf in leaves)
    assert not is_randomised(networks[name])


def test_dropout_in_training_mode_only():
    model, x = filled(lambda: models.build("mnist_cnn", (16, 16, 1), 10)), images((16, 16, 1))
    drawn = jax.jit(lambda model, x, key: model(x, rngs=nnx.Rngs(dropout=key)))

    def same():
        return np.array_equal(*(drawn(model, x, jax.random.key(seed)) for seed in (0, 1)))

    assert same()
    model.train()
    assert not same()


@pytest.mark.parametrize(
    "build", [lambda classes: models.build("small_cnn", (8, 8, 1), classes), resnet8], ids=["cnn", "resnet"]
)
def test_one_architecture_is_one_trace(build):
    traces = []

    @jax.jit
    def counted(model, x):
        traces.append(1)
        return model(x)

    one, other, wider = (
        filled(functools.partial(build, classes), seed) for seed, classes in ((0, 10), (1, 10), (0, 11))
    )
    assert jax.tree.structure(one) == jax.tree.structure(other)
    x = images((8, 8, 1))
    assert not np.array_equal(counted(one, x), counted(other, x))
    assert len(traces) == 1
    counted(wider, x)
    assert len(traces) == 2, "the count sees another architecture"


def rows_are_apart(model, x) -> bool:
    """Logits of row 0 do not change with the other rows, bit for bit."""
    others = x.at[1:].set(1.0 - x[1:])
    return np.array_equal(logits_of(model, x)[0], logits_of(model, others)[0])


@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_a_row_depend_on_that_row_only(networks, name):
    assert rows_are_apart(networks[name], images(SHAPES[name]))


def test_batch_statistics_would_be_seen():
    """A planted violation: batch norm in training mode mixes the rows."""
    model, x = filled(resnet8), images((8, 8, 1))
    assert rows_are_apart(model, x)
    model.train()
    assert not rows_are_apart(model, x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.build("mnist_cnn", (15, 28, 1), 10), "at least 16x16, got 15x28"),
        (lambda: models.build("small_cnn", (1, 8, 1), 10), "at least 2x2, got 1x8"),
        (lambda: models.ResNet((32, 32, 3), 10, depth=21, rngs=nnx.Rngs(0)), "depth must be 6n.2"),
        (lambda: models.ResNet((32, 32, 3), 10, depth=2, rngs=nnx.Rngs(0)), "depth must be 6n.2"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_smallest_images_work():
    model = nnx.eval_shape(lambda: models.build("mnist_cnn", (16, 16, 3), 4))
    model.eval()
    assert jax.eval_shape(logits_of, model, jnp.zeros((2, 16, 16, 3))).shape == (2, 4)


def test_unknown_name():
    with pytest.raises(UnknownName, match="Did you mean resnet56 or resnet20"):
        models.build("resnet50", (32, 32, 3), 10)


def test_seed_decides_the_weights():
    built = [models.build("small_cnn", (8, 8, 1), 10, seed=seed) for seed in (0, 0, 1)]
    weights = [np.asarray(model.conv1.kernel[...]) for model in built]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
