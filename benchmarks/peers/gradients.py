"""The gradient with respect to the images: ours against PyTorch's, same weights and images, one run.

Ours is the one that every attack takes, ``attacks.gradient.value_and_gradient``, compiled by itself.  Beside
it stands ``jax.grad`` as it is, and the largest difference between the two, relative to the largest entry.
PyTorch runs in a child process (``torch_eps_attacks.py``), in its faster memory format; its logits must equal
ours to 1e-4.  It sleeps while we compute, and the other way round.

``--clock process_time`` counts seconds of the processor.  On one core (``taskset``) they are the time on an
idle machine, also if other programs run beside it.

In each round all of them take the gradient of every batch size in turn.  Everyone's best batch size is the
one with the least median; the ratio is the median over rounds of ours / PyTorch's at these.

    python -m benchmarks.peers.gradients pretrained/mnist-paper random:alexnet --peers-python peers/bin/python
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cost.attacks import bare_gradient
from benchmarks.peers.child import Child, check_logits, choose_format
from benchmarks.results import quartiles, table, verdict, write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import cross_entropy
from deepsec_jax.memory import keep_freed_memory
from deepsec_jax.progress import progress

POOLED = ("mnist_cnn", "small_cnn", "alexnet")
"""Networks with max-pools."""

SIDES = ("ours", "jax.grad", "torch")


def main() -> None:
    """Measure every network, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("subjects", nargs="+", help="model folders, random:<model>")
    parser.add_argument("--peers-python", required=True, help="Python with torch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="to spend on a batch size in a round")
    parser.add_argument("--batches", nargs="+", type=int, default=[50, 100, 250])
    parser.add_argument("--threads", type=int, default=cores, help="torch threads; default: our cores")
    parser.add_argument("--clock", choices=("perf_counter", "process_time"), default="perf_counter")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for name in options.subjects:
        subject = load_subject(name, max(options.batches), data_dir=options.data_dir)
        with (
            tempfile.TemporaryDirectory() as folder,
            Child(subject, Path(folder), python=options.peers_python, threads=options.threads) as child,
        ):
            found = {"logit_difference": check_logits(subject, child, Path(folder))}
            found |= measure(subject, child, options.batches, options.rounds, options.seconds, options.clock)
        bar = 1.05 if subject.network in POOLED else 1.25
        payload = {
            "subject": name,
            "note": subject.note,
            "peers": child.hello,
            "bar": bar,
            "clock": options.clock,
            **found,
        }
        write_json(options.out, f"gradients-{subject_title(name)}", payload)
        ratio = found["ratio"]
        rows.append([
            subject_title(name),
            *(f"{1e3 * found['best'][side]['seconds']:.3f} at {found['best'][side]['batch']}"
              for side in SIDES),
            ratio["median"], f"{ratio['q25']:.2f}-{ratio['q75']:.2f}", found["ratio_of_least"],
            found["difference"], bar, verdict(ratio["median"] <= bar),
        ])  # fmt: skip
    head = ["model", *(f"{side}, ms" for side in SIDES), "ours/torch", "quartiles", "least/least",
            "ours - jax.grad", "bar", "ok"]  # fmt: skip
    print(table(head, rows))


def measure(
    subject: Subject, child: Child, batches: list[int], rounds: int, spend: float, clock: str
) -> dict[str, Any]:
    """Return seconds per image by side and batch size, and the ratio at everyone's best."""
    memory, formats = choose_format(child, batches)
    images, labels = jnp.asarray(subject.images), jnp.asarray(subject.labels)
    sides = {"ours": our_gradient(subject.model), "jax.grad": bare_gradient(subject.model, cross_entropy)}
    timers: dict[str, Callable[[int, int], float]] = {
        side: lambda batch, calls, take=take: (
            _seconds(lambda: take(images[:batch], labels[:batch]), calls, clock) / batch
        )
        for side, take in sides.items()
    }
    bare = {"do": "bare", "clock": clock}
    timers["torch"] = lambda batch, calls: child.ask(**bare, batch=batch, calls=calls)["seconds_per_image"]
    for timer in timers.values():
        for batch in batches:
            timer(batch, 1)  # compile
    calls = {batch: max(1, round(spend / (batch * min(formats[memory].values())))) for batch in batches}
    times: dict[str, dict[int, list[float]]] = {side: {batch: [] for batch in batches} for side in timers}
    with progress(subject_title(subject.name), rounds) as advance:
        for index in range(rounds):
            turn = index % len(SIDES)
            for batch in batches:
                for side in SIDES[turn:] + SIDES[:turn]:
                    times[side][batch].append(timers[side](batch, calls[batch]))
            advance(1, "")
    best = {
        side: min(found, key=lambda batch: float(np.median(found[batch]))) for side, found in times.items()
    }
    ours, theirs = times["ours"][best["ours"]], times["torch"][best["torch"]]
    (*_, gradient), (_, plain) = sides["ours"](images, labels), sides["jax.grad"](images, labels)
    return {
        "format": memory, "times": times,
        "best": {
            side: {"batch": batch, "seconds": float(np.median(times[side][batch]))}
            for side, batch in best.items()
        },
        "ratio": quartiles([our / their for our, their in zip(ours, theirs, strict=True)]),
        "ratio_of_least": min(ours) / min(theirs),
        "difference": float(jnp.abs(gradient - plain).max() / jnp.abs(plain).max()),
    }  # fmt: skip


def _seconds(call: Callable[[], Any], times: int, clock: str) -> float:
    """Return the mean time of one call by a clock of Python's ``time``."""
    now = getattr(time, clock)
    started = now()
    for _ in range(times):
        jax.block_until_ready(call())
    return float(now() - started) / times


def our_gradient(model: Any) -> Callable[[jax.Array, jax.Array], Any]:
    """Return ``(x, labels) -> (values, logits, gradient)`` as attacks compute it, compiled by itself."""
    leaves, tree = jax.tree.flatten(model)

    def gradient(x: jax.Array, leaves: list[jax.Array], labels: jax.Array) -> Any:
        def objective(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = jax.tree.unflatten(tree, leaves)(x)
            return cross_entropy(logits, labels), logits

        return value_and_gradient(objective, x)

    compiled = jax.jit(gradient)
    return lambda x, labels: compiled(x, leaves, labels)


if __name__ == "__main__":
    main()
