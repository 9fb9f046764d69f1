"""Why replayed figures differ from the paper's: saturated losses in the attack, and RT's frame.

Each attack runs with the logit gap, which is ours, and with float32 cross-entropy, which the paper's code
has. Its images are replayed on defended models: the share of images that fool the undefended network on which
the defense is right. RT is asked with a black frame, which is ours, and with the code's grey one. Another
undefended network says how much depends on that.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binomtest

from benchmarks.judging import judge_rows
from benchmarks.results import table, write_json
from benchmarks.subjects import load_subject, subject_title
from deepsec_jax import attacks, defenses
from deepsec_jax.evaluation import judge
from deepsec_jax.progress import progress

LOSSES = {"logit gap": "logit_gap", "cross-entropy": "cross_entropy"}


def main() -> None:
    """Attack, replay, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="folder of the undefended network")
    parser.add_argument("--defenses", nargs="+", required=True, help="folders of defended models")
    parser.add_argument("--attacks", nargs="+", default=["fgsm", "bim", "pgd", "umifgsm"])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    subject = load_subject(options.subject, options.n, data_dir=options.data_dir)
    models = {name: model for folder in options.defenses for name, model in defended(folder).items()}
    rows = []
    with progress("attack and replay", len(options.attacks) * len(LOSSES)) as advance:
        for name in options.attacks:
            for said, loss in LOSSES.items():
                attack = attacks.preset(name, subject.presets).replace(loss=loss)
                x_adv = np.asarray(
                    attacks.run_in_batches(
                        attack,
                        subject.model,
                        subject.images,
                        subject.labels,
                        key=jax.random.key(0),
                        batch_size=100,
                    )
                )
                hits = judge_rows(subject, attack, x_adv).success > 0.5
                kept = [share(model, subject, x_adv, hits) for model in models.values()]
                rows.append([name, said, int(hits.sum()), *kept])
                advance(1)
    head = ["attack", "loss", "hits", *models]
    found = {"note": subject.note, "n": options.n, "head": head, "rows": rows}
    write_json(options.out, f"contradictions-{subject_title(options.subject)}", found)
    print(subject.note)
    print(table(head, rows))


def defended(folder: str) -> dict[str, Any]:
    """Return a defended model by its name; RT also with the grey frame of the paper's code."""
    found = defenses.load(folder).defended
    if found is None:
        raise SystemExit(f"{folder} holds no defended model")
    name = str(found.card["name"])
    models = {name: found.classifier}
    if name == "rt":
        grey = found.defense.replace(pad=0.5)
        models["rt, grey"] = grey.restore(found.saved, folder)
    return models


def share(model: Any, subject: Any, x_adv: np.ndarray, hits: np.ndarray) -> str:
    """Return the share of the hits on which a defended model is right, over its draws, with its interval."""
    right = []
    for start in range(0, len(x_adv), 100):
        rows = np.arange(start, min(start + 100, len(x_adv)))
        if not hits[rows].any():
            continue
        x, adversarial, labels = (jnp.asarray(part[rows]) for part in (subject.images, x_adv, subject.labels))
        outcome = judge(model, x, adversarial, labels, key=jax.random.key(1))
        right.append(np.asarray(outcome.correct)[hits[rows]])
    found = np.concatenate(right)
    low, high = binomtest(round(float(found.sum())), len(found)).proportion_ci(method="exact")
    return f"{100 * found.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
