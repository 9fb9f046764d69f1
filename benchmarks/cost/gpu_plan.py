"""How fast is each attack on this machine, by batch size?

For every attack and batch size: images a second, seconds to compile, memory per image, and the time over
that of the bare calls, gradients and forward passes compiled by themselves at the same batch size.  Where an
attack counts the calls of its images, the mean is taken.  A batch that does not fit into memory is recorded
as such, and larger ones are not tried.

The default batch sizes are for an accelerator; a CPU takes smaller ones.  Figures are the fastest of
``--runs``.
"""

import argparse
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cost.attacks import bare_forward, bare_gradient, seconds
from benchmarks.results import table, write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.attacks.call import call_and_count
from deepsec_jax.attacks.cost import cost
from deepsec_jax.attacks.losses import logit_gap

BATCHES = (128, 256, 512, 1024, 2048, 4096, 8192)
FITTED = ("uap",)
"""Attacks that are fitted to a set of images, not run on a batch."""


def main() -> None:
    """Measure each attack on each subject; print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="+", help="model folders, plain, plain-nhwc, random:<model>")
    parser.add_argument(
        "--attacks", nargs="+", default=[name for name in attacks.ATTACKS if name not in FITTED]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each attack")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    rows = []
    for name in options.subjects:
        subject = load_subject(name, max(options.batches), data_dir=options.data_dir)
        found: dict[str, dict[str, Any]] = {}
        for attack in options.attacks:
            found[attack] = {}
            for batch in sorted(options.batches):
                print(f"{subject_title(name)} {attack} {batch}", file=sys.stderr)
                figures = measure(subject, attack, batch, runs=options.runs)
                found[attack][str(batch)] = figures
                rows.append([subject_title(name), attack, batch, *figures.values()])
                if not figures["fits"]:
                    break
        payload = {"subject": name, "note": subject.note, "runs": options.runs, "attacks": found}
        write_json(options.out, f"gpu-plan-{subject_title(name)}", payload)
    head = ["model", "attack", "batch", "fits", "images/s", "over bare", "gradients", "forwards", "compile s",
            "kB/image"]  # fmt: skip
    print(table(head, rows))


def measure(subject: Subject, name: str, batch: int, *, runs: int) -> dict[str, Any]:
    """Return the figures of one attack at one batch size; NaN for what is unknown or does not fit."""
    attack: Any = attacks.preset(name, subject.presets)
    chosen = np.arange(batch) % len(subject.images)
    x = jnp.asarray(subject.images[chosen])
    labels = jnp.asarray(subject.attack_labels(attack)[chosen])
    figures: dict[str, Any] = dict.fromkeys(
        ("images_per_second", "over_bare", "gradients", "forwards", "compile_seconds", "kb_per_image"), np.nan
    )
    try:
        found = _measured(subject, attack, x, labels, runs)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, **figures}
    return {"fits": True, **figures, **found}


def _measured(subject: Subject, attack: Any, x: jax.Array, labels: jax.Array, runs: int) -> dict[str, Any]:
    model, key = subject.model, jax.random.key(0)
    run = jax.jit(lambda attack, model, x, labels, key: call_and_count(attack, model, x, labels, key=key))
    started = time.perf_counter()
    compiled = run.lower(attack, model, x, labels, key).compile()
    spent = time.perf_counter() - started

    def call() -> Any:
        return compiled(attack, model, x, labels, key)

    counted = call()[1]
    least = min(seconds(call, 1) for _ in range(runs))
    memory = compiled.memory_analysis()
    stated = cost(attack, classes=subject.classes, entries=int(np.prod(x.shape[1:])))
    if counted is not None:
        gradients, forwards = float(counted.gradients.mean()), float(counted.forwards.mean())
    elif stated is not None and stated.exact:
        gradients, forwards = stated.gradients, stated.forwards
    else:
        gradients = forwards = np.nan
    gradient, forward = bare_gradient(model, getattr(attack, "loss", logit_gap)), bare_forward(model)
    gradient(x, labels), forward(x)
    bare = gradients * min(seconds(lambda: gradient(x, labels), 1) for _ in range(runs))
    bare += forwards * min(seconds(lambda: forward(x), 1) for _ in range(runs))
    return {
        "images_per_second": len(x) / least, "over_bare": least / bare, "gradients": gradients,
        "forwards": forwards, "compile_seconds": spent,
        "kb_per_image": np.nan if memory is None else memory.temp_size_in_bytes / len(x) / 1e3,
    }  # fmt: skip


if __name__ == "__main__":
    main()
