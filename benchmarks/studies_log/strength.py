"""Success of the attacks at an eps of your choice, all else as in the paper's presets, judged from outside.

``deepsec evaluate attacks`` has the presets' own radii; this is for others, such as 8/255 on CIFAR-10.
"""

import argparse
from typing import Any

import jax
import numpy as np

from benchmarks.judging import NINE, judge_rows
from benchmarks.results import table, write_json
from benchmarks.subjects import load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.progress import progress


def main() -> None:
    """Attack, judge, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="model folder")
    parser.add_argument("--eps", type=float, required=True, help="L-inf radius in units of the pixel range")
    parser.add_argument("--attacks", nargs="+", default=list(NINE))
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    subject = load_subject(options.subject, options.n, data_dir=options.data_dir)
    rows = []
    with progress(f"eps {options.eps:g}", len(options.attacks) * len(subject.images)) as advance:
        for name in options.attacks:
            attack = at_eps(attacks.preset(name, subject.presets), options.eps)
            x_adv = attacks.run_in_batches(
                attack, subject.model, subject.images, subject.attack_labels(attack),
                key=jax.random.key(0), batch_size=options.batch, on_batch=advance,
            )  # fmt: skip
            found, rounded = (judge_rows(subject, attack, x) for x in (x_adv, to_8bit(np.asarray(x_adv))))
            rows.append([name, found.percent, rounded.percent, found.linf])
    title = f"strength-{subject_title(options.subject)}-eps-{options.eps:.4f}"
    payload = {"subject": options.subject, "note": subject.note, "eps": options.eps, "rows": rows}
    write_json(options.out, title, payload)
    print(f"{subject.note}; eps {options.eps:.4f}")
    print(table(["attack", "success %", "after 8 bits %", "largest change"], rows))


def to_8bit(images: np.ndarray) -> np.ndarray:
    """Return images rounded to the 256 levels of a picture file."""
    return (np.round(images * np.float32(255)) / np.float32(255)).astype(np.float32)


def at_eps(attack: Any, eps: float) -> Any:
    """Return the attack with another radius; a random first step keeps its share of it."""
    if hasattr(attack, "alpha"):
        return attack.replace(eps=eps, alpha=eps * attack.alpha / attack.eps)
    return attack.replace(eps=eps)


if __name__ == "__main__":
    main()
