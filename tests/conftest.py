"""Gates of every test: strict promotion, strict ranks; and the models that tests share."""

import gc
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import HealthCheck, settings

from deepsec_jax import models
from deepsec_jax.memory import collect_seldom, keep_freed_memory
from deepsec_jax.protocols import Images, Logits
from deepsec_jax.pytree import Struct

# Most of a test's time goes into compiling: LLVM's optimiser, the fusion emitters, YNNPACK's fusions and
# cutting up a program for threads take two thirds of that, and little arrays do not repay it.  Set XLA_FLAGS=
# to run the tests on the very programs that users run.  Flags but the first may be dropped by another XLA,
# and an unknown flag ends the process.
# scripts/test --isa NAME: the programs of another processor, whose sums round otherwise.
ISA = os.environ.get("DEEPSEC_TEST_ISA", "")
cheap = "--xla_backend_optimization_level=0" + (f" --xla_cpu_max_isa={ISA}" if ISA else "")
if jax.__version_info__[:2] == (0, 10):
    cheap += " --xla_cpu_use_fusion_emitters=false --xla_cpu_experimental_ynn_fusion_type="
    cheap += " --xla_cpu_parallel_codegen_split_count=1 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("XLA_FLAGS", cheap)  # read when jax first looks for devices

# Before anything imports keras, which would take TensorFlow, and write its settings into the home folder.
os.environ["KERAS_BACKEND"] = "jax"
os.environ["KERAS_HOME"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "keras")

keep_freed_memory()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiled programs are kept: both workers, the examples' processes and the next run share them.
PROGRAMS = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / f"jax{ISA}")
)
jax.config.update("jax_compilation_cache_dir", PROGRAMS)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")  # for the examples' processes
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# XLA makes no float16 program for a processor without F16C.
FLOAT16 = pytest.param(
    jnp.float16, marks=pytest.mark.skipif(ISA == "SSE4_2", reason="XLA needs F16C to compile float16")
)

# Tracing allocates by the million; looking through all of it at every turn costs more the longer a run lasts.
collect_seldom()

# A busy machine decides no test.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("any machine")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the tests that CI's minutes have no room for")
    parser.addoption("--golden", action="store_true", help="rewrite golden figures whose version was raised")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="long: scripts/test --long runs it")
        for item in items:
            if "long" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop a file's compiled programs after it: gigabytes otherwise, that slow all that follow."""
    yield
    jax.clear_caches()
    gc.collect()


class Linear(Struct):
    """logits = flatten(x) @ weights + bias: every gradient and boundary in closed form."""

    weights: jax.Array  # [D, K]
    bias: jax.Array  # [K]

    def __call__(self, x: Images) -> Logits:
        flat = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return flat @ self.weights.astype(flat.dtype) + self.bias.astype(flat.dtype)[None, :]


class Noisy(Struct):
    """A randomised model: fresh Gaussian noise on the input, one key per row."""

    base: Linear
    keys: jax.Array
    scale: float | jax.Array = 0.05

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x: Images) -> Logits:
        if self.keys.shape != x.shape[:1]:
            raise ValueError(f"{self.keys.shape} keys for {x.shape[0]} rows")
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(self.keys)
        return self.base(x + self.scale * noise)


class Scaled(Struct):
    """Another model's logits times a factor."""

    base: object
    factor: float | jax.Array = 1.0

    def __call__(self, x: Images) -> Logits:
        return self.factor * self.base(x)


def make_linear(shape=(4, 4, 1), classes=3, seed=0, scale=1.0) -> Linear:
    size = shape[0] * shape[1] * shape[2]
    weights = scale * jax.random.normal(jax.random.key(seed), (size, classes))
    # The middle of the box is where all classes meet, so that labels are balanced.
    return Linear(weights, -0.5 * weights.sum(axis=0))


def make_images(rows=8, shape=(4, 4, 1), seed=1) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (rows, *shape))


@pytest.fixture(scope="session")
def linear() -> Linear:
    return make_linear()


@pytest.fixture(scope="session")
def images() -> jax.Array:
    return make_images()


@pytest.fixture(scope="session")
def tiny_cnn() -> nnx.Module:
    model = models.build("small_cnn", (8, 8, 1), 10, seed=3)
    model.eval()
    return model


_COMPILED: list[str] = []


def _note(event: str, duration: float, **details) -> None:
    del duration
    if event.endswith("backend_compile_duration"):
        _COMPILED.append(str(details.get("fun_name", "")))


jax.monitoring.register_event_duration_secs_listener(_note)


@pytest.fixture
def compiles() -> Callable:
    """``with compiles() as count: ...; count("PGD")`` counts back-end compiles of jit(PGD) in the block."""

    @contextmanager
    def counting() -> Iterator[Callable[..., int]]:
        first = len(_COMPILED)
        yield lambda name="": sum(name in compiled for compiled in _COMPILED[first:])

    return counting


@pytest.fixture(scope="session")
def predict() -> Callable:
    return jax.jit(lambda model, x: jnp.argmax(model(x), axis=-1))


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory) -> tuple[nnx.Module, jax.Array, jax.Array]:
    """A small CNN trained on digits for a few epochs, with 100 test images it classifies correctly."""
    import dataclasses

    from deepsec_jax import data, training

    digits = data.load("digits")
    recipe = dataclasses.replace(training.recipe("digits-small"), name="tests", epochs=6)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes kinds of numbers
        model = training.train(recipe, digits, tmp_path_factory.mktemp("digits") / "model").model
    x, labels = jnp.asarray(digits.test.images), jnp.asarray(digits.test.labels)
    correct = jnp.argmax(model(x), axis=-1) == labels
    return model, x[correct][:100], labels[correct][:100]
