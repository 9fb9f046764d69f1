"""Our searches for the smallest change against foolbox, torchattacks, ART, adv-lib and DEEPSEC's algorithms.

Same weights, images, targets, budget and run: steps, search steps and learning rate are the preset's (or
``--steps``, ``--search-steps``) on both sides, and so is what the attack is about; the rest of a library's
settings are its documented ones and stand in the report.  The child process (``torch_searches.py``)
sleeps while we compute and the other way round; its logits must equal ours to 1e-4.

Each library attacks the images once per round, timed, with bare gradients of its own before and after; the
images of the first round are judged on our model.  Our compile time is kept apart.  UAP is fitted to
training images (its time is per training image) and judged on test images.  ``original`` is DEEPSEC's
algorithm as published.  JSON and Markdown are written after every attack; what an earlier run into the
same folder found for other attacks is kept.

    python -m benchmarks.peers.searches MODEL --peers-python peers/bin/python --n 32 --images original=4
"""

import argparse
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cost.attacks import bare_gradient, seconds
from benchmarks.cost.searches import chosen
from benchmarks.judging import judge_search, noisy_share
from benchmarks.peers.child import Child, ChildDied, check_logits, choose_format
from benchmarks.peers.eps_attacks import BATCHES
from benchmarks.peers.eps_report import OURS
from benchmarks.peers.searches_report import report, rows_of
from benchmarks.results import machine, write_json
from benchmarks.subjects import Subject, load_subject, subject_title
from deepsec_jax import attacks, data, training
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.progress import progress

LIBRARIES = ("foolbox", "torchattacks", "art", "art:documented", "adv_lib", "original")
# Name of the row -> preset, what differs from it, and the distance whose median counts.
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "deepfool": ("deepfool", {}, "l2"),
    "jsma": ("jsma", {}, "l0"),
    "jsma@logits": ("jsma", {"saliency": "logits"}, "l0"),
    "uap": ("uap", {}, "linf"),
    "uap@all-passes": ("uap", {"fooling_rate": 1.0}, "linf"),
    "cw2": ("cw2", {"targeted": True}, "l2"),
    "cw2@untargeted": ("cw2", {"targeted": False}, "l2"),
    "ead": ("ead", {}, "en"),
    "ead@l1": ("ead@l1", {}, "l1"),
    "blb": ("blb", {}, "l2"),
    "optmargin": ("optmargin", {}, "l2"),
}


def main() -> None:
    """Run the comparison attack by attack, print the report."""
    options = _options()
    tests = load_subject(
        options.subject, max(options.n, options.uap_images), data_dir=options.data_dir, seed=options.seed
    )  # UAP is judged on all of them, the others attack the first n
    n = min(options.n, len(tests.images))
    subject = replace(tests, images=tests.images[:n], labels=tests.labels[:n], targets=tests.targets[:n])
    train = train_images(options, tests)
    path = Path(options.out) / f"peers-search-{subject_title(options.subject)}.json"
    payload: dict[str, Any] = {"subject": options.subject, "note": tests.note, "attacks": {}}
    if path.exists():
        payload["attacks"] = json.loads(path.read_text())["attacks"]
    with (
        tempfile.TemporaryDirectory() as folder,
        Child(
            subject, Path(folder), python=options.peers_python, threads=options.threads,
            script="torch_searches.py", train=train,
        ) as child,
        progress("attacks", len(options.attacks) * (1 + len(options.libraries))) as advance,
    ):  # fmt: skip
        payload |= {"logit_difference": check_logits(subject, child, Path(folder)), "peers": child.hello}
        run = Comparison(subject, tests, train, child, Path(folder), options)
        for name in options.attacks:
            payload["attacks"][name] = run.attack(name, advance)
            write_json(options.out, path.stem, payload)
            path.with_suffix(".md").write_text(report(payload) + "\n")
    print(report(payload))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("subject", help="model folder, or random:<model> to try the machinery")
    parser.add_argument("--peers-python", required=True, help="Python with torch and the libraries")
    parser.add_argument("--n", type=int, default=32, help="images to attack")
    parser.add_argument(
        "--images", nargs="*", default=[], metavar="[ATTACK/]LIBRARY=N",
        help="fewer images for a slow library, such as original=4 cw2/art=8",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="which images and targets; give it its own --out")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--bare", type=int, default=20, help="bare gradients before and after each timed attack"
    )
    parser.add_argument("--limit", type=int, default=0, help="seconds a peer may take for an attack; 0: any")
    parser.add_argument("--attacks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--steps", type=int, default=0, help="steps a search step; 0: the preset's")
    parser.add_argument("--search-steps", type=int, default=0, help="constants; 0: the preset's")
    parser.add_argument("--passes", type=int, default=0, help="passes of a UAP's fit; 0: the preset's")
    parser.add_argument("--train-images", type=int, default=200, help="images a UAP is fitted to")
    parser.add_argument("--uap-images", type=int, default=1000, help="test images a UAP is judged on")
    parser.add_argument("--threads", type=int, default=cores, help="torch threads; default: our cores")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    return parser.parse_args()


