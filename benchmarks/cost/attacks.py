"""What an attack costs beyond its gradients: its time over that of the bare calls it cannot do without.

Bare cost = number of calls x the time of ONE separately jitted value-and-gradient (or forward) call on the
same device-resident batch, outside any loop.  The value is the summed attack loss, the gradient is by the
images, and the logits come back too.  The weights go in as a flat list of arrays, so that walking through
a module at each call does not make the bare side slower.

One pair = bare calls, one attack, bare calls; its ratio divides the attack's time by what the pair's own
mean bare times predict.  Medians and quartiles are over the pairs, so slow drift of the machine cancels.
The calls are those that the attack declares: for s steps s gradients and one forward pass (the last
iterate's), for ``illc`` one forward pass more (the least likely class), for ``apgd`` s + 1 gradients.  An
attack that ends a row with its first success is measured without that, so that all rows make all calls.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import quartiles, table, verdict, write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.progress import progress

BAR = 1.10
ITERATIVE = ("bim", "pgd", "umifgsm", "illc", "tmifgsm")


def main() -> None:
    """Measure every iterative attack on each subject; print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="+", help="model folders, plain, plain-nhwc, random:<model>")
    parser.add_argument("--attacks", nargs="+", default=list(ITERATIVE))
    parser.add_argument("--batch", type=int, default=100, help="rows in the one batch")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--calls", type=int, default=0, help="bare gradients in a pair; 0: as many as steps")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    rows = []
    for name in options.subjects:
        subject = load_subject(name, options.batch, data_dir=options.data_dir)
        found = {}
        for attack in options.attacks:
            found[attack] = measure(subject, attack, pairs=options.pairs, calls=options.calls)
            ratio = found[attack]["ratio"]
            rows.append([
                subject_title(name), attack, found[attack]["attack_ms"]["median"],
                found[attack]["gradient_ms"]["median"], found[attack]["forward_ms"]["median"],
                ratio["median"], f"{ratio['q25']:.3f}-{ratio['q75']:.3f}",
                found[attack]["ratio_of_least"], verdict(ratio["median"] <= BAR),
            ])  # fmt: skip
        payload = {
            "subject": name,
            "note": subject.note,
            "batch": len(subject.images),
            "bar": BAR,
            "attacks": found,
        }
        write_json(options.out, f"bare-cost-{subject_title(name)}", payload)
    head = ["model", "attack", "attack ms", "gradient ms", "forward ms", "ratio", "quartiles", "least/least",
            f"<= {BAR}"]  # fmt: skip
    print(table(head, rows))


def measure(subject: Subject, name: str, *, pairs: int, calls: int) -> dict[str, Any]:
    """Time ``pairs`` pairs of one attack and its bare calls; times in ms of one call."""
    attack: Any = attacks.preset(name, subject.presets)
    attack = attack.replace(stops=False) if hasattr(attack, "stops") else attack
    declared = attack.cost(subject.classes, int(np.prod(subject.images.shape[1:])))
    gradients, forwards = int(declared.gradients), int(declared.forwards)
    x, labels = jnp.asarray(subject.images), jnp.asarray(subject.attack_labels(attack))
    key = jax.random.key(0)
    gradient, forward = bare_gradient(subject.model, attack.loss), bare_forward(subject.model)
    half = max(1, (calls or gradients) // 2)
    sides = {
        "gradient": lambda: gradient(x, labels),
        "forward": lambda: forward(x),
        "attack": lambda: attack(subject.model, x, labels, key=key),
    }
    for side in sides.values():
        seconds(side, 2)  # compile, and let the allocator settle
    times: dict[str, list[float]] = {side: [] for side in sides}
    ratios = []
    with progress(f"{subject_title(subject.name)} {name}", pairs) as advance:
        for _ in range(pairs):
            forward_time = seconds(sides["forward"], 2)
            gradient_time = seconds(sides["gradient"], half)
            attack_time = seconds(sides["attack"], 1)
            gradient_time = (gradient_time + seconds(sides["gradient"], half)) / 2
            forward_time = (forward_time + seconds(sides["forward"], 2)) / 2
            ratios.append(attack_time / (gradients * gradient_time + forwards * forward_time))
            for which, spent in zip(sides, (gradient_time, forward_time, attack_time), strict=True):
                times[which].append(1e3 * spent)
            advance(1, f"ratio {np.median(ratios):.3f}")
    least = {side: min(values) for side, values in times.items()}
    return {
        "gradients": gradients, "forwards": forwards, "pairs": pairs, "bare_gradients_a_pair": 2 * half,
        "ratio": quartiles(ratios), **{f"{side}_ms": quartiles(values) for side, values in times.items()},
        "ratio_of_least": least["attack"] / (gradients * least["gradient"] + forwards * least["forward"]),
    }  # fmt: skip


def bare_gradient(model: Any, loss: Callable[..., jax.Array]) -> Callable[[jax.Array, jax.Array], Any]:
    """Return ``(x, labels) -> ((value, logits), gradient)``, compiled by itself."""
    leaves, tree = jax.tree.flatten(model)

    def total(x: jax.Array, leaves: list[jax.Array], labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = jax.tree.unflatten(tree, leaves)(x)
        return jnp.sum(loss(logits, labels)), logits

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))
    return lambda x, labels: compiled(x, leaves, labels)


def bare_forward(model: Any) -> Callable[[jax.Array], jax.Array]:
    """Return ``x -> logits``, compiled by itself."""
    leaves, tree = jax.tree.flatten(model)
    compiled = jax.jit(lambda x, leaves: jax.tree.unflatten(tree, leaves)(x))
    return lambda x: compiled(x, leaves)


def seconds(call: Callable[[], Any], times: int) -> float:
    """Return the mean time of one call, each awaited before the next."""
    started = time.perf_counter()
    for _ in range(times):
        jax.block_until_ready(call())
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    main()
