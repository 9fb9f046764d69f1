"""Do attacks survive confident models?  Success of the nine attacks under logits x 1 and x 100.

The scale is a leaf of a model wrapper, so both runs share their compiled programs.  The targets are the
same in both.  Bars: with the default loss no untargeted attack falls by more than 2 points; with max-margin
and DLR, which only scale or do not change, none falls at all; targeted ones end no lower than with
max-margin.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.judging import NINE, judge_rows
from benchmarks.results import table, verdict, write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.progress import progress
from deepsec_jax.protocols import Images, Logits, Scalar
from deepsec_jax.pytree import Struct

LOSSES = ("logit_gap", "max_margin", "dlr")
SCALES = (1.0, 100.0)


class Scaled(Struct):
    """A model whose logits are multiplied: the same answers, another confidence."""

    model: Any
    scale: Scalar

    def __call__(self, x: Images) -> Logits:
        """Return the scaled logits [B, K]."""
        return self.scale * self.model(x)


def main() -> None:
    """Attack under both scales with each loss; print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="model folder")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--attacks", nargs="+", default=list(NINE))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    subject = load_subject(options.subject, options.n, data_dir=options.data_dir)
    found: dict[str, dict[str, list[float]]] = {}
    with progress("logit scale", len(options.attacks) * len(options.losses) * len(SCALES)) as advance:
        for name in options.attacks:
            found[name] = {}
            for loss in options.losses:
                found[name][loss] = []
                for scale in SCALES:
                    found[name][loss].append(measure(subject, name, loss, scale, options.batch))
                    advance(1, f"{name} {loss} x{scale:g}")
    rows = [row for name, losses in found.items() for row in judged(name, losses)]
    payload = {
        "subject": options.subject,
        "note": subject.note,
        "scales": SCALES,
        "success": found,
        "rows": rows,
    }
    write_json(options.out, f"logit-scale-{subject_title(options.subject)}", payload)
    head = ["attack", "loss", "x1 %", "x100 %", "falls by", "bar"]
    print(subject.note)
    print(table(head, [[*row.values()] for row in rows]))


def measure(subject: Subject, name: str, loss: str, scale: float, batch: int) -> float:
    """Return the success rate in percent, judged on the scaled model."""
    paper: Any = attacks.preset(name, subject.presets)
    attack = paper.replace(loss=attacks.losses.LOSSES[loss])
    model = Scaled(subject.model, jnp.float32(scale))
    x_adv = attacks.run_in_batches(
        attack, model, subject.images, subject.attack_labels(attack), key=jax.random.key(0), batch_size=batch
    )
    return judge_rows(subject, attack, np.asarray(x_adv), model=model).percent


def judged(name: str, losses: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return one row per loss with its bar."""
    targeted = name in ("llc", "rllc", "illc", "tmifgsm")
    rows = []
    for loss, (plain, scaled) in losses.items():
        if targeted and loss == "logit_gap":
            passed = scaled >= losses["max_margin"][1] if "max_margin" in losses else None
        else:
            passed = plain - scaled <= (2.0 if loss == "logit_gap" else 0.0)
        rows.append({"attack": name, "loss": loss, "x1": plain, "x100": scaled, "falls_by": plain - scaled,
                     "bar": verdict(passed)})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
