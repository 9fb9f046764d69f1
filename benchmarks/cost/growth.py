"""How does the cost of an attack grow with batch, steps, classes and side of the image?

One thing at a time is doubled or more, from a small base; an exponent is the slope of log cost against log
size, over the last two sizes.  1 is linear.

- ``operations`` and ``memory``: of the program, from XLA, for one step of each loop.
- ``calls``: stated by the attack, of every image.
- ``seconds``: of the processor, for one run, the least of ``--runs``.

The same figures of one gradient stand beside them.  A gradient of the convolutional network here grows with
the square of the side, so an attack that adds nothing has the exponents of the gradient.
"""

import argparse
import math
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.cost.programs import bare_program, batch, program
from benchmarks.results import table, write_json
from deepsec_jax import attacks
from deepsec_jax.attacks.cost import cost
from deepsec_jax.protocols import Images, Logits

AXES: dict[str, tuple[int, ...]] = {
    "batch": (16, 64, 256), "steps": (10, 40, 160), "classes": (10, 100, 1000), "side": (28, 64, 128),
}  # fmt: skip
BASE = {"batch": 16, "steps": 10, "classes": 10, "side": 28}
FIGURES = ("operations", "memory", "calls", "seconds")


def main() -> None:
    """Measure every attack along every axis; print the exponents, write the JSON after each attack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--sizes", nargs="+", type=int, help="other sizes of the one axis")
    parser.add_argument("--runs", type=int, default=2, help="runs of each program; 0 measures no seconds")
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    if options.sizes and len(options.axes) > 1:
        parser.error("--sizes needs one of --axes")
    found: dict[str, Any] = {}
    for name in ("gradient", *options.attacks):
        found[name] = {}
        for axis in options.axes:
            if name == "gradient" and axis == "steps":
                continue
            sizes = options.sizes or AXES[axis]
            print(f"{name}: {axis}", file=sys.stderr)
            measured = [measure(name, {**BASE, axis: size}, options.runs) for size in sizes]
            found[name][axis] = {"sizes": list(sizes), "measured": measured, **exponents(sizes, measured)}
        write_json(options.out, "growth", {"base": BASE, "attacks": found})
    rows = [
        [name, axis, *(figures["exponents"][each] for each in FIGURES)]
        for name, axes in found.items()
        for axis, figures in axes.items()
    ]
    print(table(["attack", "axis", *FIGURES], rows))


def exponents(sizes: Any, measured: list[dict[str, float]]) -> dict[str, Any]:
    """Return the exponent of each figure between the last two sizes; NaN for what was not measured."""

    def slope(before: float, after: float) -> float:
        known = before > 0 and after > 0
        return math.log(after / before) / math.log(sizes[-1] / sizes[-2]) if known else math.nan

    return {"exponents": {each: slope(measured[-2][each], measured[-1][each]) for each in FIGURES}}


def measure(name: str, size: dict[str, int], runs: int) -> dict[str, float]:
    """Return the figures of one attack, or of ``gradient``, at one size."""
    model = network(size["classes"])
    x, labels, targets = batch(size["side"], 1, size["classes"], size["batch"])
    if name == "gradient":
        made, calls = bare_program(model, x, labels, kind="accelerator"), 1.0
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(model(x))))
        spent = least_seconds(lambda: gradient(x), runs)
    else:
        attack = ATTACKS[name](size["steps"])
        stated = cost(attack, classes=size["classes"], entries=x[0].size)
        calls = math.nan if stated is None else stated.forwards + stated.gradients
        goal = targets if getattr(attack, "targeted", False) else labels
        made = program(attack, model, x, goal, kind="accelerator")
        spent = least_seconds(lambda: attack(model, x, goal, key=jax.random.key(0)), runs)
    return {
        "operations": 1e9 * made["gflop"], "memory": 1e6 * made["temporary_mb"], "calls": calls,
        "seconds": spent,
    }  # fmt: skip


def least_seconds(call: Any, runs: int) -> float:
    """Return the least processor time of a call, after one that compiles; NaN for no runs."""
    least = math.nan
    for run in range(runs + 1 if runs else 0):
        started = time.process_time()
        jax.block_until_ready(call())
        least = math.nan if run == 0 else min(time.process_time() - started, least if run > 1 else math.inf)
    return least


def network(classes: int) -> Any:
    """Return two convolutions, a mean over the image and a dense layer, with random weights."""
    first, second, dense = jax.random.split(jax.random.key(0), 3)
    weights = (
        jax.random.normal(first, (3, 3, 1, 8)) / 3,
        jax.random.normal(second, (3, 3, 8, 16)) / 8,
        jax.random.normal(dense, (16, classes)),
    )
    return jax.tree_util.Partial(_logits, weights)


def _logits(weights: Any, x: Images) -> Logits:
    for kernel in weights[:2]:
        x = jax.nn.relu(
            lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
    logits: Logits = x.mean(axis=(1, 2)) @ weights[2]
    return logits


def _jsma(steps: int) -> Any:
    """Return JSMA with this number of pairs at side 28."""
    return attacks.JSMA(gamma=2 * steps / 28**2)


ATTACKS = {
    "pgd": lambda steps: attacks.PGD(eps=0.1, step_size=0.01, steps=steps),
    "deepfool": lambda steps: attacks.DeepFool(steps=steps),
    "cw2": lambda steps: attacks.CW2(steps=steps, search_steps=1, abort_early=False),
    "jsma": _jsma,
    "autoattack": lambda steps: attacks.AutoAttack(eps=0.0, steps=steps, queries=steps),
}
"""Each with this number of steps; AutoAttack in a ball of radius 0, where no image ends early."""


if __name__ == "__main__":
    main()
