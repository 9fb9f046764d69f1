"""EIT: an ensemble of input transformations, in training and at test time."""

import os
from typing import Any, ClassVar

import jax

from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.base import Base, Changes, DefenseError, recipe_changes, retrain
from deepsec_jax.defenses.transformed import DRAWS, AccuracyThrough, LossThrough, Transformed
from deepsec_jax.field_checks import integer, share
from deepsec_jax.models.wrappers import EOT, straight_through
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import first_keys
from deepsec_jax.training import Saved
from deepsec_jax.transforms import crop_resize, jpeg, kept_pixels, to_levels, tv_minimised


class InputTransforms(Struct):
    """EIT's four transforms in sequence; a number of 0 leaves one out.

    Attributes:
        lam: weight of the total variation.
        keep: probability that a pixel is kept for total variation minimisation.
        crop: side of the random crop, which is resized to the image's size, static.
        p: norm of the total variation, 1 or 2, static.
        sweeps: of total variation minimisation, static.
        quality: of JPEG, colours at half their size, static.
        bits: of every pixel, static.
        straight: use the identity's gradient for all transforms except the crop, static.
    """

    lam: Scalar = 0.03
    keep: Scalar = 0.5
    crop: int = static(26)
    p: int = static(2)
    sweeps: int = static(100)
    quality: int = static(85)
    bits: int = static(4)
    straight: bool = static(False)

    def __call__(self, x: Images, keys: Keys) -> Images:
        """Return transformed images; one key per row."""
        both = jax.vmap(jax.random.split)(keys)
        if self.crop:
            x = crop_resize(x, both[:, 0], self.crop)
        kept = kept_pixels(both[:, 1], (x.shape[1], x.shape[2]), self.keep)

        def coded(x: Images) -> Images:
            if self.sweeps:
                x = tv_minimised(x, kept, self.lam, p=self.p, sweeps=self.sweeps)
            if self.quality:
                x = jpeg(x, self.quality, subsampling="4:2:0")
            return to_levels(x, self.bits) if self.bits else x

        return straight_through(coded)(x) if self.straight else coded(x)


class EIT(Struct):
    """Crop and rescale, minimise total variation, compress as JPEG, reduce the bit depth, and retrain.

    Crop and dropped pixels are drawn for every image in every step of training, and at test time from the
    classifier's keys.  The epoch with the best accuracy on transformed images is kept.

    JPEG and the bit depth have no gradient.  That of total variation minimisation is expensive, and zero at
    every dropped pixel.  The surrogate uses the identity's gradient for these three, the exact gradient of
    the crop, and the mean logits over draws.

    Attributes:
        lam: weight of the total variation, see :func:`deepsec_jax.transforms.tv_minimised`.
        keep: probability that a pixel is kept for total variation minimisation.
        crop: side of the crop in pixels, 0 for none, static.
        p: norm of the total variation, static.
        sweeps: of its minimisation, 0 for none, static.
        quality: of JPEG, 0 for none, static.
        bits: of every pixel, 0 for all, static.
        changes: what differs from the base's recipe, static.

    References:
        Guo et al., "Countering Adversarial Images using Input Transformations", ICLR 2018,
        arXiv:1711.00117.
    """

    lam: Scalar = 0.03
    keep: Scalar = field(0.5, check=share)
    crop: int = static(26, check=integer(0))
    p: int = static(2, check=integer(1, 2))
    sweeps: int = static(100, check=integer(0))
    quality: int = static(85, check=integer(0, 100))
    bits: int = static(4, check=integer(0, 16))
    changes: Changes = static((), check=recipe_changes)

    differentiable: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        name="EIT",
        title="Ensemble of input transformations",
        reference="Guo et al., ICLR 2018, arXiv:1711.00117",
        goal="complete",
        kind="input transformation",
    )

    def transforms(self) -> InputTransforms:
        """Return the transform in front of the network."""
        return InputTransforms(
            self.lam, self.keep, self.crop, self.p, self.sweeps, self.quality, self.bits
        )  # fmt: skip

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the retrained network with its transforms; see :class:`deepsec_jax.protocols.Defense`.

        Raises:
            DefenseError: a crop larger than the images.
        """
        height, width, _ = data.image_shape
        if self.crop and (self.crop > height or height != width):
            raise DefenseError(
                f"EIT.crop = {self.crop} does not fit {data.name}, images of {height} x {width}: it is "
                "the side of a part of a square image"
            )
        through = AccuracyThrough(self.transforms())
        saved = retrain(
            self, base, data, LossThrough(self.transforms()), key=key, folder=folder,
            score=through, tested={"test_accuracy": through},
        )  # fmt: skip
        return self.restore(saved, folder)

    def restore(self, saved: Saved, folder: Any) -> Classifier:
        """Return the classifier around the network of a folder."""
        del folder
        return Transformed(saved.model, self.transforms(), first_keys())

    def surrogate(self, classifier: Any) -> Classifier:
        """Return the mean over draws, with the identity's gradient for transforms without a useful one."""
        return EOT(classifier.replace(transform=classifier.transform.replace(straight=True)), DRAWS)
