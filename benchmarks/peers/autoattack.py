r"""The official AutoAttack and ours, same weights and images: is our robust accuracy anywhere higher?

    python -m benchmarks.peers.autoattack --oracles ../shared/oracles --networks fast_fgsm_mnist --n 500 \
        --peers-python peers/bin/python --checkout auto-attack

``torch_autoattack.py`` runs the official code (github.com/fra31/auto-attack) in a child process.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.peers.oracles import Case, Mnist, Network, cases, network
from benchmarks.results import table, write_json
from deepsec_jax.evaluation.cascade import autoattack


def main() -> None:
    """Attack on both sides, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--oracles", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", required=True)
    parser.add_argument("--versions", nargs="+", default=["fast", "standard"])
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--checkout", required=True)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    known = json.loads((options.oracles / "oracles.json").read_text())
    mnist = Mnist(options.oracles, options.data_dir)
    rows: list[list[Any]] = []
    for name in options.networks:
        model = network(options.oracles, name, known[name])
        for case in cases(options.oracles, name, known[name], mnist, options.n):
            archive = export(options.out, model, case)
            script = Path(__file__).with_name("torch_autoattack.py")
            command = [options.peers_python, str(script), str(archive), "--checkout", options.checkout]
            child = subprocess.Popen([*command, "--batch", str(options.batch)], stdout=subprocess.PIPE)
            for version in options.versions:
                made = autoattack(
                    model, case.images, case.labels, eps=case.eps, version=version,
                    key=jax.random.key(0), batch_size=options.batch,
                )  # fmt: skip
                rows.append(_row(case, f"ours, {version}", made.robust, made.gradients, made.forwards))
                print(rows[-1], flush=True)
            theirs = json.loads(child.communicate()[0].splitlines()[-1])
            rows.append(_row(case, "official", theirs["robust"], theirs["gradients"], theirs["forwards"]))
            print(rows[-1], flush=True)
    head = ["network", "eps", "n", "attack", "robust, %", "gradients per image", "forwards per image"]
    write_json(str(options.out), "autoattack-" + "-".join(options.networks), {"head": head, "rows": rows})
    print(table(head, rows))


def _row(case: Case, attack: str, robust: float, gradients: Any, forwards: Any) -> list[Any]:
    mean = (float(np.mean(gradients)), float(np.mean(forwards)))
    return [case.name, case.eps, len(case.labels), attack, 100.0 * robust, *mean]


def export(folder: Path, model: Network, case: Case) -> Path:
    """Write weights in PyTorch's layout, images, labels and logits, and return the path."""
    kernels = [np.asarray(kernel) for kernel in model.kernels]
    layouts = {4: (3, 2, 0, 1), 2: (1, 0)}
    arrays: dict[str, Any] = {
        f"kernel{i}": np.ascontiguousarray(kernel.transpose(layouts[kernel.ndim]))
        for i, kernel in enumerate(kernels)
    }
    arrays |= {f"bias{i}": np.asarray(bias) for i, bias in enumerate(model.biases)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"autoattack-{case.name}-{len(case.labels)}.npz"
    logits = jax.jit(lambda model, x: model(x))(model, case.images)
    np.savez(
        path, layers=len(kernels), padding=np.asarray(model.padding), eps=case.eps, images=case.images,
        labels=case.labels, logits=np.asarray(logits), mean=np.asarray(model.mean, np.float32),
        deviation=np.asarray(model.deviation, np.float32), **arrays,
    )  # fmt: skip
    return path


if __name__ == "__main__":
    main()
