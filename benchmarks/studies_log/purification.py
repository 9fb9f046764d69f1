"""What PD owes to its radius: one adaptive run against purifiers of several radii, the attack's held fixed.

The PixelCNN and the network are those of one folder; only the purifier's ``eps`` changes.  Each is attacked
by PGD through the straight-through surrogate, as in the adaptive column of ``deepsec evaluate defenses`` but
with one loss and no restarts.  ``put back``: of the pixels that the attack moved by more than 0.05, the share
whose purified value is within 0.02 of what the clean image is purified to.
"""

import argparse
from typing import Any, cast

import jax
import numpy as np

from benchmarks.results import table, write_json
from deepsec_jax import data, defenses
from deepsec_jax.attacks import PGD, Transfer, losses, run_in_batches
from deepsec_jax.defenses.pd import Purified, PurifiedStraightThrough
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.evaluation.sample import draw_sample

_seen = jax.jit(lambda model, x: model.seen(x))


def main() -> None:
    """Attack each, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="of a PD that deepsec defend has written")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--radii", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--eps", type=float, default=0.3, help="radius of the attack")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    model = cast(Purified, defenses.load_defended(options.folder).classifier)
    sample = draw_sample(data.load(options.data, data_dir=options.data_dir).test, options.n, seed=0)
    pgd = PGD(
        eps=options.eps, step_size=options.eps / 10, steps=options.steps, loss=losses.LOSSES["logit_gap"]
    )
    rows: list[list[Any]] = []
    for radius in options.radii:
        purified = model.replace(eps=radius)
        attack = Transfer(pgd, PurifiedStraightThrough(purified))
        x_adv = np.asarray(run_in_batches(
            attack, purified, sample.images, sample.labels, key=jax.random.key(7), batch_size=32,
        ))  # fmt: skip
        kept = [
            100.0 * float(predict(purified, images, sample.labels, batch_size=32).correct.mean())
            for images in (sample.images, x_adv)
        ]
        moved = np.abs(x_adv - sample.images) > 0.05
        apart = np.abs(np.asarray(_seen(purified, x_adv)) - np.asarray(_seen(purified, sample.images)))
        rows.append([radius, *kept, 100.0 * float((apart[moved] <= 0.02).mean())])
        print(rows[-1], flush=True)
    head = ["eps of PD", "clean right, %", "attacked right, %", "put back, %"]
    write_json(options.out, "purification", {
        "folder": options.folder, "n": options.n, "eps": options.eps, "steps": options.steps,
        "head": head, "rows": rows,
    })  # fmt: skip
    print(table(head, rows))


if __name__ == "__main__":
    main()
