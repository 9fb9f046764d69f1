"""What the benchmarks measure: a model with images it classifies correctly, their labels and random targets.

A subject is named on the command line: a model folder (``defenses.load``), ``plain`` or
``plain-nhwc`` (networks that are not ours, see :func:`plain_network`), or ``random:<model>`` for a freshly
initialised model of the package (``random:mnist_cnn``), good for memory and timing only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax import data, defenses, models

SHAPES = {
    "mnist_cnn": (28, 28, 1), "small_cnn": (8, 8, 1), "resnet20": (32, 32, 3), "resnet56": (32, 32, 3),
    "alexnet": (28, 28, 1), "densenet": (32, 32, 3),
}  # fmt: skip
_forward = jax.jit(lambda model, x: model(x))


@dataclass(frozen=True)
class Subject:
    """A model and the rows to attack it on.

    Attributes:
        name: as given on the command line.
        model: pytree callable in evaluation mode.
        network: key in ``deepsec_jax.models.MODELS``, or ``plain``.
        presets: data set whose presets are used, ``mnist`` or ``cifar10``.
        images: float32 [N, H, W, C] in [0, 1]; labels: int32 [N], what the model answers;
            targets: int32 [N], a random other class.
        classes: number of classes K.
        note: where rows and weights come from, for the report.
    """

    name: str
    model: Callable[[jax.Array], jax.Array]
    network: str
    presets: str
    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    classes: int
    note: str

    def attack_labels(self, attack: Any) -> np.ndarray:
        """Return what this attack takes as labels: targets when it is targeted, else the true classes."""
        return self.targets if getattr(attack, "targeted", False) else self.labels


def load_subject(name: str, n: int, *, data_dir: str | None = None, seed: int = 0) -> Subject:
    """Build the subject of that name with ``n`` rows, or fewer where its test set holds fewer."""
    if name.startswith("plain"):
        shape = (28, 28, 1)
        model = plain_network(shape, channels_first=name == "plain", seed=seed)
        return _with_noise_images(name, model, "plain", shape, n, seed)
    if name.startswith("random:"):
        network = name.removeprefix("random:")
        module: Any = models.build(network, SHAPES[network], 10, seed=seed)
        module.eval()
        return _with_noise_images(name, module, network, SHAPES[network], n, seed)
    found = defenses.load(name)
    if not found.is_network:
        raise SystemExit(f"{name} is more than its network: peers are given networks alone")
    saved = found.saved
    dataset = data.load(saved.recipe.data, data_dir=data_dir)
    images = data.unit_images(np.asarray(dataset.test.images))
    right = int((answers(saved.model, images) == dataset.test.labels).sum())
    rows = data.make_candidates(lambda x: _forward(saved.model, x), dataset.test, min(n, right), seed)
    return Subject(
        name, saved.model, saved.recipe.model, _presets(dataset.image_shape), rows.images, rows.labels,
        rows.targets, dataset.classes,
        f"{len(rows)} of {right} correctly classified test images of {dataset.name}, seed {seed}",
    )  # fmt: skip


def answers(model: Any, images: np.ndarray, *, batch_size: int = 250) -> np.ndarray:
    """Return the model's class for each image, int32 [N]."""
    starts = range(0, len(images), batch_size)
    logits = [np.asarray(_forward(model, images[start : start + batch_size])) for start in starts]
    return np.concatenate(logits).argmax(-1).astype(np.int32)


def plain_network(shape: tuple[int, int, int], *, channels_first: bool, seed: int) -> Any:
    """Return a convolutional network written by hand, as a user might bring it, with random weights.

    Three 3x3 convolutions by ``lax.conv`` on images turned to channels first with kernels out, in, height,
    width; or, with ``channels_first=False``, the same in jax's other common layout (NHWC, HWIO).
    """
    height, width, channels = shape
    keys = jax.random.split(jax.random.key(seed), 4)
    widths = (channels, 32, 64, 64)
    kernels = []
    for key, inputs, outputs in zip(keys[:3], widths, widths[1:], strict=False):
        kernel = jax.random.normal(key, (3, 3, inputs, outputs)) * (2.0 / (9 * inputs)) ** 0.5
        kernels.append(jnp.transpose(kernel, (3, 2, 0, 1)) if channels_first else kernel)
    features = ((height + 1) // 2) * ((width + 1) // 2) * 64
    dense = jax.random.normal(keys[3], (features, 10)) * (1.0 / features) ** 0.5
    return jax.tree_util.Partial(_plain_first if channels_first else _plain_last, (tuple(kernels), dense))


def _plain_first(params: Any, x: jax.Array) -> jax.Array:
    (first, second, third), dense = params
    x = jnp.transpose(x, (0, 3, 1, 2))
    x = jax.nn.relu(lax.conv(x, first, (1, 1), "SAME"))
    x = jax.nn.relu(lax.conv(x, second, (2, 2), "SAME"))
    x = jax.nn.relu(lax.conv(x, third, (1, 1), "SAME"))
    return x.reshape(x.shape[0], -1) @ dense


def _plain_last(params: Any, x: jax.Array) -> jax.Array:
    (first, second, third), dense = params
    for kernel, stride in ((first, 1), (second, 2), (third, 1)):
        x = lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x)
    return x.reshape(x.shape[0], -1) @ dense


def _with_noise_images(
    name: str, model: Any, network: str, shape: tuple[int, int, int], n: int, seed: int
) -> Subject:
    rng = np.random.default_rng(seed)
    images = rng.random((n, *shape), np.float32)
    labels = answers(model, images)
    targets = _random_targets(labels, 10, rng)
    note = f"random weights and {n} images of uniform noise, seed {seed}: cost only, success means nothing"
    return Subject(name, model, network, _presets(shape), images, labels, targets, 10, note)


def _presets(shape: tuple[int, int, int]) -> str:
    """The paper's settings by number of channels, as ``attacks.preset`` does for sets not in its table."""
    return "mnist" if shape[2] == 1 else "cifar10"


def _random_targets(labels: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    return ((labels + rng.integers(1, classes, len(labels))) % classes).astype(np.int32)


def subject_title(name: str) -> str:
    """Return a short name that is fit for a file name."""
    return name.replace(":", "-") if not Path(name).exists() else Path(name).resolve().name
