"""Several attacks on the same images in one call; host code."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deepsec_jax.attacks.batching import run_in_batches
from deepsec_jax.attacks.uap import prepare
from deepsec_jax.protocols import Attack, Classifier, Key


def run_all(
    attacks: Mapping[str, Attack] | Sequence[Attack],
    model: Classifier,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    key: Key,
    targets: np.ndarray | None = None,
    train_images: np.ndarray | None = None,
    batch_size: int = 128,
    on_batch: Callable[[int], Any] | None = None,
) -> dict[str, np.ndarray]:
    """Run attacks one after the other, each on all clean images.

        made = attacks.run_all({"pgd": PGD(), "cw2": CW2()}, model, x, labels, targets=targets, key=key)

    Args:
        attacks: by name; attacks in a sequence are named by their ``repr``.
        model: a classifier in evaluation mode.
        x: images [N, H, W, C] in [0, 1].
        labels: true classes [N].
        key: of all attacks; each gets the same key.
        targets: classes to reach [N], for attacks with ``targeted=True``.
        train_images: for fitting a UAP, float [M, H, W, C].
        batch_size: images per call.
        on_batch: called after every batch with the number of images just done.

    Returns:
        Name -> adversarial images [N, H, W, C].

    Raises:
        ValueError: two attacks with one name, or a missing argument; checked before any computation.
    """
    named = dict(attacks) if isinstance(attacks, Mapping) else {repr(attack): attack for attack in attacks}
    if len(named) != len(attacks):
        raise ValueError("two attacks of the sequence are the same: give each once, or a dict with names")
    for name, attack in named.items():
        if getattr(attack, "targeted", False) and targets is None:
            raise ValueError(f"{name} is targeted: pass targets=, the classes to reach")
        if hasattr(attack, "fit") and train_images is None:
            raise ValueError(f"{name} is fitted to training images: pass train_images=")
    return {
        name: run_in_batches(
            prepare(attack, model, train_images, key=key), model, x,
            targets if targets is not None and getattr(attack, "targeted", False) else labels,
            key=key, batch_size=batch_size, on_batch=on_batch,
        )
        for name, attack in named.items()
    }  # fmt: skip
