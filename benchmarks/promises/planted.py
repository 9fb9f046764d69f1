"""Are defenses that only seem robust caught, and honest models not accused?

Six ways to mislead attacks, at three strengths each, around a small network on digits
(``tests/evaluation/planted.py``): softmax temperature, few grey levels, random neurons, k-winners-take-all,
JPEG, a detector whose threshold is tuned to one attack.  ``deepsec robustness`` must come within five points
of the undefended network's robust accuracy, or close a gate.  Then honest models: the undefended network, a
linear one, and the model folders of ``--honest``, on which no gate may close.

    python -m benchmarks.promises.planted --n 200 --honest pretrained/mnist-small pretrained/mnist-pat-small
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import table, verdict, write_json
from deepsec_jax import attacks, data, evaluation
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating.gates import SMALL
from deepsec_jax.studies.verdict.gates import gates

sys.path[:0] = [str(Path(__file__).parents[2] / "tests" / part) for part in ("evaluation", "")]

POINTS = 0.05
"""By how much the robust accuracy of a planted defense may exceed that of the undefended network."""


def main() -> None:
    """Attack all models; print the tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--eps", type=float, default=0.15, help="of the planted defenses, on digits")
    parser.add_argument("--kinds", nargs="*", default=None, help="default all")
    parser.add_argument("--honest", nargs="*", default=[], help="model folders")
    parser.add_argument("--version", choices=("standard", "fast"), default="fast")
    parser.add_argument("--steps", type=int, default=50, help="of FMN")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    rows = [*planted_rows(options), *honest_rows(options)]
    head = ["model", "strength", "clean", "robust", "gates closed", "as promised"]
    print(table(head, [[*row[:5], verdict(row[5])] for row in rows]))
    write_json(options.out, "planted", {"n": options.n, "eps": options.eps, "head": head, "rows": rows})


def planted_rows(options: Any) -> list[list[Any]]:
    """Return a row per planted defense and strength, after that of the undefended network."""
    from planted import STRENGTHS, defended, fitted

    dataset = data.load("digits")
    base = fitted(dataset.train.images, dataset.train.labels)
    eps = options.eps
    undefended = row_of("undefended MLP", "", asked(options, base, dataset, eps=eps))
    rows = [undefended]
    x = jnp.asarray(dataset.test.images)
    pgd = attacks.PGD(eps=eps, step_size=eps / 5)
    x_adv = pgd(base, x, base(x).argmax(1), key=jax.random.key(0))
    for kind, strengths in STRENGTHS.items():
        if options.kinds is not None and kind not in options.kinds:
            continue
        for strength in strengths:
            model = defended(kind, strength, base, dataset, x_adv)
            found = row_of(kind, strength, asked(options, model, dataset, eps=eps))
            found[5] = bool(found[4]) or found[3] <= undefended[3] + POINTS
            rows.append(found)
    return rows


def honest_rows(options: Any) -> list[list[Any]]:
    """Return a row per honest model: a linear one, and the folders that were given."""
    from conftest import Linear

    dataset = data.load("digits")
    images = dataset.train.images.reshape(len(dataset.train), -1)
    targets = np.eye(10)[dataset.train.labels] * 2 - 1
    ridge = np.linalg.solve(images.T @ images + np.eye(images.shape[1]), images.T @ targets)
    linear = Linear(jnp.asarray(ridge, jnp.float32), jnp.zeros(10))
    rows = [row_of("linear", "", asked(options, linear, dataset, eps=0.1))]
    for folder in options.honest:
        named = Path(folder).name.partition("-")[0]
        images_of = data.load(named, data_dir=options.data_dir)
        rows.append(row_of(Path(folder).name, "", asked(options, folder, images_of)))
    return rows


def asked(options: Any, model: Any, dataset: Any, *, eps: float | None = None) -> tuple[Cell, ...]:
    """Return the cells of ``evaluation.robustness``."""
    results = evaluation.robustness(
        model, dataset, n=options.n, eps=eps, version=options.version, steps=options.steps, batch_size=50
    )
    return results.cells


def row_of(name: str, strength: Any, cells: tuple[Cell, ...]) -> list[Any]:
    """Return name, strength, accuracies, the gates that are closed, and whether an honest model has none.

    That there are few images says nothing about the model, so this gate is left out.
    """
    clean, robust = (float(cells[0].columns[column].mean()) for column in ("clean", "robust"))
    labels = (gate.finding.label for gate in gates(cells) if gate.closed)
    closed = [label for label in dict.fromkeys(labels) if label != SMALL]
    found = [name, strength, round(clean, 3), round(robust, 3), ", ".join(closed), not closed]
    print(found, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
