r"""The official AutoAttack and ours, same weights and images: is our robust accuracy anywhere higher?

    python -m benchmarks.peers.autoattack --models pretrained/mnist-pat-small --eps 0.3 --n 500 \
        --peers-python peers/bin/python --checkout auto-attack
    python -m benchmarks.peers.autoattack --oracles ../shared/oracles --networks fast_fgsm_mnist --n 500 \
        --peers-python peers/bin/python --checkout auto-attack

``torch_autoattack.py`` runs the official code (github.com/fra31/auto-attack) in a child process.  The images
are attacked ``--turn`` at a time, the official code and ours in turn, so that both meet the same machine.
What a turn found is written to ``--out`` at once; a later run with the same options continues from there.
"""

import argparse
import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.peers.child import flat_weights
from benchmarks.peers.oracles import Mnist, Network, cases, network
from benchmarks.results import table, write_json
from benchmarks.subjects import answers, load_subject
from deepsec_jax.evaluation.cascade import autoattack

OFFICIAL = "official"


@dataclass(frozen=True)
class Task:
    """A model and the images on which both sides attack it.

    Attributes:
        name: of the model.
        eps: radius in L-inf.
        model: ours.
        images: float32 [N, H, W, C].
        labels: int32 [N].
        weights: what the child needs to build the same network.
        logits: our logits, float32 [N, K]; the child's must agree.
    """

    name: str
    eps: float
    model: Any
    images: np.ndarray
    labels: np.ndarray
    weights: dict[str, Any]
    logits: np.ndarray


