"""The input of a defended model's network, and the outputs of both models."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.evaluation.predictions import Predictions, predict
from deepsec_jax.evaluation.sample import examples_of
from deepsec_jax.model_traits import rejects
from deepsec_jax.placement import on_host
from deepsec_jax.protocols import Classifier, Images
from deepsec_jax.randomness import example_keys, reseed, root_key

_LOOK = 0x6C6F6F6B  # "look": a separate root from those of attacks and the judge


def seen(model: Classifier, x: Images) -> Images:
    """Return the inputs of the network inside a defended model, under one draw if it is randomised.

    ``model.seen(x)`` if the model has this method, images in [0, 1] of any size; otherwise the images
    themselves.
    """
    look = getattr(model, "seen", None)
    return x if look is None else look(x)


def input_arrays(raw: Classifier, defended: Classifier, attacked: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the arrays of a ``model_inputs`` cell: a few images of a cell under attack and clean.

    Args:
        raw: the undefended model.
        defended: the defended one.
        attacked: ``x``, ``x_adv``, ``labels`` and ``rows`` of the cell.
    """
    chosen = examples_of(attacked["labels"])
    x, x_adv, labels, rows = (attacked[name][chosen] for name in ("x", "x_adv", "labels", "rows"))
    keyed = reseed(defended, example_keys(root_key(_LOOK), len(chosen)))
    look = jax.jit(seen)
    found = {"x": x, "x_adv": x_adv, "labels": labels, "rows": rows}
    for ending, images in (("", x), ("_adv", x_adv)):
        found[f"seen{ending}"] = on_host(look(keyed, jnp.asarray(images))).astype(np.float32)
        for whose, model in (("_raw", raw), ("", defended)):
            answers = predict(model, images, labels, batch_size=len(chosen))
            found[f"predicted{whose}{ending}"] = answers.predicted
            found[f"probabilities{whose}{ending}"] = _answered(answers, model)
    return found


def _answered(answers: Predictions, model: Classifier) -> np.ndarray:
    """Return the probabilities of the classes, and of "rejected" if the model can reject, float32."""
    classes = answers.probabilities
    if rejects(model):
        share = answers.rejected[:, None]
        classes = np.concatenate([classes * (1.0 - share), share], axis=1)
    return np.asarray(classes, np.float32)
