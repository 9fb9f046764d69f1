"""Is any adv-lib search for the smallest change closer than ours, with the same number of gradients?

Same weights, images and gradients per image.  adv-lib's FMN, DDN, PDPGD (PDGD in L2) and sigma-zero run in a
child process under the peers' Python; all images are judged on our model.  Per norm the best of ours is
compared with the best of theirs.  A failure counts as infinitely far.

``--older N`` also runs our searches of the paper, CW2, EAD, BLB and JSMA, on the first N images, beside our
best on the same images.  They try nine constants of ``--steps`` gradients each; JSMA drives each image to a
random target.  Nothing is decided by them.

    python -m benchmarks.peers.minimum_norm pretrained/mnist-paper --peers-python peers/bin/python --n 200

Resumes: every attack's images lie in ``--work``, and what lies there is not made again.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.child import flat_weights
from benchmarks.results import table, write_json
from benchmarks.subjects import Subject, load_subject
from deepsec_jax.attacks import BLB, CW2, DDN, EAD, FMN, JSMA, PDPGD, SigmaZero, run_in_batches
from deepsec_jax.attacks.balls import size_of
from deepsec_jax.attacks.cost import Counted
from deepsec_jax.evaluation import judge

MARGIN = 1.01
"""The bar: our median distance is at most theirs times this."""

NORMS = ("l0", "l1", "l2", "linf")


def ours(steps: int) -> dict[str, Any]:
    """Return our searches, each of ``steps`` gradients at most."""
    found: dict[str, Any] = {f"fmn@{norm}": FMN(norm=norm, steps=steps) for norm in NORMS}
    found |= {f"pdpgd@{norm}": PDPGD(norm=norm, steps=steps) for norm in NORMS}
    return found | {"ddn@l2": DDN(steps=steps), "sigmazero@l0": SigmaZero(steps=steps)}


def older(steps: int) -> dict[str, Any]:
    """Return our searches of the paper, each of nine times ``steps`` gradients at most, and JSMA."""
    return {
        "cw2@l2": CW2(search_steps=9, steps=steps), "blb@l2": BLB(search_steps=9, steps=steps),
        "ead@l1": EAD(rule="l1", search_steps=9, steps=steps), "jsma@l0": JSMA(),
    }  # fmt: skip


def main() -> None:
    """Attack on both sides, judge, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--older", type=int, default=0, help="images for the paper's searches; 0: none")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/results/minimum-norm"))
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    subject = load_subject(options.model, options.n, data_dir=options.data_dir)
    title = Path(options.model).name
    folder = options.work / f"{title}-{options.n}"
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Any] = {f"w:{name}": value for name, value in flat_weights(subject.model).items()}
    archive = folder / "subject.npz"
    np.savez(archive, network=subject.network, images=subject.images, labels=subject.labels, **weights)
    child = Path(__file__).with_name("torch_minimum_norm.py")
    command = [options.peers_python, str(child), str(archive), "--steps", str(options.steps)]
    theirs = subprocess.Popen([*command, "--batch", str(options.batch)])  # at the same time: nothing is timed
    for name, attack in ours(options.steps).items():
        _make(attack, subject, folder / f"ours-{name}-{options.steps}.npy", options.n, options.batch)
    if options.older:
        for name, attack in older(options.steps).items():
            path = folder / f"older-{name}-{options.steps}.npy"
            _make(attack, subject, path, options.older, options.batch)
    if theirs.wait():
        raise SystemExit("the PyTorch side failed, see above")
    _check_logits(subject, np.load(folder / "logits.npy"))
    rows = [row for norm in NORMS for row in _rows(subject, folder, norm, options.steps)]
    head = [
        "norm", "attack", "whose", "n", "gradients", "success, %", "median distance", "mean of successes",
        "ours / theirs",
    ]  # fmt: skip
    write_json(options.out, f"minimum-norm-{title}", {"head": head, "rows": rows, "n": len(subject.labels)})
    print(table(head, rows))


def _check_logits(subject: Subject, theirs: np.ndarray) -> None:
    """Stop if the PyTorch network is another one."""
    forward = jax.jit(lambda model, x: model(x))
    mine = np.asarray(forward(subject.model, subject.images))
    if np.abs(mine - theirs).max() > 1e-4 * max(1.0, np.abs(mine).max()):
        raise SystemExit("the PyTorch network differs from ours: nothing to compare")


def _make(attack: Any, subject: Subject, path: Path, n: int, batch: int) -> None:
    """Attack the first ``n`` images; write the images, and gradients per image beside them."""
    if path.exists() and len(np.load(path, mmap_mode="r")) == min(n, len(subject.labels)):
        return
    counts: list[np.ndarray] = []

    def count(counted: Counted) -> None:
        counts.append(np.asarray(counted.gradients))

    made = run_in_batches(
        attack, subject.model, subject.images[:n], subject.attack_labels(attack)[:n],
        key=jax.random.key(0), batch_size=batch, on_counts=count,
    )  # fmt: skip
    _counts_of(path).write_text(f"{np.concatenate(counts).mean()}\n")
    np.save(path, made)
    print(path.stem, file=sys.stderr, flush=True)


def _counts_of(path: Path) -> Path:
    return path.with_suffix(".gradients")


def _rows(subject: Subject, folder: Path, norm: str, steps: int) -> list[list[Any]]:
    """Return a row per attack of a norm, and the comparison of the best of both sides."""
    far: dict[str, dict[str, np.ndarray]] = {"ours": {}, "theirs": {}, "older": {}}
    rows: list[list[Any]] = []
    for path in sorted(folder.glob(f"*@{norm}-{steps}.npy")):
        whose, name = path.stem.removesuffix(f"-{steps}").split("-", 1)
        x_adv = np.clip(np.load(path), 0.0, 1.0)
        n = len(x_adv)
        images, labels = subject.images[:n], jnp.asarray(subject.labels[:n])
        success = np.asarray(judge(subject.model, jnp.asarray(images), x_adv, labels).success) == 1
        distance = np.asarray(size_of(x_adv.astype(np.float32) - images, norm), np.float64)
        far[whose][name] = np.where(success, distance, np.inf)
        mean = float(distance[success].mean()) if success.any() else float("nan")
        spent = float(_counts_of(path).read_text()) if whose != "theirs" else float(steps)
        rows.append(
            [norm, name, whose, n, spent, 100.0 * float(success.mean()), _median(far[whose][name]), mean, ""]
        )
    best = {
        whose: min(far[whose], key=lambda name: _median(far[whose][name])) for whose in ("ours", "theirs")
    }
    least = far["ours"][best["ours"]]
    pairs = {best["theirs"]: far["theirs"][best["theirs"]], **far["older"]}
    for name, other in pairs.items():
        ratio = _median(least[: len(other)]) / _median(other)
        rows.append([norm, f"{best['ours']} : {name}", "best", len(other), "", "", "", "", ratio])
    return rows


def _median(distances: np.ndarray) -> float:
    return float(np.median(distances))


if __name__ == "__main__":
    main()
