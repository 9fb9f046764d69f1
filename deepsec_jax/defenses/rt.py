"""RT: random resizing and random padding before the undefended network."""

import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.base import Base, DefenseError, keep_network
from deepsec_jax.defenses.transformed import DRAWS, Transformed
from deepsec_jax.field_checks import count, share
from deepsec_jax.model_traits import logits_shape
from deepsec_jax.models.wrappers import EOT
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import first_keys
from deepsec_jax.training import Saved
from deepsec_jax.transforms import resize_pad


class ResizePad(Struct):
    """RT's transform: a random side, then a random position on the canvas; fields as in :class:`RT`."""

    pad: Scalar = 0.0
    smallest: int = static(28)
    largest: int = static(31)

    def __call__(self, x: Images, keys: Keys) -> Images:
        """Return images [B, largest, largest, C]; one key per row."""
        resized: Images = resize_pad(x, keys, self.smallest, self.largest, self.pad)
        return resized


class RT(Struct):
    """Resize every image to a random side and pad it randomly to a fixed canvas; nothing is trained.

    Resizing is bilinear, so gradients are exact; only the random draw hinders an attacker.  The surrogate is
    the mean logits over draws.

    Attributes:
        pad: value around the image.
        smallest: least side in pixels, static.
        largest: greatest side, drawn as often as any other; also the side of the canvas, static.

    References:
        Xie et al., "Mitigating Adversarial Effects Through Randomization", ICLR 2018, arXiv:1711.01991.
    """

    pad: Scalar = field(0.0, check=share)
    smallest: int = static(28, check=count)
    largest: int = static(31, check=count)

    keeps_network: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        name="RT",
        title="Random resizing and padding",
        reference="Xie et al., ICLR 2018, arXiv:1711.01991",
        goal="complete",
        kind="input transformation",
    )

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the base's network with the transform; see :class:`deepsec_jax.protocols.Defense`.

        Raises:
            DefenseError: images or a network that do not accept these sizes.
        """
        del key  # no random numbers before the first image
        height, width, channels = data.image_shape
        if height != width or not height <= self.smallest <= self.largest:
            raise DefenseError(
                f"RT resizes to sides from {self.smallest} to {self.largest}, and {data.name} has images of "
                f"{height} x {width}: they must be square and no larger"
            )
        self._check_network(base.trained, channels)
        classifier = self._around(base.trained)
        keep_network(base, data, folder, answers=classifier, figures={})
        return classifier

    def restore(self, saved: Saved, folder: Any) -> Classifier:
        """Return the classifier around the network of a folder."""
        del folder
        return self._around(saved.model)

    def surrogate(self, classifier: Classifier) -> Classifier:
        """Return the mean over draws; resizing is differentiable."""
        return EOT(classifier, DRAWS)

    def _transform(self) -> ResizePad:
        return ResizePad(self.pad, self.smallest, self.largest)

    def _around(self, network: Classifier) -> Classifier:
        return Transformed(network, self._transform(), first_keys())

    def _check_network(self, network: Classifier, channels: int) -> None:
        one = jax.ShapeDtypeStruct((1, self.largest, self.largest, channels), jnp.float32)
        try:
            logits_shape(network, one)
        except Exception as error:
            said = " ".join(str(error).split())[:100]
            raise DefenseError(
                f"RT gives its network images of {self.largest} x {self.largest}, which this one does "
                f"not take ({said}): mnist_cnn and resnet20 do, or give another largest side"
            ) from None
