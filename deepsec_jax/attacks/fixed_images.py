"""FixedImages: stored images as an attack, for another attack to start from."""

from typing import ClassVar

from deepsec_jax.attacks.call import label_targets
from deepsec_jax.attacks.cost import Cost
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import Struct, static


class FixedImages(Struct):
    """Return these images for any model: ``Square(start=FixedImages(x_adv))(model, x, labels, key=key)``.

    They belong to one batch, row by row; ``run_in_batches`` slices them with the images.

    Attributes:
        images: [B, H, W, C] of the dtype of the batch, in [0, 1] and in the ball of the next attack.
        targeted: whether they were made to reach ``labels``, static.
    """

    images: Images
    targeted: bool = static(False)

    per_image: ClassVar[tuple[str, ...]] = ("images",)
    uses_gradients: ClassVar[bool] = False
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image: none."""
        del classes, entries
        return Cost(0.0, 0.0)

    def __call__(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        """Return the images; model and key are ignored.

        Raises:
            ValueError: they do not have the batch's shape.
        """
        del model, labels, key
        if self.images.shape != x.shape:
            raise ValueError(
                f"FixedImages.images are {list(self.images.shape)}, the batch is {list(x.shape)}: "
                "give one per row"
            )
        return self.images
