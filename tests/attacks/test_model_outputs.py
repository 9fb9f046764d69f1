"""check_model_outputs: each planted fault has its finding, and honest models have none."""

import re
from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, Noisy, make_images, make_linear
from flax import nnx
from guards import guarded

from deepsec_jax import models
from deepsec_jax.attacks import check_model_outputs
from deepsec_jax.attacks.model_outputs import ROWS
from deepsec_jax.models.wrappers import EOT
from deepsec_jax.pytree import Struct, static

LINEAR = make_linear()
X = np.asarray(make_images(rows=24))
LABELS = np.asarray(jnp.argmax(LINEAR(jnp.asarray(X)), axis=-1)).astype(np.int32)


class Through(Struct):
    """A linear model between two functions, of its images and of its logits."""

    base: Linear
    before: object = static(lambda x: x)
    after: object = static(lambda z: z)

    def __call__(self, x):
        return self.after(self.base(self.before(x)))


def found(model, x=X, labels=LABELS, **options) -> list[str]:
    return check_model_outputs(model, x, labels, **options)


# --- honest models


class LinenNet(flax.linen.Module):
    train: bool = False

    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.Conv(4, (3, 3))(x)
        x = flax.linen.BatchNorm(use_running_average=not self.train)(x)
        return flax.linen.Dense(3)(flax.linen.relu(x).reshape(len(x), -1))


def linen_variables():
    return LinenNet().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


class MeanOfProbabilities(Struct):
    """An ensemble that averages probabilities, and returns them or their logarithm."""

    members: tuple[Linear, ...]
    logarithm: bool = static(True)

    def __call__(self, x):
        parts = jnp.stack([jax.nn.log_softmax(member(x)) for member in self.members])
        mean = jax.nn.logsumexp(parts, axis=0) - jnp.log(float(len(self.members)))
        return mean if self.logarithm else jnp.exp(mean)


def resnet():
    model = models.ResNet((4, 4, 1), 3, depth=8, rngs=nnx.Rngs(0))
    model.eval()
    return model


def in_half_precision():
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), LINEAR)


def rounded(x):
    return jnp.round(31 * x) / 31


