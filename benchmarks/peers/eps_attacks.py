"""Our attacks against foolbox, torchattacks, ART and adv-lib: same weights, images, targets, one run.

This process is ours; the PyTorch libraries run in one child process under another Python
(``torch_eps_attacks.py``), which sleeps while we compute and the other way round.  Before anything is timed,
the child's logits must equal ours to 1e-4.

1. Each side picks its best settings by wall time: torch its memory format, everyone the batch size.
2. Success: every library attacks all images; the saved images are judged by ``judge`` on OUR model.  Where
   a single random draw decides (R+FGSM, R+LLC) it is the mean over ``--draws`` keys on every side.
3. Time: rounds in which all of them attack the first ``--timed`` images in turn, the order rotating.  Each
   attack is timed together with bare gradients of its own library before and after it (ours: a separately
   jitted value-and-gradient; torch: forward and autograd.grad).  Figures are medians over rounds of
   ratios within a round: time of an attack in that library's own bare gradients, and wall time against ours.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cost.attacks import bare_gradient, seconds
from benchmarks.judging import NINE, judge_rows
from benchmarks.peers.child import Child, check_logits, choose_format
from benchmarks.peers.eps_report import OURS, report, summary
from benchmarks.results import write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.progress import progress

LIBRARIES = ("foolbox", "torchattacks", "art", "adv_lib", "adv_lib:dl+1")
BATCHES = (50, 100, 250)


def main() -> None:
    """Run the comparison, print the table, write JSON and Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="model folder, or random:<model> to try the machinery")
    parser.add_argument("--peers-python", required=True, help="Python with torch and the libraries")
    parser.add_argument("--n", type=int, default=1000, help="images for the success rates")
    parser.add_argument("--timed", type=int, default=250, help="images in each timed attack")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--bare", type=int, default=4, help="bare gradients before and after each timed attack"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument(
        "--draws", type=int, default=8, help="keys over which one-step random attacks are averaged"
    )
    parser.add_argument("--attacks", nargs="+", default=list(NINE), help="or square")
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    subject = load_subject(options.subject, options.n, data_dir=options.data_dir)
    with (
        tempfile.TemporaryDirectory() as folder,
        Child(subject, Path(folder), python=options.peers_python, threads=options.threads) as child,
    ):
        timed = min(options.timed, len(subject.images))
        run = Comparison(subject, child, Path(folder), timed=timed, libraries=options.libraries)
        difference = check_logits(subject, child, Path(folder))
        chosen = run.choose_settings()
        success = run.success(options.attacks, options.draws)
        rounds = run.rounds(options.attacks, success, options.rounds, options.bare)
        payload = {
            "subject": options.subject, "note": subject.note, "images": len(subject.images),
            "timed": run.timed, "rounds": options.rounds, "logit_difference": difference, "chosen": chosen,
            "peers": child.hello,
            "success": success, "times": rounds, "rows": summary(success, rounds),
        }  # fmt: skip
    name = f"peers-{subject_title(options.subject)}"
    path = write_json(options.out, name, payload)
    text = report(payload)
    path.with_suffix(".md").write_text(text + "\n")
    print(text)


