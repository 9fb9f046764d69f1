"""Does a row's result depend on anything but the row and its key?

Each of the nine attacks runs in batches of 64 on one device, and again in batches of 1 and of 7, with rows
and keys permuted together, and with every batch laid out over 8 fake CPU devices (a child process).
Reported against the first: share of entries off by more than 1e-5, share of rows with another success.

The random numbers must be the same bits.  They are seen in the images of attacks whose gradient step is
zero (``pgd`` with step size 0, ``rfgsm`` and ``rllc`` with alpha = eps): what is left is the random start.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.judging import NINE, judge_rows
from benchmarks.results import table, verdict, write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.progress import progress
from deepsec_jax.randomness import example_keys

DEVICES = 8
REFERENCE = "batches of 64"
WAYS = (REFERENCE, "batches of 1", "batches of 7", "permuted", f"{DEVICES} devices")
ENTRY_BAR, SUCCESS_BAR = 0.01, 0.005


def main() -> None:
    """Run every way, compare with the reference, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="model folder")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--attacks", nargs="+", default=list(NINE))
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    subject = load_subject(options.subject, options.n, data_dir=options.data_dir)
    if options.child is not None:
        run_on_devices(subject, options.attacks, Path(options.child))
        return
    rows: list[dict[str, Any]] = []
    listed: dict[str, dict[str, list[int]]] = {}
    same_bits: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        spread = start_child(Path(folder))
        total = len(options.attacks) * len(WAYS)
        with progress("invariance", total) as advance:
            for name in options.attacks:
                found = {way: images(subject, name, way, Path(folder)) for way in WAYS}
                rows += compare(subject, name, found)
                listed[name] = {way: changed_rows(subject, name, found, way) for way in WAYS[1:]}
                same_bits |= random_bits(subject, name, Path(folder))
                advance(len(WAYS), name)
    passed = all(row["entries_ok"] and row["success_ok"] for row in rows) and all(same_bits.values())
    payload = {
        "subject": options.subject, "note": subject.note, "rows": rows, "rows_with_another_success": listed,
        "random_numbers_same_bits": same_bits, "output_devices": spread, "passed": passed,
    }  # fmt: skip
    write_json(options.out, f"invariance-{subject_title(options.subject)}", payload)
    print(subject.note)
    head = ["attack", "way", "entries > 1e-5 off %", "largest", "other success %", "<= 1 %", "<= 0.5 %"]
    print(table(head, [[*row.values()] for row in rows]))
    for what, same in same_bits.items():
        print(f"random numbers of {what}: {'same bits' if same else 'DIFFER'}")
    print(
        f"devices that hold the sharded output: {spread}; all bars: {verdict(passed and spread == DEVICES)}"
    )


def start_child(folder: Path) -> int:
    """Run this script under 8 fake devices; return how many of them hold its output."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.promises.invariance", *sys.argv[1:], "--child", str(folder)]
    subprocess.run(command, check=True, env=environment)
    return int((folder / "devices").read_text())


def run_on_devices(subject: Subject, names: list[str], folder: Path) -> None:
    """In the child: attack with every batch laid out over all devices; leave the images in the folder."""
    mesh = jax.make_mesh((jax.device_count(),), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    # A loaded model is committed to one device; run_in_batches lays it out itself, a direct call does not.
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    replicated = jax.device_put(subject.model, everywhere)
    first = attacks.preset("pgd", subject.presets)
    count = min(64, len(subject.images) // DEVICES * DEVICES)
    keys = example_keys(jax.random.key(0), count)
    x, labels, keys = jax.device_put((subject.images[:count], subject.labels[:count], keys), sharding)
    output = first(replicated, x, labels, key=keys)
    held = len({shard.device for shard in output.addressable_shards if shard.data.shape[0] < len(x)})
    (folder / "devices").write_text(str(held))
    with progress(f"{DEVICES} devices", len(names)) as advance:
        for name in names:
            for still in (False, True):
                attack = variant(name, subject.presets, still=still)
                if attack is not None:
                    x_adv = run(subject, attack, batch_size=64, sharding=sharding)
                    np.save(folder / f"{name}-{still}.npy", x_adv)
            advance(1, name)


def images(subject: Subject, name: str, way: str, folder: Path, *, still: bool = False) -> np.ndarray:
    """Return the adversarial images of one attack made one way."""
    if way == f"{DEVICES} devices":
        return np.load(folder / f"{name}-{still}.npy")
    attack = variant(name, subject.presets, still=still)
    if way != "permuted":
        return run(subject, attack, batch_size=int(way.split()[-1]))
    order = np.random.default_rng(1).permutation(len(subject.images))
    keys = example_keys(jax.random.key(0), len(order))[order]
    labels = subject.attack_labels(attack)[order]
    x_adv = attacks.run_in_batches(
        attack, subject.model, subject.images[order], labels, key=keys, batch_size=64
    )
    back = np.empty_like(x_adv)
    back[order] = x_adv
    return back


def run(subject: Subject, attack: Any, *, batch_size: int, sharding: Any = None) -> np.ndarray:
    """Attack all rows under one key."""
    labels, key = subject.attack_labels(attack), jax.random.key(0)
    return attacks.run_in_batches(
        attack, subject.model, subject.images, labels, key=key, batch_size=batch_size, sharding=sharding
    )


def variant(name: str, presets: str, *, still: bool) -> Any:
    """Return the attack; ``still``: without its gradient step, None for an attack that draws nothing."""
    attack: Any = attacks.preset(name, presets)
    if not still:
        return attack
    if name == "pgd":
        return attack.replace(step_size=0.0, steps=1)
    return attack.replace(alpha=attack.eps) if name in ("rfgsm", "rllc") else None


def compare(subject: Subject, name: str, found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return one row per way: how far its images and successes are from the reference's."""
    rows = []
    for way in WAYS[1:]:
        off = np.abs(found[way] - found[REFERENCE])
        entries = float((off > 1e-5).mean())
        others = len(changed_rows(subject, name, found, way)) / len(off)
        rows.append({
            "attack": name, "way": way, "entries_off_percent": 100 * entries, "largest": float(off.max()),
            "other_success_percent": 100 * others, "entries_ok": entries <= ENTRY_BAR,
            "success_ok": others <= SUCCESS_BAR,
        })  # fmt: skip
    return rows


def changed_rows(subject: Subject, name: str, found: dict[str, np.ndarray], way: str) -> list[int]:
    """Return the rows whose success differs from the reference's."""
    attack = attacks.preset(name, subject.presets)
    here, there = (judge_rows(subject, attack, found[which]).success for which in (way, REFERENCE))
    return np.flatnonzero(here != there).tolist()


def random_bits(subject: Subject, name: str, folder: Path) -> dict[str, bool]:
    """Return, for an attack that draws, whether every way drew the very same numbers."""
    if variant(name, subject.presets, still=True) is None:
        return {}
    found = {way: images(subject, name, way, folder, still=True) for way in WAYS}
    moved = not np.array_equal(found[REFERENCE], subject.images)
    return {f"{name}, {way}": moved and np.array_equal(found[way], found[REFERENCE]) for way in WAYS[1:]}


if __name__ == "__main__":
    main()
