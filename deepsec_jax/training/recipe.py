"""Training recipes as plain data: a checkpoint stores one, and it rebuilds the model."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import optax

from deepsec_jax.catalog import lookup


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, except the data.

    Attributes:
        name: key in :data:`RECIPES`; a ``-small`` recipe never carries the paper's title.
        data: data set name.
        model: key in ``deepsec_jax.models.MODELS``.
        epochs: passes over the training part.
        batch_size: examples per step.
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adam``.
        learning_rate: peak learning rate.
        schedule: ``constant``, ``one_cycle`` (linear up, linear down to 0) or ``steps``
            (x 0.1 after 40, 60, 80 % of the epochs, x 0.5 after 90 %).
        weight_decay: L2 penalty's gradient factor on kernels (added to the gradient).
        augment: ``none``, or ``shift_flip`` (shift up to 10 % with zero fill, horizontal flip).
        validation: share of the training split held out to select the best epoch.
        seed: of initial weights, split, order, dropout and augmentation.
        image_size: height and width to which a folder of images is resized, by Pillow's bilinear filter with
            antialiasing; None for the stored size.
        source: where the values come from.
    """

    name: str
    data: str
    model: str
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    schedule: str
    weight_decay: float = 0.0
    augment: str = "none"
    validation: float = 0.1
    seed: int = 100
    source: str = ""
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be sgd or adam, got {self.optimizer!r}")
        if self.schedule not in ("constant", "one_cycle", "steps"):
            raise ValueError(f"schedule must be constant, one_cycle or steps, got {self.schedule!r}")
        if self.augment not in ("none", "shift_flip"):
            raise ValueError(f"augment must be none or shift_flip, got {self.augment!r}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs and batch_size must be at least 1, got {self.epochs}, {self.batch_size}"
            )
        if not 0.0 < self.validation < 1.0:
            raise ValueError(f"validation must lie between 0 and 1, got {self.validation}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        values = asdict(self)
        if self.image_size is None:  # as in folders of versions without this field
            del values["image_size"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Rebuild a recipe from :meth:`to_dict`; an unknown field is an error."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown recipe fields {', '.join(sorted(unknown))}")
        size = values.get("image_size")
        return cls(**values | {"image_size": None if size is None else (int(size[0]), int(size[1]))})

    def transformation(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """Return the optimiser with its schedule for this many steps an epoch."""
        total = steps_per_epoch * self.epochs
        if self.schedule == "one_cycle":
            rate = optax.join_schedules(
                [
                    optax.linear_schedule(self.learning_rate / 10, self.learning_rate, max(1, total // 4)),
                    optax.linear_schedule(self.learning_rate, 0.0, max(1, total - total // 4)),
                ],
                [max(1, total // 4)],
            )
        elif self.schedule == "steps":
            drops = {0.4: 0.1, 0.6: 0.1, 0.8: 0.1, 0.9: 0.5}
            rate = optax.piecewise_constant_schedule(
                self.learning_rate, {int(part * total): factor for part, factor in drops.items()}
            )
        else:
            rate = optax.constant_schedule(self.learning_rate)
        decay = optax.add_decayed_weights(self.weight_decay, mask=_is_kernel)
        if self.optimizer == "adam":
            return optax.chain(decay, optax.adam(rate))
        return optax.chain(decay, optax.sgd(rate, momentum=0.9, nesterov=True))


def _is_kernel(params: Any) -> Any:
    """Mark matrices and convolution kernels; biases and normalisation scales are not decayed."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


ROWS = (
    Recipe(
        name="digits-small", data="digits", model="small_cnn", epochs=30, batch_size=64, optimizer="adam",
        learning_rate=3e-3, schedule="one_cycle", source="ours, for the demo: seconds on two cores",
    ),
    Recipe(
        name="digits-model1-small", data="digits", model="small_cnn", epochs=30, batch_size=64,
        optimizer="adam", learning_rate=3e-3, schedule="one_cycle", seed=101,
        source="ours, transfer model 1 on digits: the network of digits-small, other initial weights",
    ),
    Recipe(
        name="digits-model2-small", data="digits", model="static_c", epochs=30, batch_size=64,
        optimizer="adam", learning_rate=3e-3, schedule="one_cycle",
        source="ours, transfer model 2 on digits: another convolutional network",
    ),
    Recipe(
        name="digits-model3-small", data="digits", model="static_d", epochs=30, batch_size=64,
        optimizer="adam", learning_rate=3e-3, schedule="one_cycle",
        source="ours, transfer model 3 on digits: a network of dense layers",
    ),
    Recipe(
        name="mnist-paper", data="mnist", model="mnist_cnn", epochs=20, batch_size=100, optimizer="sgd",
        learning_rate=0.05, schedule="constant", weight_decay=1e-6,
        source="DEEPSEC's code: 20 epochs of Nesterov SGD 0.05, L2 1e-6, best validation epoch of a 90/10 "
               "split",
    ),
    Recipe(
        name="mnist-small", data="mnist", model="mnist_cnn", epochs=5, batch_size=100, optimizer="sgd",
        learning_rate=0.05, schedule="one_cycle", weight_decay=1e-6,
        source="ours: the paper's network and peak rate, 5 epochs of one-cycle SGD",
    ),
    Recipe(
        name="cifar10-paper", data="cifar10", model="resnet20", epochs=200, batch_size=32, optimizer="adam",
        learning_rate=1e-3, schedule="steps", weight_decay=1e-4, augment="shift_flip",
        source="DEEPSEC's code, with the L2 1e-4 of Table XII that the code leaves out",
    ),
    Recipe(
        name="cifar10-small", data="cifar10", model="resnet20", epochs=8, batch_size=64, optimizer="sgd",
        learning_rate=0.1, schedule="one_cycle", weight_decay=1e-4, augment="shift_flip",
        source="ours: the paper's network, 8 epochs of one-cycle SGD",
    ),
    Recipe(
        name="mnist-model1-paper", data="mnist", model="mnist_cnn", epochs=20, batch_size=100,
        optimizer="sgd", learning_rate=0.05, schedule="constant", weight_decay=1e-6, seed=101,
        source="Model 1 of the transferability study (V-A): the paper's network from other initial "
               "weights; trained as mnist-paper",
    ),
    Recipe(
        name="mnist-model2-paper", data="mnist", model="mnist_cnn_block", epochs=20, batch_size=100,
        optimizer="sgd", learning_rate=0.05, schedule="constant", weight_decay=1e-6, seed=102,
        source="Model 2 of the transferability study (IX-B): one convolution block more; trained as "
               "mnist-paper",
    ),
    Recipe(
        name="mnist-model3-paper", data="mnist", model="alexnet", epochs=20, batch_size=100, optimizer="sgd",
        learning_rate=0.02, schedule="constant", weight_decay=1e-6, seed=103,
        source="Model 3 of the transferability study (IX-B): AlexNet; trained as mnist-paper, at a rate "
               "that AlexNet bears",
    ),
    Recipe(
        name="mnist-model1-small", data="mnist", model="mnist_cnn", epochs=3, batch_size=100, optimizer="sgd",
        learning_rate=0.05, schedule="one_cycle", weight_decay=1e-6, seed=101,
        source="ours: the network of mnist-model1-paper, 3 epochs of one-cycle SGD",
    ),
    Recipe(
        name="mnist-model2-small", data="mnist", model="mnist_cnn_block", epochs=3, batch_size=100,
        optimizer="sgd", learning_rate=0.05, schedule="one_cycle", weight_decay=1e-6, seed=102,
        source="ours: the network of mnist-model2-paper, 3 epochs of one-cycle SGD",
    ),
    Recipe(
        name="mnist-model3-small", data="mnist", model="alexnet", epochs=3, batch_size=100, optimizer="sgd",
        learning_rate=0.02, schedule="one_cycle", weight_decay=1e-6, seed=103,
        source="ours: the network of mnist-model3-paper, 3 epochs of one-cycle SGD",
    ),
    Recipe(
        name="cifar10-model1-paper", data="cifar10", model="resnet20", epochs=200, batch_size=32,
        optimizer="adam", learning_rate=1e-3, schedule="steps", weight_decay=1e-4, augment="shift_flip",
        seed=101,
        source="Model 1 of the transferability study (V-A): the paper's network from other initial "
               "weights; trained as cifar10-paper",
    ),
    Recipe(
        name="cifar10-model2-paper", data="cifar10", model="resnet56", epochs=200, batch_size=32,
        optimizer="adam", learning_rate=1e-3, schedule="steps", weight_decay=1e-4, augment="shift_flip",
        seed=102,
        source="Model 2 of the transferability study (IX-B): ResNet-56; trained as cifar10-paper",
    ),
    Recipe(
        name="cifar10-model3-paper", data="cifar10", model="densenet", epochs=200, batch_size=32,
        optimizer="adam", learning_rate=1e-3, schedule="steps", weight_decay=1e-4, augment="shift_flip",
        seed=103,
        source="Model 3 of the transferability study (IX-B): DenseNet, of depth 40; trained as "
               "cifar10-paper",
    ),
    Recipe(
        name="cifar10-model1-small", data="cifar10", model="resnet20", epochs=8, batch_size=64,
        optimizer="sgd", learning_rate=0.1, schedule="one_cycle", weight_decay=1e-4, augment="shift_flip",
        seed=101,
        source="ours: the network of cifar10-model1-paper, 8 epochs of one-cycle SGD",
    ),
    Recipe(
        name="cifar10-model2-small", data="cifar10", model="resnet56", epochs=8, batch_size=64,
        optimizer="sgd", learning_rate=0.1, schedule="one_cycle", weight_decay=1e-4, augment="shift_flip",
        seed=102,
        source="ours: the network of cifar10-model2-paper, 8 epochs of one-cycle SGD",
    ),
    Recipe(
        name="cifar10-model3-small", data="cifar10", model="densenet", epochs=8, batch_size=64,
        optimizer="sgd", learning_rate=0.1, schedule="one_cycle", weight_decay=1e-4, augment="shift_flip",
        seed=103,
        source="ours: the network of cifar10-model3-paper, 8 epochs of one-cycle SGD",
    ),
)  # fmt: skip
"""All values are literal, so that ``deepsec list`` reads them without importing jax."""

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in ROWS}
"""Every recipe by name."""


def recipe(name: str) -> Recipe:
    """Return a recipe by name."""
    return lookup(RECIPES, name, "recipe")
