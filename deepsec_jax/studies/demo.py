"""The demo: train a small network on scikit-learn's digits, attack it with everything, write a page."""

import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from deepsec_jax import attacks, data, training
from deepsec_jax.defenses import ModelFolder
from deepsec_jax.evaluation.attack_table import run_attack
from deepsec_jax.evaluation.machine import machine_facts
from deepsec_jax.evaluation.subject import facts_of
from deepsec_jax.progress import progress
from deepsec_jax.randomness import root_key
from deepsec_jax.studies.attack_page import render, terminal_table, write_report

_SEED = 0


def demo(
    folder: str | os.PathLike[str] = "runs/demo", *, n: int = 200, console: Console | None = None
) -> Path:
    """Train (the first time), attack with every preset, print the table, and write the page.

    The model in ``folder/model`` and the candidates in ``folder/candidates`` are made once.  The page
    follows from them and fixed seeds alone, so a later run renews it.

    Args:
        folder: where everything goes.
        n: number of test images to attack.
        console: where to print; default the terminal.

    Returns:
        The path of the page, ``folder/report.html``.

    Raises:
        CheckpointError: ``folder/model`` holds something else than this demo's model.
        DataError: fewer than ``n`` test images are classified correctly.
    """
    started = time.perf_counter()
    folder, console = Path(folder), console or Console()
    dataset = data.load("digits")
    saved = training.train(training.recipe("digits-small"), dataset, folder / "model")
    accuracy, tested = saved.figures["test_accuracy"], saved.figures["test_images"]
    console.print(f"model {folder / 'model'}: test accuracy {100 * accuracy:.1f} % of n = {tested}")
    candidates = data.stored_candidates(saved.model, dataset, n, _SEED, folder / "candidates")

    key, results = root_key(_SEED), []
    with progress("attack", len(attacks.ATTACKS) * n) as advance:
        for name in attacks.ATTACKS:
            attack = shortened(attacks.preset(name, dataset.name))
            advance(0, name)
            results.append(
                run_attack(
                    name, attack, saved.model, candidates, key=key,
                    train_images=lambda: data.training_sample(dataset, _SEED), on_batch=advance,
                )
            )  # fmt: skip

    title = f"Attacks on a small network for digits, n = {n}"
    console.print(terminal_table([result.row for result in results], title))
    facts = {
        **facts_of(ModelFolder(saved.model, saved)),
        "Candidates": f"{n} correctly classified test images, seed {_SEED}",
        "Hyperparameters": "paper (Table XIII; digits take MNIST's column); searches cut to 4 x 60 steps",
        **machine_facts(),
    }
    cards = {name: attacks.preset_card(name, dataset.name) for name in attacks.ATTACKS}
    page = render(title, facts, results, cards, candidates, dataset.class_names)
    path = write_report(folder / "report.html", page, replace=True)
    console.print(f"report {path} ({time.perf_counter() - started:.0f} s in all)")
    return path


def shortened(attack: Any) -> Any:
    """Return a search over constants cut to 4 x 60 longer steps; any other attack as it is."""
    if not hasattr(attack, "search_steps"):
        return attack
    changes: dict[str, Any] = {"search_steps": 4, "steps": min(60, attack.steps), "c": 0.1}
    if hasattr(attack, "learning_rate"):
        changes["learning_rate"] = 0.1
    if hasattr(attack, "copies"):
        changes["copies"] = 4
    return attack.replace(**changes)
