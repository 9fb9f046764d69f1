"""What an attack compiles to, beside the bare gradient of the same batch; nothing is run.

Counted: how often the model is traced, seconds of this process to trace and lower, and to compile, memory
of the program's temporaries, and XLA's count of operations and bytes.  XLA counts the body of a loop once,
so operations and bytes are those of one step of each loop.

Programs of a CPU and of an accelerator differ: a CPU steps 16 rows at a time, and takes a Jacobian class by
class.  Both kinds are compiled for the CPU here, which needs no accelerator.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from deepsec_jax.attacks import compaction, gradient, rewriting
from deepsec_jax.attacks.call import call_and_count
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.protocols import Images, Logits
from deepsec_jax.pytree import Struct

KINDS = ("cpu", "accelerator")


class Traced(Struct):
    """A model that counts how often it is traced, in ``Traced.times``."""

    model: Any

    times = 0

    def __call__(self, x: Images) -> Logits:
        """Return the model's logits."""
        Traced.times += 1
        logits: Logits = self.model(x)
        return logits


def program(attack: Any, model: Any, x: jax.Array, labels: jax.Array, *, kind: str = "cpu") -> dict[str, Any]:
    """Return the figures of an attack's program.

    Args:
        attack: the attack.
        model: a pytree callable.
        x: images [B, H, W, C].
        labels: of the attack, [B].
        kind: of :data:`KINDS`.
    """

    def run(attack: Any, model: Any, x: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        return call_and_count(attack, model, x, labels, key=key)

    with programs_of(kind):
        return _figures(run, attack, Traced(model), x, labels, jax.random.key(0))


def bare_program(model: Any, x: jax.Array, labels: jax.Array, *, kind: str = "cpu") -> dict[str, Any]:
    """Return the figures of one gradient by the images, as attacks compute it."""

    def run(model: Any, x: jax.Array, labels: jax.Array) -> Any:
        def objective(x: jax.Array) -> tuple[jax.Array, Logits]:
            logits = model(x)
            return logit_gap(logits, labels), logits

        return value_and_gradient(objective, x)

    with programs_of(kind):
        return _figures(run, Traced(model), x, labels)


@contextmanager
def programs_of(kind: str) -> Iterator[None]:
    """Trace as for a CPU or as for an accelerator while the block runs."""
    modules: tuple[Any, ...] = (compaction, gradient, rewriting)
    before = [module.on_cpu for module in modules]
    jax.clear_caches()  # what was traced for the other kind
    try:
        for module in modules:
            module.on_cpu = lambda: kind == "cpu"
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.on_cpu = own
        jax.clear_caches()


def _figures(run: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    Traced.times = 0
    started = time.process_time()
    lowered = jax.jit(run).lower(*arguments)
    traced = time.process_time()
    compiled = lowered.compile()
    memory, counted = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return {
        "traces": Traced.times, "lower_seconds": traced - started,
        "compile_seconds": time.process_time() - traced,
        "temporary_mb": memory.temp_size_in_bytes / 1e6, "argument_mb": memory.argument_size_in_bytes / 1e6,
        "gflop": counted.get("flops", float("nan")) / 1e9,
        "gigabytes": counted.get("bytes accessed", float("nan")) / 1e9,
    }  # fmt: skip


def batch(side: int, channels: int, classes: int, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return uniform images, labels and targets that differ from them."""
    images = jax.random.uniform(jax.random.key(1), (rows, side, side, channels), jnp.float32)
    labels = jnp.arange(rows, dtype=jnp.int32) % classes
    return images, labels, (labels + 1) % classes
