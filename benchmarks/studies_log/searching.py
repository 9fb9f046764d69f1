"""What a search finds where the adaptive attack has ended: is its surrogate's gradient to be believed?

For each defended model, the images of its adaptive cell in a run directory of ``deepsec evaluate defenses``
that the model still gets right are searched on by ``Square``: guided by the surrogate's gradient with sides
drawn anew, as the adaptive attack ends on models without a gradient of their own, or as its authors have it.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import table, write_json
from deepsec_jax import defenses
from deepsec_jax.attacks import FixedImages, Square, Transfer, run_in_batches
from deepsec_jax.evaluation.adaptive import SHARE
from deepsec_jax.evaluation.defense_cells import ADAPTIVE
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.runs.store import read_cells


def main() -> None:
    """Search on, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", help="of deepsec evaluate defenses")
    parser.add_argument("folders", nargs="+", help="of defended models that it has attacked")
    parser.add_argument("--queries", type=int, nargs="+", default=[250, 1000])
    parser.add_argument("--most", type=int, default=None, help="search the first so many of those left only")
    parser.add_argument(
        "--plain", action="store_true", help="also the authors' squares, from the same images"
    )
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    cells = read_cells(options.run_dir)
    rows: list[list[Any]] = []
    for folder in options.folders:
        defended = defenses.load_defended(folder)
        name = f"{defended.card['name']} {defended.card['preset']}"
        found = [
            cell for cell in cells
            if cell.config.get("knowledge") == ADAPTIVE
            and (cell.config["defense"]["name"], cell.config["defense"]["preset"])
            == (defended.card["name"], defended.card["preset"])
        ]  # fmt: skip
        if not found:
            parser.error(f"{options.run_dir} has no adaptive cell of {name}: run deepsec evaluate defenses")
        arrays, eps = found[-1].arrays, found[-1].config["eps"]
        left = np.flatnonzero(arrays["correct"] > 0)
        begun, left = len(left), left[: options.most]
        before = 100.0 * float(np.minimum(arrays["clean"], arrays["correct"]).mean())
        for plain in (False, True) if options.plain else (False,):
            for queries in options.queries:
                after = arrays["correct"].copy()
                if len(left):
                    after[left] = searched(defended, arrays, left, eps, queries, plain)
                held = np.minimum(arrays["clean"], after)
                robust = 100.0 * float(held.mean()) if begun == len(left) else "-"
                kind = "authors'" if plain else "guided"
                share = f"{int((held[left] > 0).sum())} of {len(left)}"
                rows.append([name, len(after), before, kind, queries, share, robust])
                print(rows[-1], flush=True)
    head = ["defended", "n", "adaptive, %", "squares", "queries", "hold of those searched", "after, %"]
    which = "-".join(Path(folder).name for folder in options.folders)
    write_json(options.out, f"searching-{which}", {"run_dir": options.run_dir, "head": head, "rows": rows})
    print(table(head, rows))


def searched(
    defended: Any, arrays: dict[str, np.ndarray], left: np.ndarray, eps: float, queries: int, plain: bool
) -> np.ndarray:
    """Return the share of draws in which each image that was left still holds after a search."""
    x, labels = arrays["x"][left], arrays["labels"][left]
    own = {"share": 0.8} if plain else {"share": SHARE, "guided": True, "shrinking": False}
    search = Square(eps=eps, queries=queries, start=FixedImages(jnp.asarray(arrays["x_adv"][left])), **own)
    x_adv = run_in_batches(
        Transfer(search, defended.surrogate), defended.classifier, x, labels,
        key=jax.random.key(11), batch_size=len(left),
    )  # fmt: skip
    return predict(defended.classifier, x_adv, labels, batch_size=min(64, len(left))).holds


if __name__ == "__main__":
    main()