def main() -> None:
    """Attack on both sides, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--oracles", type=Path, default=None)
    parser.add_argument("--networks", nargs="+", default=[])
    parser.add_argument("--models", nargs="+", default=[], help="model folders")
    parser.add_argument("--eps", type=float, default=None, help="radius for --models")
    parser.add_argument("--versions", nargs="+", default=["fast", "standard"])
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--turn", type=int, default=100)
    parser.add_argument("--stop", type=int, default=None, help="leave the images from here to a later run")
    parser.add_argument("--key", type=int, default=0)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--checkout", required=True)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if bool(options.models) != (options.eps is not None) or bool(options.networks) != bool(options.oracles):
        raise SystemExit("name --models with --eps, or --networks with --oracles, or both")
    rows: list[list[Any]] = []
    for task in tasks(options):
        found = compare(task, options)
        rows += [_row(task, side, found) for side in (OFFICIAL, *options.versions)]
        print(table(HEAD, rows), flush=True)
    names = "-".join([*options.networks, *(Path(model).name for model in options.models)])
    write_json(str(options.out), f"autoattack-{names}", {"head": HEAD, "rows": rows})


HEAD = [
    "network", "eps", "n", "attack", "robust", "fell here only", "gradients per image",
    "forwards per image", "seconds, without compilation", "compilation, s",
]  # fmt: skip
"""``fell here only``: images that this attack breaks and, for ours, the official one does not; for the
official one, those that none of ours breaks."""


def _row(task: Task, side: str, found: dict[str, Any]) -> list[Any]:
    mine = np.array(found[side]["robust"], bool)
    rivals = [name for name in found if name != OFFICIAL] if side == OFFICIAL else [OFFICIAL]
    others = np.all([np.array(found[name]["robust"], bool) for name in rivals], axis=0)
    calls = [float(np.mean(found[side][part])) for part in ("gradients", "forwards")]
    spent = [found[side][part] for part in ("seconds", "compile_seconds")]
    only = int((~mine & others).sum())
    return [task.name, task.eps, len(mine), side, f"{mine.sum()} of {len(mine)}", only, *calls, *spent]


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """Yield what the command line names."""
    for folder in options.models:
        subject = load_subject(folder, options.n, data_dir=options.data_dir)
        weights: dict[str, Any] = {f"w:{key}": value for key, value in flat_weights(subject.model).items()}
        yield _task(
            Path(folder).name, options.eps, subject.model, subject.images, subject.labels,
            {"network": subject.network, **weights},
        )  # fmt: skip
    if options.networks:
        known = json.loads((options.oracles / "oracles.json").read_text())
        mnist = Mnist(options.oracles, options.data_dir)
        for name in options.networks:
            model = network(options.oracles, name, known[name])
            for case in cases(options.oracles, name, known[name], mnist, options.n):
                yield _task(name, case.eps, model, case.images, case.labels, _in_torchs_layout(model))


def _task(
    name: str, eps: float, model: Any, images: np.ndarray, labels: np.ndarray, weights: dict[str, Any]
) -> Task:
    forward = jax.jit(lambda model, x: model(x))
    parts = [np.asarray(forward(model, images[start : start + 50])) for start in range(0, len(images), 50)]
    assert (answers(model, images) == np.concatenate(parts).argmax(-1)).all()
    return Task(name, eps, model, images, labels, weights, np.concatenate(parts))


def _in_torchs_layout(model: Network) -> dict[str, Any]:
    kernels = [np.asarray(kernel) for kernel in model.kernels]
    layouts = {4: (3, 2, 0, 1), 2: (1, 0)}
    arrays: dict[str, Any] = {
        f"kernel{i}": np.ascontiguousarray(kernel.transpose(layouts[kernel.ndim]))
        for i, kernel in enumerate(kernels)
    }
    arrays |= {f"bias{i}": np.asarray(bias) for i, bias in enumerate(model.biases)}
    return arrays | {
        "layers": len(kernels), "padding": np.asarray(model.padding, np.int64),
        "mean": np.asarray(model.mean, np.float32), "deviation": np.asarray(model.deviation, np.float32),
    }  # fmt: skip


def compare(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Return for each side what it found: lists over images, and seconds in all."""
    stem = f"autoattack-{task.name}-{task.eps:.4g}-{len(task.labels)}-turns"
    options.out.mkdir(parents=True, exist_ok=True)
    same = {
        "rows": hashlib.sha256(task.logits.tobytes() + task.labels.tobytes()).hexdigest(),
        "key": options.key, "turn": options.turn,
    }  # fmt: skip
    log = options.out / f"{stem}.json"
    turns: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}
    archive = options.out / f"{stem}.npz"
    np.savez(
        archive, images=task.images, labels=task.labels, logits=task.logits, eps=task.eps, **task.weights
    )
    script = Path(__file__).with_name("torch_autoattack.py")
    command = [options.peers_python, str(script), str(archive), "--checkout", options.checkout]
    starts = range(0, min(options.stop or len(task.labels), len(task.labels)), options.turn)
    sides = (OFFICIAL, *options.versions)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        for start in starts:
            stop = min(start + options.turn, len(task.labels))
            for side in sides:
                name = f"{side} {start}"
                if turns.get(name, {}).get("same") != same:
                    made = (
                        _official(child, start, stop)
                        if side == OFFICIAL
                        else _ours(task, side, start, stop, options)
                    )
                    turns[name] = made | {"same": same}
                    log.write_text(json.dumps(turns))
                shown = turns[name]
                print(name, f"{sum(shown['robust'])} of {stop - start}, {shown['seconds']:.0f} s", flush=True)
    archive.unlink()
    return {side: _joined([turns[f"{side} {start}"] for start in starts]) for side in sides}


def _joined(turns: list[dict[str, Any]]) -> dict[str, Any]:
    lists = {key: [x for turn in turns for x in turn[key]] for key in ("robust", "gradients", "forwards")}
    return lists | {key: sum(turn[key] for turn in turns) for key in ("seconds", "compile_seconds")}


def _official(child: subprocess.Popen[str], start: int, stop: int) -> dict[str, Any]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps([start, stop]) + "\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit("the PyTorch process ended; see its messages above")
    found: dict[str, Any] = json.loads(answer)
    return found


def _ours(task: Task, version: str, start: int, stop: int, options: argparse.Namespace) -> dict[str, Any]:
    made = autoattack(
        task.model, task.images[start:stop], task.labels[start:stop], eps=task.eps, version=version,
        key=jax.random.fold_in(jax.random.key(options.key), start), batch_size=options.turn,
    )  # fmt: skip
    # Judged from outside: the ball, the box, and the model's answer to what was returned.
    within = np.abs(made.x_adv - task.images[start:stop]).max() <= task.eps + 1e-6
    assert within and made.x_adv.min() >= 0 and made.x_adv.max() <= 1
    robust = answers(task.model, made.x_adv) == task.labels[start:stop]
    return {
        "robust": robust.tolist(), "gradients": made.gradients.tolist(), "forwards": made.forwards.tolist(),
        "seconds": made.seconds, "compile_seconds": made.compile_seconds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