HONEST = {
    "linear": lambda: LINEAR,
    "randomised": lambda: Noisy(LINEAR, jax.random.split(jax.random.key(0), 1), 0.5),
    "expectation": lambda: EOT(Noisy(LINEAR, jax.random.split(jax.random.key(0), 1), 0.5), 3),
    "guarded": guarded,
    "log-probabilities": lambda: Through(LINEAR, after=jax.nn.log_softmax),
    "ensemble": lambda: MeanOfProbabilities((LINEAR, make_linear(seed=4))),
    "small logits": lambda: Through(LINEAR, after=lambda z: 1e-4 * z),
    "large logits": lambda: Through(LINEAR, after=lambda z: 1e4 * z),
    "a masked class": lambda: Through(LINEAR, after=lambda z: z.at[:, 2].set(-jnp.inf)),
    "a rounding pixel": lambda: Through(
        LINEAR, before=lambda x: x + jax.lax.stop_gradient(jnp.round(31 * x) / 31 - x)
    ),
    "resnet": resnet,
    "linen": lambda: jax.tree_util.Partial(LinenNet().apply, linen_variables()),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_raise_nothing(name):
    assert found(HONEST[name]()) == []


def test_half_precision_is_no_fault():
    assert found(in_half_precision(), jnp.asarray(X, jnp.bfloat16)) == []


def test_one_image_and_numpy_labels_of_any_integers():
    assert found(LINEAR, X[:1], LABELS[:1].astype(np.uint8)) == []


def test_a_network_of_the_papers_kind(tiny_cnn):
    x = np.asarray(make_images(rows=20, shape=(8, 8, 1)))
    assert found(tiny_cnn, x, np.zeros(20, np.int64)) == []


# --- planted faults

CALLS = np.zeros(1)


def host_noise(z):
    """Numbers that the host draws in every call."""

    def draw(logits):
        CALLS[0] += 1
        return np.random.default_rng(int(CALLS[0])).normal(size=logits.shape).astype(np.float32)

    shape = jax.ShapeDtypeStruct(z.shape, z.dtype)
    return z + jax.pure_callback(draw, shape, jax.lax.stop_gradient(z))


def traced_noise(z):
    """Numbers that are drawn while the program is traced: constants, other ones in every program."""
    return z + jnp.asarray(np.random.default_rng().normal(size=z.shape), jnp.float32)


def half_softmax(z):
    return jax.nn.softmax(z.astype(jnp.bfloat16))


def one_key_noise(x):
    return x + 0.2 * jax.random.normal(jax.random.key(0), x.shape)


def on_host(z):
    return jax.pure_callback(lambda z: np.asarray(z), jax.ShapeDtypeStruct(z.shape, z.dtype), z)


PROBABILITIES = "outputs are probabilities"
PLANTED = {
    "softmax": (Through(LINEAR, after=jax.nn.softmax), PROBABILITIES),
    "mean of softmaxes": (MeanOfProbabilities((LINEAR, LINEAR), False), PROBABILITIES),
    "guarded softmax": (
        guarded().replace(model=Through(LINEAR, after=jax.nn.softmax)), PROBABILITIES
    ),
    "half softmax": (Through(LINEAR, after=half_softmax), PROBABILITIES),
    "NaN": (
        Through(LINEAR, after=lambda z: jnp.where(z[:, :1] > 0, jnp.nan, z)), "no answer .* clean images"
    ),
    "overflow": (Through(LINEAR, after=lambda z: jnp.exp(1000.0 * z)), "no answer .* clean images"),
    "log of pixels": (Through(LINEAR, before=jnp.log), "no answer .* are 0 or 1, as in attacks"),
    "classes": (Through(LINEAR, after=lambda z: jnp.round(100 * z).astype(jnp.int32)), r"integers \(int32\)"),
    "argmax": (Through(LINEAR, after=lambda z: jax.nn.one_hot(jnp.argmax(z, -1), 3)), "zero for all n = 16"),
    "rounding": (Through(LINEAR, before=rounded), "zero for all n = 16"),
    "saturated": (Through(LINEAR, after=lambda z: jnp.clip(z, -0.5, 0.5)), r"zero for \d+ of n = 16"),
    "no derivative": (Through(LINEAR, after=on_host), "No gradient can be taken .ValueError"),
    "square root": (
        Through(LINEAR, before=lambda x: x + jnp.sqrt(jnp.maximum(x - 0.5, 0.0))),
        r"gradient of \d+ of n = 16 images has entries that are NaN or infinite",
    ),
    "host noise": (Through(LINEAR, after=host_noise), "Two calls on the same images differ"),
    "batch statistics": (
        Through(LINEAR, after=lambda z: (z - z.mean(axis=0, keepdims=True)) / z.std(axis=0, keepdims=True)),
        "depends on the other images of its batch",
    ),
    "linen in training mode": (
        jax.tree_util.Partial(
            lambda variables, x: LinenNet(train=True).apply(variables, x, mutable=["batch_stats"])[0],
            linen_variables(),
        ),
        "depends on the other images of its batch",
    ),
    "one key for the batch": (
        Through(LINEAR, before=one_key_noise), "depends on (its place in|the other images)"
    ),
    "drawn while traced": (
        Through(LINEAR, after=lambda z: z + traced_noise(0 * z[:1])), "depends on the size of its batch"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name):
    model, message = PLANTED[name]
    findings = found(model)
    assert sum(bool(re.search(message, finding)) for finding in findings) == 1
    assert all(finding[0].isupper() and finding.endswith(".") and "\n" not in finding for finding in findings)
    several = ("softmax", "guarded softmax", "log of pixels", "overflow", "NaN", "half softmax", "classes")
    assert len(findings) == 1 or name in several, findings


@pytest.mark.parametrize("largest", [1, 16])
def test_images_that_fill_a_tenth_of_the_range(largest):
    whole = np.random.default_rng(0).integers(0, largest + 1, size=(20, 4, 4, 1)).astype(np.float32)
    (finding,) = found(LINEAR, whole / 255, LABELS[:20], gradients=False)
    assert "largest value" in finding
    assert found(LINEAR, whole / largest, LABELS[:20], gradients=False) == []


def test_gradients_that_nobody_follows_are_not_looked_at():
    votes = PLANTED["rounding"][0]
    assert found(votes) and found(votes, gradients=False) == []


def test_it_looks_at_the_first_images_only():
    late = X.copy()
    late[ROWS:] = 0.5
    model = Through(LINEAR, after=lambda z: z)
    assert found(model, late) == found(model, X[:ROWS], LABELS[:ROWS]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: found(lambda x: x), "Partial"),
        (lambda: found(LINEAR, X[:0], LABELS[:0]), "at least one"),
        (lambda: found(LINEAR, 255 * X), "bring images to"),
        (lambda: found(LINEAR, X, LABELS[:, None]), "integers"),
        (lambda: found(LINEAR, X, LABELS + 3), "labels range"),
        (lambda: found(nnx.BatchNorm(1, rngs=nnx.Rngs(0))), "model.eval"),
    ],
)
def test_what_no_attack_takes_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_the_remedies_are_remedies():
    """What the findings of probabilities and of an argmax ask for raises nothing."""
    probabilities = partial(jnp.maximum, 1e-30)
    assert found(Through(LINEAR, after=lambda z: jnp.log(probabilities(jax.nn.softmax(z))))) == []
