"""Models of Equinox, Haiku, Keras and Linen, against the libraries themselves."""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState
from jax.tree_util import Partial

from deepsec_jax import attacks, models
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.cli.main import main
from deepsec_jax.evaluation import judge
from deepsec_jax.hashing import hash_tree
from deepsec_jax.models import wrappers
from deepsec_jax.randomness import is_randomised, reseed

SHAPE, CLASSES = (6, 5, 2), 4
X = jax.random.uniform(jax.random.key(9), (8, *SHAPE))
FLATTEN = eqx.nn.Lambda(jnp.ravel)
PGD = attacks.PGD(eps=0.1, step_size=0.05, steps=2)
KEY = jax.random.key(1)

# Of Keras's own variables, once asked for as NumPy arrays.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def as_the_libraries_compute():
    """Without the strict promotion of the tests, which these libraries do not follow."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Case(NamedTuple):
    """An adapted model, and what its library itself computes from images [B, H, W, C]."""

    model: Any
    reference: Callable[[jax.Array], jax.Array]


def equinox_mlp(seed: int) -> Case:
    mlp = eqx.nn.MLP(60, CLASSES, 8, 1, key=jax.random.key(seed))
    module = eqx.nn.Sequential([FLATTEN, mlp])
    return Case(models.from_equinox(module), lambda x: jnp.stack([mlp(image.ravel()) for image in x]))


def equinox_net(seed: int) -> tuple[Any, Any]:
    """Convolution, batch statistics of one training pass, dropout; in training mode."""

    def make(key):
        first, second = jax.random.split(key)
        return eqx.nn.Sequential([
            eqx.nn.Conv2d(2, 3, 3, key=first), eqx.nn.BatchNorm(3, "batch", mode="ema"),
            eqx.nn.Lambda(jax.nn.relu), FLATTEN, eqx.nn.Dropout(0.5), eqx.nn.Linear(36, CLASSES, key=second),
        ])  # fmt: skip

    module, state = eqx.nn.make_with_state(make)(jax.random.key(seed))
    train = jax.vmap(
        lambda image, state, key: module(image, state, key=key),
        axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None),
    )  # fmt: skip
    return module, train(jnp.moveaxis(X, -1, 1), state, jax.random.split(KEY, 8))[1]


def equinox_batchnorm(seed: int) -> Case:
    module, state = equinox_net(seed)
    module = eqx.nn.inference_mode(module)
    return Case(
        models.from_equinox(module, state, channels_first=True),
        lambda x: jnp.stack([module(jnp.moveaxis(image, -1, 0), state)[0] for image in x]),
    )


@hk.transform
def haiku_plain(x):
    return hk.nets.MLP([8, CLASSES])(hk.Flatten()(x))


@hk.transform_with_state
def haiku_norm(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(3, 3)(x), is_training)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(CLASSES)(hk.Flatten()(jax.nn.relu(x)))


def haiku_mlp(seed: int) -> Case:
    params = haiku_plain.init(jax.random.key(seed), X)
    return Case(
        models.from_haiku(haiku_plain, params), lambda x: hk.without_apply_rng(haiku_plain).apply(params, x)
    )


def haiku_weights(seed: int) -> tuple[Any, Any]:
    params, state = haiku_norm.init(jax.random.key(seed), X, True)
    return params, haiku_norm.apply(params, state, KEY, X, True)[1]


def haiku_batchnorm(seed: int) -> Case:
    params, state = haiku_weights(seed)
    return Case(
        models.from_haiku(haiku_norm, params, state, is_training=False),
        lambda x: haiku_norm.apply(params, state, None, x, is_training=False)[0],
    )


@functools.cache
def keras_net(*, end: str | None = None, first: bool = False) -> Any:
    shape = (SHAPE[2], *SHAPE[:2]) if first else SHAPE
    order = "channels_first" if first else "channels_last"
    return keras.Sequential([
        keras.Input(shape), keras.layers.Rescaling(2.0, offset=-1.0),
        keras.layers.Conv2D(3, 3, data_format=order, activation="relu"),
        keras.layers.BatchNormalization(axis=1 if first else -1), keras.layers.Dropout(0.5),
        keras.layers.Flatten(), keras.layers.Dense(CLASSES, activation=end),
    ])  # fmt: skip


def keras_batchnorm(seed: int, **options) -> Case:
    """The same network with other weights, as after more training."""
    net, rng = keras_net(**options), np.random.default_rng(seed)
    values = [rng.uniform(0.1, 0.5, variable.shape).astype(np.float32) for variable in net.weights[:6]]
    values += [np.asarray(variable.value) for variable in net.weights[6:-2]]  # the seed of dropout
    net.set_weights([*values, rng.normal(size=net.weights[-2].shape), rng.normal(size=(CLASSES,))])
    first = options.get("first", False)
    return Case(
        models.from_keras(net, channels_first=first),
        lambda x: net(jnp.moveaxis(x, -1, 1) if first else x, training=False),
    )


def keras_channels_first(seed: int) -> Case:
    return keras_batchnorm(seed, first=True)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Conv(3, (3, 3))(x))
        x = linen.Dropout(0.5, deterministic=not train)(linen.relu(x))
        return linen.Dense(CLASSES)(x.reshape(len(x), -1))


LINEN = LinenNet()


def linen_batchnorm(seed: int) -> Case:
    variables = LINEN.init(jax.random.key(seed), X, train=False)
    moved = LINEN.apply(variables, X, train=True, mutable=["batch_stats"], rngs={"dropout": KEY})[1]
    variables = {**variables, **moved}
    return Case(
        models.from_callable(LINEN.apply, variables, train=False),
        lambda x: LINEN.apply(variables, x, train=False),
    )


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(60, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(self.norm(x)).reshape(len(x), -1))


def nnx_batchnorm(seed: int) -> Case:
    net = NnxNet(nnx.Rngs(seed))
    net(X)
    net.eval()
    return Case(net, lambda x: net.out((net.norm(x)).reshape(len(x), -1)))


CASES = [
    equinox_mlp, equinox_batchnorm, haiku_mlp, haiku_batchnorm, keras_batchnorm, keras_channels_first,
    linen_batchnorm, nnx_batchnorm,
]  # fmt: skip
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)


@each
def test_logits_and_gradients_are_the_librarys_own(case):
    """Also under another order of the rows, and of one row alone: none of them sees the batch."""
    model, reference = case(0)
    reference = jax.jit(reference)
    weight = jax.random.normal(KEY, (8, CLASSES))
    jitted = jax.jit(lambda model, x: model(x))
    logits = jitted(model, X)
    assert logits.shape == (8, CLASSES) and float(jnp.std(logits)) > 1e-3
    np.testing.assert_allclose(logits, reference(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jitted(model, X[::-1])[::-1], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jitted(model, X[3:4]), logits[3:4], rtol=1e-4, atol=1e-5)
    gradient = jax.jit(lambda model, x: value_and_gradient(
        lambda x: (jnp.sum(weight * model(x), axis=1), None), x
    )[2])(model, X)  # fmt: skip
    own = jax.jit(jax.grad(lambda x: jnp.sum(weight * reference(x))))(X)
    assert float(jnp.abs(own).max()) > 1e-4
    np.testing.assert_allclose(gradient, own, rtol=1e-3, atol=1e-5)


@each
def test_other_weights_hit_the_compiled_attack(case, compiles):
    found = []
    with compiles() as count:
        for seed in range(3):
            model, reference = case(seed)
            reference = jax.jit(reference)
            labels = reference(X).argmax(-1)
            x_adv = attacks.run_in_batches(
                PGD, model, np.asarray(X), np.asarray(labels), key=KEY, batch_size=8
            )
            np.testing.assert_array_equal(
                judge(model, X, x_adv, labels).success, reference(jnp.asarray(x_adv)).argmax(-1) != labels
            )
            found.append(x_adv)
    assert count("PGD") == count("_answers") == 1
    assert not np.allclose(found[0], found[1]) and np.abs(found[0] - X).max() > 0.04


def test_a_closure_compiles_for_each_of_its_weights(compiles):
    """Planted: what the test above must find.  Weights in a closure are constants of the program."""

    def closed(seed):
        module = eqx.nn.Sequential([FLATTEN, eqx.nn.MLP(60, CLASSES, 8, 1, key=jax.random.key(seed))])
        return Partial(jax.vmap(module))

    with compiles() as count:
        for seed in range(2):
            PGD(closed(seed), X, jnp.zeros(8, jnp.int32), key=KEY)
    assert count("PGD") == 2


@pytest.mark.parametrize("case", [equinox_batchnorm, haiku_batchnorm, keras_batchnorm, linen_batchnorm])
def test_from_the_command_line(case, tmp_path, monkeypatch, capsys):
    model, reference = case(0)
    monkeypatch.setitem(sys.modules, "foreign_nets", SimpleNamespace(model=lambda: model))
    monkeypatch.chdir(tmp_path)
    x, classes = np.asarray(X), np.arange(8) % CLASSES
    np.savez("own.npz", x_train=x, y_train=classes, x_test=x, y_test=reference(X).argmax(-1))
    chosen = ["--attacks", "fgsm", "--n", "8", "--batch-size", "8", "--run-dir", "run", "--export", "npz"]
    assert main(["attack", "foreign_nets:model", "--data", "own.npz", *chosen]) == 0, capsys.readouterr().err
    (path,) = Path("run/aes").glob("fgsm-*.npz")
    stored = attacks.load(path)
    assert np.abs(stored.x_adv - stored.x).max() > 0.1


# What is refused, in one line with the remedy.


def stochastic():
    class AlwaysDropout(keras.Model):
        def __init__(self):
            super().__init__()
            self.dropout, self.out = keras.layers.Dropout(0.5), keras.layers.Dense(CLASSES)

        def call(self, x):
            return self.out(self.dropout(keras.ops.reshape(x, (-1, 60)), training=True))

    net = AlwaysDropout()
    net(X)
    return net


def bare(x):
    return x.reshape(len(x), -1)[:, :CLASSES]


class NoPytree:
    def __call__(self, x):
        return bare(x)


def adds_its_name(name, weights, x):
    return x.reshape(len(x), -1) @ weights if name == "dense" else None


def branches(weights, x):
    return x.reshape(len(x), -1) @ weights if x.max() > 1 else x.reshape(len(x), -1) @ -weights


def two_outputs(weights, x):
    return x.reshape(len(x), -1) @ weights, weights


def nested_in_training():
    net = NnxNet(nnx.Rngs(0))
    net.train()
    return wrappers.Scaled(net, 2.0)


class Counting(eqx.Module):
    """An Equinox module that counts its calls, in evaluation too."""

    index: eqx.nn.StateIndex
    out: eqx.nn.Linear

    def __init__(self, key):
        self.index = eqx.nn.StateIndex(jnp.zeros(()))
        self.out = eqx.nn.Linear(60, CLASSES, key=key)

    def __call__(self, image, state):
        return self.out(image.ravel()), state.set(self.index, state.get(self.index) + 1.0)


WEIGHTS = jnp.ones((60, CLASSES))
REFUSED = {
    "mlp": (lambda: eqx.nn.MLP(60, 4, 8, 1, key=KEY), r"\.activation is .*relu.*from_equinox\(module\)"),
    "vmap": (lambda: jax.vmap(eqx.nn.MLP(60, 4, 8, 1, key=KEY)), r"Equinox module .*from_equinox\(module\)"),
    "eqx net": (lambda: wrappers.Scaled(equinox_net(0)[0]), r"is 'batch', .*from_equinox\(module\)"),
    "dropout": (lambda: eqx.nn.Dropout(0.5), r"inference is False, no array.*from_equinox\(module\)"),
    "eqx training": (
        lambda: models.from_equinox(*equinox_net(0)), r"training mode \(layers\[1\]\).*inference_mode"
    ),
    "eqx dropout": (lambda: models.from_equinox(eqx.nn.Dropout(0.5)), r"training mode .*inference_mode"),
    "eqx no state": (lambda: models.from_equinox(equinox_net(0)[0]), r"from_equinox\(module, state\)"),
    "eqx pair": (lambda: models.from_equinox(equinox_net(0)), r"from_equinox\(module, state\)"),
    "eqx counts": (
        lambda: models.from_equinox(*eqx.nn.make_with_state(Counting)(KEY)), "changes its state"
    ),
    "eqx function": (lambda: models.from_equinox(bare), r"got function.*from_callable\(apply, params\)"),
    "eqx shape": (
        lambda: models.from_equinox(eqx.nn.inference_mode(equinox_net(0)[0]), equinox_net(0)[1]),
        r"fails on images \[6, 5, 2\].*pass channels_first=True",
    ),
    "eqx vector": (lambda: models.from_equinox(eqx.nn.MLP(60, 4, 8, 1, key=KEY)), "flatten inside"),
    "haiku net": (lambda: haiku_plain, r"Haiku's class Transformed.*from_haiku\(net, params\)"),
    "haiku no state": (lambda: models.from_haiku(haiku_norm, {}), r"from_haiku\(net, params, state\)"),
    "haiku state too many": (lambda: models.from_haiku(haiku_plain, {}, {}), r"from_haiku\(net, params\)"),
    "haiku function": (lambda: models.from_haiku(bare, {}), r"got function.*from_callable\(apply, params\)"),
    "haiku training": (
        lambda: models.from_haiku(
            hk.transform_with_state(lambda x, is_training: hk.BatchNorm(True, True, 0.9)(x, is_training)),
            *hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True)).init(KEY, X),
            is_training=True,
        ),
        "changes its state while it answers.*is_training=False",
    ),
    "keras net": (lambda: keras_net(), r"Keras's class Sequential.*from_keras\(model\)"),
    "keras callable": (lambda: models.from_callable(keras_net()), r"from_keras\(model\)"),
    "keras argument": (lambda: models.from_callable(bare, keras_net(), WEIGHTS), r"from_keras\(model\)"),
    "keras variables": (
        lambda: Partial(bare, keras_net().trainable_variables), r"Variable.*from_callable\(model\)"
    ),
    "keras function": (lambda: models.from_keras(bare), "from_keras takes a Keras 3 model, got function"),
    "keras unbuilt": (
        lambda: models.from_keras(keras.Sequential([keras.layers.Dense(4)])), "has no weights yet: call it"
    ),
    "keras draws": (lambda: models.from_keras(stochastic()), "changes its state .*training=False"),
    "keras channels": (
        lambda: models.from_keras(keras_net(first=True)), r"\[6, 5, 2\].*pass channels_first=True"
    ),
    "keras not channels": (
        lambda: models.from_keras(keras_net(), channels_first=True), r"\[2, 6, 5\].*pass channels_first=False"
    ),
    "linen module": (lambda: LINEN, r"Linen's class LinenNet.*from_callable\(module.apply, variables\)"),
    "linen flag": (
        lambda: Partial(LINEN.apply, LINEN.init(KEY, X, train=False), train=False),
        r"decides by the value of model\[1\]\['train'\].*from_callable\(model\)",
    ),
    "train state": (
        lambda: TrainState(0, LINEN.apply, {}, None, None), r"from_callable\(state.apply_fn, \{'params'"
    ),
    "nnx training": (nested_in_training, r"training mode \(dropout\): call model.eval\(\)"),
    "function": (lambda: bare, r"plain function 'bare'.*from_callable\(apply, params\)"),
    "object": (NoPytree, r"no pytree, .*from_callable\(apply, params\)"),
    "no arrays": (lambda: models.from_callable(bare), r"bare comes without.*from_callable\(apply, params\)"),
    "name": (lambda: Partial(adds_its_name, "dense", WEIGHTS), r"is 'dense', no array.*from_callable"),
    "set": (lambda: models.from_callable(bare, WEIGHTS, {1, 2}), r"is \{1, 2\}, no array and not hashable"),
    "channels": (lambda: models.from_callable(bare, WEIGHTS, channels_first=1), "True or False, got 1"),
    "branch": (lambda: Partial(branches, WEIGHTS), "decides by the value of x, .*jnp.where"),
    "tuple": (lambda: Partial(two_outputs, WEIGHTS), r"got a tuple of 2.*returns the logits alone"),
    "nothing": (lambda: None, "pytree callable .*got NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_with_the_remedy(name):
    """By an attack, and by run_in_batches before any compute."""
    make, message = REFUSED[name]
    x, labels = np.asarray(X), np.zeros(8, np.int32)
    for attacked in (
        lambda model: attacks.FGSM()(model, X, jnp.asarray(labels), key=KEY),
        lambda model: attacks.run_in_batches(attacks.FGSM(), model, x, labels, key=KEY),
    ):
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            attacked(make())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["mlp", "vmap", "haiku net", "keras net", "linen module", "name", "function"]
)
def test_refused_by_the_judge(name):
    make, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        judge(make(), X, X, jnp.zeros(8, jnp.int32))


@pytest.mark.parametrize(
    "name", ["mlp", "vmap", "haiku net", "keras net", "keras draws", "linen flag", "branch"]
)
def test_refused_at_the_command_line(name, tmp_path, monkeypatch, capsys):
    make, message = REFUSED[name]
    monkeypatch.setitem(sys.modules, "foreign_nets", SimpleNamespace(model=make))
    monkeypatch.chdir(tmp_path)
    x, classes = np.asarray(X), np.arange(8) % CLASSES
    np.savez("own.npz", x_train=x, y_train=classes, x_test=x, y_test=classes)
    assert main(["attack", "foreign_nets:model", "--data", "own.npz", "--run-dir", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(message, line), line


def test_what_is_refused_works_as_the_message_says():
    variables = LINEN.init(KEY, X, train=False)
    with_flag = models.from_callable(Partial(LINEN.apply, variables, train=False))
    np.testing.assert_array_equal(with_flag(X), LINEN.apply(variables, X, train=False))
    named = models.from_callable(Partial(adds_its_name, "dense", WEIGHTS))
    np.testing.assert_allclose(named(X), X.reshape(8, -1) @ WEIGHTS, rtol=1e-6)
    state = TrainState.create(apply_fn=haiku_plain.apply, params=haiku_plain.init(KEY, X), tx=optimizer())
    assert models.from_callable(state.apply_fn, state.params, None)(X).shape == (8, CLASSES)
    mapped = eqx.filter_vmap(eqx.nn.Sequential([FLATTEN, eqx.nn.MLP(60, CLASSES, 8, 1, key=KEY)]))
    np.testing.assert_allclose(models.from_equinox(mapped, batched=True)(X), mapped(X), rtol=1e-5)


class Whole(eqx.Module):
    """An Equinox module that takes the batch."""

    inner: Any

    def __call__(self, x, state):
        return jax.vmap(self.inner, in_axes=(0, None), out_axes=(0, None))(x, state)


def test_an_equinox_module_that_takes_the_batch():
    module, state = equinox_net(0)
    whole = models.from_equinox(
        eqx.nn.inference_mode(Whole(module)), state, batched=True, channels_first=True
    )
    np.testing.assert_allclose(whole(X), equinox_batchnorm(0).model(X), rtol=1e-5, atol=1e-6)


# Models that draw.


class NoisyModule(eqx.Module):
    """An Equinox module of a whole batch, with one key per row."""

    inner: Any
    keys: jax.Array

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        return jax.vmap(noisy_logits, in_axes=(None, 0, 0))(self.inner, x, self.keys)


def noisy_logits(inner, image, key):
    return inner(image.ravel() + 0.3 * jax.random.normal(key, (60,)))


def noisy_batch(inner, x, keys):
    return jax.vmap(noisy_logits, in_axes=(None, 0, 0))(inner, x, keys)


class TakesKey(eqx.Module):
    """An Equinox module of one image that takes its key in the call."""

    inner: Any

    def __call__(self, image, key):
        return noisy_logits(self.inner, image, key)


def test_models_that_draw_are_reseeded_inside_an_adapter():
    mlp = eqx.nn.MLP(60, CLASSES, 8, 1, key=KEY)
    declared = models.from_equinox(NoisyModule(mlp, jax.random.split(KEY, 8)), batched=True)
    handed = [
        wrappers.Randomised(models.from_callable(noisy_batch, mlp)),
        wrappers.Randomised(models.from_equinox(TakesKey(mlp))),
    ]
    keys = jax.random.split(jax.random.key(5), 8)
    expected = noisy_batch(mlp, X, jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 0))
    for model in (declared, *handed):
        assert is_randomised(model)
        np.testing.assert_allclose(reseed(model, keys)(X), expected, rtol=1e-5, atol=1e-6)
        assert not np.allclose(model(X), expected, atol=1e-2)
    with pytest.raises(ValueError, match=r"PRNG keys .* of which no class says what it is.*Randomised"):
        is_randomised(models.from_callable(noisy_batch, mlp, keys))


def optimizer():
    import optax

    return optax.sgd(0.1)


# Keras models that end in probabilities.


def functional(last):
    image = keras.Input(SHAPE)
    return keras.Model(image, last(keras.layers.Dense(CLASSES)(keras.layers.Flatten()(image))))


ENDS = {
    "activation": lambda: keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(),
                                            keras.layers.Dense(CLASSES, activation="softmax")]),
    "sigmoid": lambda: keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(),
                                         keras.layers.Dense(CLASSES, activation="sigmoid")]),
    "activation layer": lambda: functional(keras.layers.Activation("softmax")),
    "softmax layer": lambda: functional(keras.layers.Softmax()),
    "operation": lambda: functional(keras.ops.softmax),
    "nested": lambda: keras.Sequential([keras.Input(SHAPE), functional(keras.layers.Activation("softmax"))]),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_are_refused_and_the_remedy_gives_logits(name):
    model = ENDS[name]()
    probabilities = np.asarray(model(X))
    with pytest.raises(ValueError, match="probabilities hide the gradient") as caught:
        models.from_keras(model)
    remedy = str(caught.value).rpartition(": ")[2]
    if remedy.startswith("set "):
        exec(remedy.removeprefix("set "), {"model": model, "keras": keras})
    else:
        model = eval(remedy.removeprefix("take "), {"model": model, "keras": keras})
    logits = models.from_keras(model)(X)
    squash = jax.nn.sigmoid if name == "sigmoid" else jax.nn.softmax
    np.testing.assert_allclose(squash(logits), probabilities, rtol=1e-4, atol=1e-6)
    assert not np.allclose(logits, probabilities, atol=1e-2)


def test_other_ends_are_no_probabilities():
    for last in (keras.ops.log_softmax, keras.layers.Activation("linear"), keras.layers.LeakyReLU()):
        assert models.from_keras(functional(last))(X).shape == (8, CLASSES)


def test_training_goes_on_beside_the_adapted_model():
    """Keras gives its buffers away while it trains; what was adapted before keeps its weights."""
    net = functional(keras.layers.Activation("linear"))
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before, logits = models.from_keras(net), np.asarray(net(X))
    net.fit(np.asarray(X), np.arange(8) % CLASSES, epochs=2, verbose=0)
    np.testing.assert_allclose(before(X), logits, rtol=1e-5, atol=1e-6)
    after = models.from_keras(net)
    np.testing.assert_allclose(after(X), net(X), rtol=1e-5, atol=1e-6)
    assert np.abs(after(X) - logits).max() > 1e-3
    assert jax.tree.structure(before) == jax.tree.structure(after)


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match=r"Keras runs on tensorflow: set .*KERAS_BACKEND=jax"):
        models.from_keras(keras_net())


# What is traced and what is fixed.


def keeps(first, *rest, **options):
    return first


def test_the_traced_part_is_equinoxs_own():
    for module in (equinox_net(0)[0], eqx.nn.MLP(60, CLASSES, 8, 1, key=KEY)):
        module = eqx.nn.inference_mode(module)
        ours = jax.tree.leaves(models.from_callable(keeps, module))
        theirs = jax.tree.leaves(eqx.partition(module, eqx.is_array)[0])
        assert len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))


def test_arrays_of_any_library_are_traced_and_flags_and_sizes_are_not():
    traced = [
        jnp.ones(2),
        np.ones(2),
        np.float32(2.0),
        jnp.int32(3),
        jax.random.key(0),
        keras.Variable(np.ones(2)),
    ]
    fixed = [3, 0.5, True, None, "relu", jax.nn.relu, np.int64(4), np.bool_(True), jnp.float32, (1, "a")]
    for others in ((), fixed):
        model = models.from_callable(keeps, *traced, *others, dtype=jnp.bfloat16)
        assert len(jax.tree.leaves(model)) == len(traced)
    seen = models.from_callable(lambda *args, **options: (args, options), jnp.ones(2), *fixed, size=3)(X)
    assert seen[0][1:-1] == tuple(fixed) and seen[0][-1] is X and seen[1] == {"size": 3}


def structure(*args, **options):
    return jax.tree.structure(models.from_callable(keeps, WEIGHTS, *args, **options))


def test_what_is_fixed_decides_the_program():
    assert structure(train=False) == structure(train=False)
    assert structure(jax.nn.relu) == structure(jax.nn.relu) != structure(jax.nn.relu6)
    assert structure(train=False) != structure(train=True)
    assert structure(1) != structure(True) and structure(1) != structure(1.0)
    part = functools.partial(functools.partial(keeps, WEIGHTS), train=False)
    assert structure(train=False) == jax.tree.structure(models.from_callable(part))
    assert structure({"a": WEIGHTS}) == structure({"a": 2 * WEIGHTS}) != structure({"b": WEIGHTS})


def test_the_hash_tells_activations_apart_and_holds_elsewhere():
    """Stored results are found by it: another function in the place of one is another model."""

    def digest(model):
        return hash_tree(model).hexdigest()

    def mlp(activation, seed=0):
        module = eqx.nn.MLP(60, CLASSES, 8, 1, activation=activation, key=jax.random.key(seed))
        return models.from_equinox(eqx.nn.Sequential([FLATTEN, module]))

    assert digest(mlp(jax.nn.relu)) == digest(mlp(jax.nn.relu))
    assert len({digest(mlp(jax.nn.relu)), digest(mlp(jax.nn.relu6)), digest(mlp(jax.nn.relu, 1))}) == 3
    nets = [functional(keras.layers.Activation(end)) for end in ("linear", "relu")]
    nets[1].set_weights(nets[0].get_weights())
    assert len({digest(models.from_keras(net)) for net in nets}) == 2
    assert " at 0x" not in repr(models.from_keras(nets[0]).fixed) + repr(mlp(jax.nn.relu).fixed)
