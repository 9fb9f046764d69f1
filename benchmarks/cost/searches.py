"""What the searches for the smallest change cost: calls per image, time above them, work saved, memory.

Calls are what the attack counts itself (``attacks.count_calls``).  The bare sum is calls x the time of ONE
separately jitted value-and-gradient (forward) on the same batch, outside any loop, timed before and after
the attack.  A Jacobian's backward passes count as gradients, so DeepFool and JSMA's logits map, which
share one forward among them, may lie below 1.

Saved by early ends: 1 - calls / (rows x the most that the settings allow).  Saved by compaction: 1 - steps
computed in the falling batch sizes / (rows x the slowest row's steps).
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cost.attacks import bare_forward, bare_gradient, seconds
from benchmarks.results import table, verdict, write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.attacks.compaction import phase_sizes
from deepsec_jax.attacks.cost import cost
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.progress import progress

SEVEN = ("deepfool", "uap", "optmargin", "jsma", "blb", "cw2", "ead")
BAR = 1.15


def main() -> None:
    """Measure each attack on the subject; print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="model folder, or random:<model>")
    parser.add_argument("--attacks", nargs="+", default=[name for name in SEVEN if name != "uap"])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=0, help="steps a search step; 0: the preset's")
    parser.add_argument("--search-steps", type=int, default=0, help="constants; 0: the preset's")
    parser.add_argument(
        "--memory", action="store_true", help="peak memory of each attack in a process of its own"
    )
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    subject = load_subject(options.subject, options.batch, data_dir=options.data_dir)
    if options.child:
        jax.block_until_ready(run(subject, chosen(options.attacks[0], subject, options)))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    found = {}
    with progress(subject_title(options.subject), len(options.attacks)) as advance:
        for name in options.attacks:
            found[name] = measure(subject, chosen(name, subject, options))
            if options.memory:
                found[name]["peak_mb"] = peak_memory(name, options)
            advance(1, name)
    rows = [
        [name, f["success"], f["gradients"], f["forwards"], f["ms_per_image"], f["ratio"], f["saved_early"],
         f["saved_compaction"], f["compile_seconds"], f.get("peak_mb", "-"), verdict(f["ratio"] <= BAR)]
        for name, f in found.items()
    ]  # fmt: skip
    head = ["attack", "success", "gradients/AE", "forwards/AE", "ms/AE", "over bare", "saved early",
            "saved by compaction", "compile s", "peak MB", f"<= {BAR}"]  # fmt: skip
    print(table(head, rows))
    payload = {
        "subject": options.subject, "note": subject.note, "batch": len(subject.images),
        "steps": options.steps, "search_steps": options.search_steps, "bar": BAR, "attacks": found,
    }  # fmt: skip
    write_json(options.out, f"search-cost-{subject_title(options.subject)}-{options.batch}", payload)


def chosen(name: str, subject: Subject, options: argparse.Namespace) -> Any:
    """Return the preset, with the number of steps that the command line asks for."""
    attack: Any = attacks.preset(name, subject.presets)
    if options.steps and hasattr(attack, "steps"):
        attack = attack.replace(steps=options.steps)
    if options.search_steps and hasattr(attack, "search_steps"):
        attack = attack.replace(search_steps=options.search_steps)
    return attack


def run(subject: Subject, attack: Any) -> Any:
    """Return the images and counts of one batch."""
    x, labels = jnp.asarray(subject.images), jnp.asarray(subject.attack_labels(attack))
    return attacks.count_calls(attack, subject.model, x, labels, key=jax.random.key(0))


def measure(subject: Subject, attack: Any) -> dict[str, Any]:
    """Time one attack once, after compilation, between two looks at its bare calls."""
    x, labels = jnp.asarray(subject.images), jnp.asarray(subject.attack_labels(attack))
    gradient, forward = bare_gradient(subject.model, logit_gap), bare_forward(subject.model)
    started = time.perf_counter()
    lowered = jax.jit(lambda a, m, x, y, k: attacks.count_calls(a, m, x, y, key=k)).lower(
        attack, subject.model, x, labels, jax.random.key(0)
    )
    lowered.compile()
    compile_seconds = time.perf_counter() - started
    result = jax.block_until_ready(run(subject, attack))  # compiles and runs once
    bare = {"gradient": 0.0, "forward": 0.0}
    for side, call in (("gradient", lambda: gradient(x, labels)), ("forward", lambda: forward(x))):
        seconds(call, 2)
        bare[side] = seconds(call, 5) / 2
    started = time.perf_counter()
    jax.block_until_ready(run(subject, attack))
    spent = time.perf_counter() - started
    bare["gradient"] += seconds(lambda: gradient(x, labels), 5) / 2
    bare["forward"] += seconds(lambda: forward(x), 5) / 2

    rows = len(subject.images)
    gradients, forwards = np.asarray(result.gradients, float), np.asarray(result.forwards, float)
    sum_of_calls = (gradients.sum() * bare["gradient"] + forwards.sum() * bare["forward"]) / rows
    goal = subject.attack_labels(attack)
    answers = np.asarray(jnp.argmax(forward(result.x), axis=-1))
    success = (answers == goal) if getattr(attack, "targeted", False) else (answers != goal)
    stated = cost(attack, classes=subject.classes, entries=subject.images[0].size)
    most = None if stated is None else int(stated.gradients)
    return {
        "success": float(success.mean()), "gradients": gradients.mean(), "forwards": forwards.mean(),
        "ms_per_image": 1e3 * spent / rows, "ratio": spent / sum_of_calls,
        "bare_gradient_ms": 1e3 * bare["gradient"] / rows, "bare_forward_ms": 1e3 * bare["forward"] / rows,
        "saved_early": 1.0 - gradients.sum() / (rows * most) if most else float("nan"),
        "saved_compaction": 1.0 - computed(gradients) / (rows * gradients.max()),
        "compile_seconds": compile_seconds,
    }  # fmt: skip


def computed(steps: np.ndarray) -> float:
    """Return the row-steps that the falling batch sizes compute for rows that take ``steps`` each."""
    falling = np.sort(steps)[::-1]
    total, before = 0.0, 0.0
    sizes = phase_sizes(len(steps))
    for size, below in zip(sizes, (*sizes[1:], 0), strict=True):
        until = falling[below] if below < len(falling) else 0.0  # then at most ``below`` rows are live
        total += size * max(0.0, until - before)
        before = max(before, until)
    return total


def peak_memory(name: str, options: argparse.Namespace) -> float:
    """Return the peak resident memory of a process that runs the attack, in MB."""
    command = [
        sys.executable, "-m", "benchmarks.cost", "searches", options.subject, "--attacks", name,
        "--batch", str(options.batch),
        "--steps", str(options.steps or 20), "--search-steps", str(options.search_steps or 2), "--child",
    ]  # fmt: skip
    command += ["--data-dir", options.data_dir] if options.data_dir else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