class Comparison:
    """The three phases over one subject and one child."""

    def __init__(self, subject: Subject, child: Child, folder: Path, *, timed: int, libraries: Sequence[str]):
        self.subject, self.child, self.folder, self.timed = subject, child, folder, timed
        self.batch = dict.fromkeys((OURS, *LIBRARIES), min(BATCHES))
        first: Any = attacks.preset("bim", subject.presets)
        self._gradient = bare_gradient(subject.model, first.loss)
        missing = child.hello["missing"]
        self.libraries = [name for name in libraries if name.split(":")[0] not in missing]

    def choose_settings(self) -> dict[str, Any]:
        """Pick torch's memory format by its bare gradient, then everyone's batch size by BIM."""
        batches = [batch for batch in BATCHES if batch <= self.timed] or [self.timed]
        memory, formats = choose_format(self.child, batches)
        bim: Any = attacks.preset("bim", self.subject.presets)
        tried: dict[str, dict[int, float]] = {}
        with progress("settings", 2 * len(batches) * (1 + len(self.libraries))) as advance:
            for _ in range(2):
                for library in (OURS, *self.libraries):
                    for batch in batches:
                        self.batch[library] = batch
                        spent = self._attack(library, "bim", bim, seed=0, bare=0)
                        if "seconds_per_image" in spent:
                            times = tried.setdefault(library, {})
                            times[batch] = min(times.get(batch, np.inf), spent["seconds_per_image"])
                        advance(1, library)
        for library, times in tried.items():
            self.batch[library] = min(times, key=times.__getitem__)
        bare = {name: min(times.values()) for name, times in formats.items()}
        return {"format": memory, "bare_by_format": bare, "batch": self.batch, "batches_tried": tried}

    def success(self, names: list[str], draws: int) -> dict[str, dict[str, Any]]:
        """Attack all images with everyone; judge everybody's images on our model."""
        found: dict[str, dict[str, Any]] = {}
        with progress("success", len(names) * (1 + len(self.libraries))) as advance:
            for name in names:
                attack = attacks.preset(name, self.subject.presets)
                found[name] = {}
                for library in (OURS, *self.libraries):
                    one_draw = getattr(attack, "needs_key", False) and not hasattr(attack, "steps")
                    seeds = range(1, 1 + (draws if one_draw else 1))
                    found[name][library] = _mean([self._success(library, name, attack, s) for s in seeds])
                    advance(1, f"{name} {library}")
        return found

    def _success(self, library: str, name: str, attack: Any, seed: int) -> dict[str, Any]:
        subject = self.subject
        if library == OURS:
            labels, key = subject.attack_labels(attack), jax.random.key(seed)
            x_adv = attacks.run_in_batches(
                attack, subject.model, subject.images, labels, key=key, batch_size=self.batch[OURS]
            )
        else:
            out = str(self.folder / "x_adv.npy")
            answer = self._peer(library, name, attack, rows=len(subject.images), seed=seed, bare=0, out=out)
            if "seconds_per_image" not in answer:
                return answer
            x_adv = np.load(out)
        verdicts = judge_rows(subject, attack, x_adv)
        return {"success": verdicts.percent, "linf": verdicts.linf, "nan_rows": verdicts.nan_rows}

    def rounds(
        self, names: list[str], success: dict[str, dict[str, Any]], count: int, bare: int
    ) -> list[dict[str, Any]]:
        """Return one record per round, attack and library: seconds per image of attack and bare gradient."""
        records = []
        taking_part = {
            name: [who for who, found in success[name].items() if "success" in found] for name in names
        }
        with progress("rounds", count * sum(map(len, taking_part.values()))) as advance:
            for index in range(count):
                for name in names:
                    attack = attacks.preset(name, self.subject.presets)
                    libraries = taking_part[name]
                    turn = index % len(libraries)
                    for library in libraries[turn:] + libraries[:turn]:
                        spent = self._attack(library, name, attack, seed=index, bare=bare)
                        records.append({"round": index, "attack": name, "library": library, **spent})
                        advance(1, f"{name} {library}")
        return records

    def _attack(self, library: str, name: str, attack: Any, *, seed: int, bare: int) -> dict[str, Any]:
        """Time one attack on the timed images, in whole batches, with bare gradients before and after."""
        batch = self.batch[library]
        rows = self.timed // batch * batch
        if library != OURS:
            return self._peer(library, name, attack, rows=rows, seed=seed, bare=bare)
        subject = self.subject
        x, labels = subject.images[:rows], subject.attack_labels(attack)[:rows]
        starts = range(0, rows, batch)
        batches = [(jnp.asarray(x[i : i + batch]), jnp.asarray(labels[i : i + batch])) for i in starts]
        key = jax.random.key(seed)

        def gradient() -> Any:
            return self._gradient(*batches[0])

        jax.block_until_ready([attack(subject.model, *batches[0], key=key), gradient()])  # compile
        before = seconds(gradient, bare) if bare else 0.0
        spent = seconds(lambda: [attack(subject.model, *each, key=key) for each in batches], repeats(attack))
        after = seconds(gradient, bare) if bare else 0.0
        return {"seconds_per_image": spent / rows, "bare_per_image": (before + after) / 2 / batch}

    def _peer(
        self, library: str, name: str, attack: Any, *, rows: int, seed: int, bare: int, out: str | None = None
    ) -> dict[str, Any]:
        return self.child.ask(
            do="attack", library=library, attack=name, settings=settings(attack), batch=self.batch[library],
            rows=rows, seed=seed, bare=bare, times=1 if out else repeats(attack), out=out,
        )  # fmt: skip


def _mean(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean success over draws, with the largest distance; what a library lacks stays as it is."""
    if "success" not in found[0]:
        return found[0]
    return {
        "success": float(np.mean([draw["success"] for draw in found])),
        "linf": max(draw["linf"] for draw in found),
        "nan_rows": sum(draw["nan_rows"] for draw in found),
        "draws": len(found),
        # Of the mean over draws, on these images; 0 where nothing was drawn.
        "standard_error": float(np.std([draw["success"] for draw in found], ddof=1) / len(found) ** 0.5)
        if len(found) > 1
        else 0.0,
    }


def repeats(attack: Any) -> int:
    """Return how often an attack is timed in a row, so that a single step is not lost in the noise."""
    return 1 if getattr(attack, "steps", getattr(attack, "queries", 1)) >= 10 else 8


def settings(attack: Any) -> dict[str, Any]:
    """Return the hyperparameters both sides share, as plain numbers."""
    numbers = {name: getattr(attack, name, None) for name in ("eps", "alpha", "step_size", "decay", "share")}
    plain: dict[str, Any] = {name: float(value) for name, value in numbers.items() if value is not None}
    return plain | {name: getattr(attack, name) for name in ("steps", "queries") if hasattr(attack, name)}


if __name__ == "__main__":
    main()