def train_images(options: argparse.Namespace, tests: Subject) -> np.ndarray:
    """Return the images that UAPs are fitted to; of a random model, those it is judged on."""
    if ":" in options.subject:
        return tests.images[: options.train_images]
    recipe = training.load_network(options.subject).recipe
    images = data.load(recipe.data, data_dir=options.data_dir).train.images
    order = np.random.default_rng(0).permutation(len(images))[: options.train_images]
    return data.unit_images(np.asarray(images[np.sort(order)]))


class Comparison:
    """The attacks, one after the other, by everyone."""

    def __init__(
        self, subject: Subject, tests: Subject, train: np.ndarray, child: Child, folder: Path,
        options: argparse.Namespace,
    ):  # fmt: skip
        self.subject, self.tests, self.train, self.child = subject, tests, train, child
        self.out, self.options = str(folder / "x_adv.npy"), options
        self.few = {name: int(count) for name, count in (each.split("=") for each in options.images)}
        self._gradient = bare_gradient(subject.model, logit_gap)
        n = len(subject.images)
        batches = [batch for batch in BATCHES if n % batch == 0] or [n]
        self.format, by_format = choose_format(child, batches)
        theirs = by_format[self.format]
        self.batch = {
            OURS: max(batches),  # its searches take a few unfinished rows of them at a time
            "torch": min(theirs, key=theirs.__getitem__),
        }

    def attack(self, name: str, advance: Any) -> dict[str, Any]:
        """Return the rows of one attack, and what the run was like."""
        base, changes, norm = CASES[name]
        attack = chosen(base, self.subject, self.options).replace(**changes)
        if self.options.passes and hasattr(attack, "passes"):
            attack = attack.replace(passes=self.options.passes)
        found: dict[str, dict[str, Any]] = {}
        for index in range(self.options.rounds):
            everyone = (OURS, *self.options.libraries)
            turn = index % len(everyone)
            for library in everyone[turn:] + everyone[:turn]:
                record = found.setdefault(library, {"times": []})
                if "error" not in record and "lacks" not in record:
                    self._once(record, library, name, attack, norm, index)
                advance(1, f"{name} {library}")
        return {
            "norm": norm, "settings": settings(attack), "rows": rows_of(name, norm, found),
            "run": {**machine(), "n": len(self.subject.images), "rounds": self.options.rounds,
                    "train_images": len(self.train), "uap_images": len(self.tests.images),
                    "format": self.format, "batch": self.batch, "threads": self.options.threads},
        }  # fmt: skip

    def _once(
        self, record: dict[str, Any], library: str, name: str, attack: Any, norm: str, seed: int
    ) -> None:
        """Let one library attack once, and add what it took and, the first time, what it found."""
        try:
            spent = self._ours(attack, seed) if library == OURS else self._peer(library, name, attack, seed)
        except ChildDied as error:
            self.child.start()
            self.child.ask(do="format", name=self.format)
            spent = {"error": str(error)}
        except Exception as error:  # one attack never ends the run
            spent = {"error": f"{type(error).__name__}: {error}"}
        x_adv = spent.pop("x_adv", None)
        if "seconds_per_image" in spent:
            record["times"].append((spent.pop("seconds_per_image"), spent.pop("bare_per_image")))
        record.update({key: value for key, value in spent.items() if key not in record})
        if x_adv is not None and "closeness" not in record:
            universal = hasattr(attack, "fit")
            subject = self.tests if universal else self.subject
            if universal:
                x_adv = np.clip(subject.images + x_adv, 0, 1)
            record["closeness"] = closeness = judge_search(subject, attack, x_adv, norm)
            if hasattr(attack, "copies"):
                record["noisy_percent"] = noisy_share(subject, attack, x_adv, closeness.success)

    def _bare(self, batch: int) -> float:
        """Return the seconds per image of our bare gradient."""
        x, labels = jnp.asarray(self.subject.images[:batch]), jnp.asarray(self.subject.labels[:batch])
        seconds(lambda: self._gradient(x, labels), 2)
        return seconds(lambda: self._gradient(x, labels), self.options.bare) / batch

    def _ours(self, attack: Any, seed: int) -> dict[str, Any]:
        """Run our attack once on all images, compiled and warmed up before."""
        subject, batch = self.subject, self.batch[OURS]
        key = jax.random.key(seed)
        if hasattr(attack, "fit"):
            return self._ours_uap(attack, key)
        starts = range(0, len(subject.images), batch)
        # Goals that are met already: the same program, and almost no work.
        met = subject.labels if getattr(attack, "targeted", False) else subject.targets
        batches = [
            [
                jnp.asarray(each[i : i + batch])
                for each in (subject.images, subject.attack_labels(attack), met)
            ]
            for i in starts
        ]

        def counted(a: Any, m: Any, x: Any, y: Any, k: Any) -> Any:
            return attacks.count_calls(a, m, x, y, key=k)

        started = time.perf_counter()
        x, labels, met_labels = batches[0]
        run = jax.jit(counted).lower(attack, subject.model, x, labels, key).compile()
        compile_seconds = time.perf_counter() - started
        jax.block_until_ready(run(attack, subject.model, x, met_labels, key))
        before = self._bare(batch)
        started = time.perf_counter()
        results = [
            run(attack, subject.model, x, labels, jax.random.fold_in(key, i))
            for i, (x, labels, _) in enumerate(batches)
        ]
        jax.block_until_ready(results)
        spent = time.perf_counter() - started
        after = self._bare(batch)
        x_adv, forwards, gradients = (np.concatenate(parts) for parts in zip(*results, strict=True))
        return {
            "seconds_per_image": spent / len(x_adv), "bare_per_image": (before + after) / 2, "x_adv": x_adv,
            "gradients": float(gradients.mean()), "forwards": float(forwards.mean()), "batch": batch,
            "compile_seconds": compile_seconds, "settings": repr(attack),
        }  # fmt: skip

    def _ours_uap(self, attack: Any, key: jax.Array) -> dict[str, Any]:
        model, train, batch = self.subject.model, jnp.asarray(self.train), self.batch[OURS]

        def enough(number: int, rate: float) -> None:
            if number == 2:  # the second pass may compile again
                raise StopIteration

        started = time.perf_counter()
        with suppress(StopIteration):
            attack.replace(fooling_rate=1.0).fit(model, train, key=key, on_pass=enough)
        compile_seconds = time.perf_counter() - started
        before = self._bare(batch)
        started = time.perf_counter()
        fitted = jax.block_until_ready(attack.fit(model, train, key=key))
        spent = time.perf_counter() - started
        return {
            "seconds_per_image": spent / len(train), "bare_per_image": (before + self._bare(batch)) / 2,
            "x_adv": np.asarray(fitted.delta)[None], "compile_seconds": compile_seconds, "batch": batch,
            "settings": f"{attack!r}; {len(fitted.fooling_rates)} passes",
        }  # fmt: skip

    def _peer(self, library: str, name: str, attack: Any, seed: int) -> dict[str, Any]:
        n = len(self.subject.images)
        rows = min(n, self.few.get(f"{name}/{library}", self.few.get(library, n)))
        batch = min(self.batch["torch"], rows)
        answer = self.child.ask(
            do="search", library=library, attack=name.split("@")[0], settings=settings(attack), batch=batch,
            rows=rows, seed=seed, bare=self.options.bare, limit=self.options.limit, out=self.out,
        )  # fmt: skip
        if "seconds_per_image" not in answer:
            return answer
        return {**answer, "batch": batch, "x_adv": np.load(self.out)}


def settings(attack: Any) -> dict[str, Any]:
    """Return all hyperparameters as plain numbers and words, and whether the attack has a target."""
    plain: dict[str, Any] = {}
    for field in fields(attack):
        value = getattr(attack, field.name)
        plain[field.name] = value if isinstance(value, bool | int | str | None) else float(value)
    return {**plain, "targeted": bool(getattr(attack, "targeted", False))}


if __name__ == "__main__":
    main()
