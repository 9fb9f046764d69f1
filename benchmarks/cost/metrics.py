"""How fast are the device metrics?  Images a second through all of them, and the model's own share of that.

The columns need the model on four sets of images: the adversarial ones, rounded, blurred and compressed.
The share is the time of those four forward passes, each a separately jitted call on the same batches, over
the time of everything.  Both are measured in turns, batch group by batch group, in one process.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.results import table, write_json
from benchmarks.subjects import load_subject, subject_title
from deepsec_jax.evaluation.measured import measure_cell
from deepsec_jax.metrics import METRICS
from deepsec_jax.progress import progress

FORWARDS = 4
DEVICE = tuple(name for name, column in METRICS.items() if not column.host)


def main() -> None:
    """Measure one subject; print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="model folder or random:<model>")
    parser.add_argument("--n", type=int, default=100_000, help="images in all, rows of the set in turn")
    parser.add_argument("--group", type=int, default=5_000, help="images between two looks at the clock")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    subject = load_subject(options.subject, min(options.n, 1000), data_dir=options.data_dir)
    forward = jax.jit(lambda model, x: model(x))
    noise = np.random.default_rng(0)

    def group_of(first: int, size: int) -> dict[str, np.ndarray]:
        rows = np.arange(first, first + size) % len(subject.images)
        x = subject.images[rows]
        moved = x + np.float32(0.1) * noise.choice([-1, 1], size=x.shape).astype(np.float32)
        return {
            "x": x, "x_adv": np.clip(moved, 0, 1), "labels": subject.labels[rows],
            "targets": np.full(size, -1, np.int32),
        }  # fmt: skip

    def forwards(arrays: dict[str, np.ndarray]) -> None:
        for start in range(0, len(arrays["x"]) // options.batch * options.batch, options.batch):
            for _ in range(FORWARDS):
                jax.block_until_ready(forward(subject.model, arrays["x_adv"][start : start + options.batch]))

    def everything(arrays: dict[str, np.ndarray]) -> None:
        measure_cell(subject.model, arrays, names=DEVICE, batch_size=options.batch)

    warm = group_of(0, 2 * options.batch)
    forwards(warm), everything(warm)
    spent = {"everything": 0.0, "forwards": 0.0}
    done = 0
    with progress("metrics", options.n) as advance:
        while done < options.n:
            size = min(options.group, options.n - done)
            arrays = group_of(done, size)
            spent["forwards"] += seconds(forwards, arrays)
            spent["everything"] += seconds(everything, arrays)
            done += size
            advance(size)
    rate, share = options.n / spent["everything"], spent["forwards"] / spent["everything"]
    title = subject_title(options.subject)
    write_json(options.out, f"metrics-rate-{title}", {
        "subject": options.subject, "note": subject.note, "images": options.n, "columns": DEVICE,
        "seconds": spent, "images_per_second": rate, "share_of_forwards": share,
    })  # fmt: skip
    head = ["model", "images", "device columns", "images/s", "share of the model's forwards"]
    print(table(head, [[title, options.n, len(DEVICE), rate, share]]))


def seconds(call: Callable[[dict[str, np.ndarray]], Any], arrays: dict[str, np.ndarray]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    call(arrays)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
