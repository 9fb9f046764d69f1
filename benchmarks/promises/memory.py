"""Does memory stay flat?  PGD through ``run_in_batches`` over 10,000 and 100,000 images.

Images and results are memory-mapped files; each size runs in a process of its own, where a thread samples
``/proc/self/status``: RssAnon is memory the program owns, VmHWM (the kernel's own peak) also counts the
mapped file pages that happen to be resident, which the kernel may drop at any time.  Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import table, verdict, write_json

BAR = 1.05


def main() -> None:
    """Run each size in its own process, compare their peaks, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subject", default="random:mnist_cnn", help="model folder or random:<model>")
    parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--steps", type=int, default=15, help="PGD steps; memory does not depend on them")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument(
        "--folder", default=None, help="where the mapped files go (default: a temporary folder)"
    )
    parser.add_argument("--out", default="benchmarks/results")
    parser.add_argument("--child", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(measure(options, options.child)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = []
        for size in options.sizes:
            command = [
                sys.executable,
                "-m",
                "benchmarks.promises.memory",
                *sys.argv[1:],
                "--folder",
                folder,
                "--child",
                str(size),
            ]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(json.loads(answer.splitlines()[-1]))
    small, large = found
    ratios = {name: large[name] / small[name] for name in ("anon_mb", "high_water_mb")}
    write_json(options.out, "memory", {"bar": BAR, "runs": found, "ratios": ratios})
    rows = [[run["images"], run["anon_mb"], run["high_water_mb"], run["seconds"]] for run in found]
    rows.append(["ratio", ratios["anon_mb"], ratios["high_water_mb"], "-"])
    print(table(["images", "peak RssAnon MB", "VmHWM MB", "seconds"], rows))
    print(f"RssAnon ratio <= {BAR}: {verdict(ratios['anon_mb'] <= BAR)}")


def measure(options: argparse.Namespace, size: int) -> dict[str, float]:
    """Attack ``size`` mapped images into a mapped file; return peaks in MB and the time in seconds."""
    import jax

    from benchmarks.subjects import load_subject
    from deepsec_jax import attacks
    from deepsec_jax.progress import progress

    subject = load_subject(options.subject, 256, data_dir=options.data_dir)
    folder = Path(options.folder)
    shape = (size, *subject.images.shape[1:])
    images = np.lib.format.open_memmap(folder / f"x-{size}.npy", "w+", np.float32, shape)
    labels = np.resize(subject.labels, size)
    for start in range(0, size, 256):
        images[start : start + 256] = subject.images[: min(256, size - start)]
    images.flush()
    images = np.lib.format.open_memmap(folder / f"x-{size}.npy", "r")
    out = np.lib.format.open_memmap(folder / f"x-adv-{size}.npy", "w+", np.float32, shape)
    paper: Any = attacks.preset("pgd", subject.presets)
    attack = paper.replace(steps=options.steps)
    with peak_anonymous() as peak, progress(f"pgd on {size}", size) as advance:
        started = time.perf_counter()
        attacks.run_in_batches(
            attack, subject.model, images, labels, key=jax.random.key(0), batch_size=options.batch, out=out,
            on_batch=advance,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    moved = float(np.abs(np.asarray(out[-256:]) - np.asarray(images[-256:])).max())
    if not moved > 0:
        raise RuntimeError("the last images were not attacked: the figures mean nothing")
    return {
        "images": size,
        "anon_mb": max(peak) / 1024,
        "high_water_mb": status("VmHWM") / 1024,
        "seconds": seconds,
    }


@contextmanager
def peak_anonymous(every: float = 0.01) -> Iterator[list[int]]:
    """Sample RssAnon in kB while the block runs; the list's maximum is the peak."""
    samples, done = [status("RssAnon")], threading.Event()

    def sample() -> None:
        while not done.wait(every):
            samples.append(max(samples.pop(), status("RssAnon")))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def status(field: str) -> int:
    """Return one line of ``/proc/self/status`` in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux")


if __name__ == "__main__":
    main()
