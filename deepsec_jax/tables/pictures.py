"""Pictures of a page: clean image, perturbation, adversarial image, and a network's inputs.

They are PNG data URIs at original size, enlarged by the browser without smoothing.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from deepsec_jax.answers import NO_CLASS

SILENT = "no answer"
"""Caption instead of a class if the model returns NaN or infinity."""


def names_for(names: Sequence[Any], classes: int) -> list[str]:
    """Return a name for each of a model's classes, which may outnumber those of the data set."""
    return [*map(str, names), *(f"class {index}" for index in range(len(names), classes))]


def class_in_words(predicted: int, names: Sequence[str]) -> str:
    """Return the name of a predicted class; also for no answer, and for K, which means "rejected"."""
    if predicted == NO_CLASS:
        return SILENT
    return names[predicted] if predicted < len(names) else "rejected"


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
    """Return the template's input for one image: clean, perturbation and adversarial, with captions."""
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


def inputs_example(arrays: Mapping[str, np.ndarray], names: Sequence[str], index: int) -> dict[str, Any]:
    """Return the template's input for one image of a ``model_inputs`` cell: images and network inputs."""

    def said(which: str) -> dict[str, Any]:
        found = int(arrays[f"predicted{which}"][index])
        return {
            "class": class_in_words(found, names),
            "confidence": _share(float(arrays[f"probabilities{which}"][index][found])) if found >= 0 else "",
            "right": found == int(arrays["labels"][index]),
        }

    return {
        "label": names[arrays["labels"][index]],
        "looks": [
            {
                "what": what, "given": _png(arrays[f"x{ending}"][index]),
                "seen": _png(arrays[f"seen{ending}"][index]),
                "raw": said(f"_raw{ending}"), "defended": said(ending),
            }
            for what, ending in (("clean", ""), ("attacked", "_adv"))
        ],
    }  # fmt: skip


def _share(confidence: float) -> str:
    """Return a confidence in percent; empty if there is none, as for votes."""
    return "" if math.isnan(confidence) else f"{100 * confidence:.0f}\N{NO-BREAK SPACE}%"


UP, DOWN = np.array([0.79, 0.16, 0.11]), np.array([0.12, 0.38, 0.71])  # brighter, darker


def coloured(delta: np.ndarray) -> np.ndarray:
    """Scale a perturbation so that its largest entry has full colour.

    One channel: white is no change, red brighter, blue darker.  Colour: grey is no change, each channel is
    shifted by its change.
    """
    largest = float(np.abs(delta).max())
    scaled = delta / largest if largest > 0 else np.zeros_like(delta)
    if delta.shape[-1] != 1:
        return 0.5 + scaled / 2
    colours: np.ndarray = 1 - np.maximum(scaled, 0) * (1 - UP) - np.maximum(-scaled, 0) * (1 - DOWN)
    return colours


def _png(image: np.ndarray) -> str:
    """Return an image [H, W, C] in [0, 1] as a data URI; other than one or three channels are averaged."""
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if pixels.shape[-1] != 3:
        pixels = np.repeat(pixels.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def number(value: float) -> str:
    """Return a number with three digits; n/a for NaN."""
    return "n/a" if math.isnan(value) else f"{value:#.3g}" if value < 100 else f"{value:.0f}"
