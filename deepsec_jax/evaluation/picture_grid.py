"""One attack on a page: its hyperparameters, and a grid of clean image, perturbation and adversarial image.

Pictures are PNG data URIs at their own size, enlarged by the browser without smoothing.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from deepsec_jax.answers import NO_CLASS
from deepsec_jax.attacks import ATTACKS
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.attack_table import Result, found_classes

EXAMPLES = 8
"""Images shown of each attack."""

SILENT = "no answer"
"""What a picture says in the place of a class where the model answers with NaN or infinity."""


def examples_of(labels: np.ndarray) -> list[int]:
    """Return the first candidate of each class, then further ones; the same images for every attack."""
    _, firsts = np.unique(labels, return_index=True)
    others = np.setdiff1d(np.arange(len(labels)), firsts)
    return [int(index) for index in (*sorted(firsts), *others)][:EXAMPLES]


def section_of(
    result: Result,
    card: Mapping[str, Mapping[str, Any]],
    candidates: Candidates,
    class_names: Sequence[str],
    examples: Sequence[int],
) -> dict[str, Any]:
    """Return what a template shows of one attack: hyperparameters with their sources, and pictures.

    Args:
        result: the attack's result.
        card: field -> {value, source, reason}; fields without an entry are class defaults.
        candidates: the clean images.
        class_names: names of the classes.
        examples: rows to show.
    """
    attack = ATTACKS.get(result.row.attack.partition("@")[0])
    described = getattr(attack, "card", None)
    defaults = {"source": "default of the class", "reason": ""}
    return {
        "row": result.row,
        "title": described.title if described else "",
        "reference": described.reference if described else "",
        "fields": [
            {**defaults, **card.get(name, {}), "name": name, "value": _value(value)}
            for name, value in result.row.hyperparameters.items()
        ],
        "examples": [_example(result, candidates, class_names, index) for index in examples],
    }


def _example(
    result: Result, candidates: Candidates, class_names: Sequence[str], index: int
) -> dict[str, Any]:
    target = int(result.targets[index])
    return example(
        candidates.images[index], result.x_adv[index],
        label=class_names[candidates.labels[index]],
        predicted=SILENT if result.predicted[index] == NO_CLASS else class_names[result.predicted[index]],
        confidence=float(result.confidence[index]), success=bool(result.success[index] >= 0.5),
        target=class_names[target] if target >= 0 else None,
    )  # fmt: skip


def example(
    clean: np.ndarray,
    adversarial: np.ndarray,
    *,
    label: str,
    predicted: str,
    confidence: float,
    success: bool,
    target: str | None = None,
) -> dict[str, Any]:
    """Return what a template shows of one image: clean, perturbation and adversarial, with captions."""
    delta = adversarial - clean
    return {
        "clean": _png(clean),
        "perturbation": _png(coloured(delta)),
        "adversarial": _png(adversarial),
        "label": label,
        "largest": number(float(np.abs(delta).max())),
        "predicted": predicted,
        "confidence": _share(confidence),
        "target": target,
        "success": success,
        "silent": predicted == SILENT,
    }


def sight_example(arrays: Mapping[str, np.ndarray], names: Sequence[str], index: int) -> dict[str, Any]:
    """Return what a template shows of one image of a ``sight`` cell: given and seen, clean and attacked."""

    def answer(which: str) -> dict[str, Any]:
        probabilities = arrays[which][index]
        found = int(found_classes(probabilities[None])[0])
        return {
            "class": SILENT if found == NO_CLASS else names[found] if found < len(names) else "rejected",
            "confidence": _share(float(probabilities[found])),
            "right": found == int(arrays["labels"][index]),
        }

    return {
        "label": names[arrays["labels"][index]],
        "looks": [
            {
                "what": what, "given": _png(arrays[f"x{ending}"][index]),
                "seen": _png(arrays[f"seen{ending}"][index]),
                "raw": answer(f"probabilities_raw{ending}"), "defended": answer(f"probabilities{ending}"),
            }
            for what, ending in (("clean", ""), ("attacked", "_adv"))
        ],
    }  # fmt: skip


def _share(confidence: float) -> str:
    return "n/a" if math.isnan(confidence) else f"{100 * confidence:.0f}\N{NO-BREAK SPACE}%"


UP, DOWN = np.array([0.79, 0.16, 0.11]), np.array([0.12, 0.38, 0.71])  # brighter, darker


def coloured(delta: np.ndarray) -> np.ndarray:
    """Scale a change so that its largest entry has full colour.

    One channel: white is no change, red brighter, blue darker.  Colour: grey is no change, each channel
    moved its own way.
    """
    largest = float(np.abs(delta).max())
    scaled = delta / largest if largest > 0 else np.zeros_like(delta)
    if delta.shape[-1] != 1:
        return 0.5 + scaled / 2
    return 1 - np.maximum(scaled, 0) * (1 - UP) - np.maximum(-scaled, 0) * (1 - DOWN)


def _png(image: np.ndarray) -> str:
    """Return an image [H, W, C] in [0, 1] as a data URI; one or three channels, others by their mean."""
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if pixels.shape[-1] != 3:
        pixels = np.repeat(pixels.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def number(value: float) -> str:
    """Return a figure in three digits; n/a for NaN."""
    return "n/a" if math.isnan(value) else f"{value:#.3g}" if value < 100 else f"{value:.0f}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
