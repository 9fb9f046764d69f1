"""The digits of scikit-learn: a set that needs no download."""

import numpy as np

from deepsec_jax.data.datasets import Dataset, Split


def digits() -> Dataset:
    """Embedded: 1797 images of 8x8 from scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 17 grey levels 0..16; scikit-learn's order interleaves writers, so a fixed shuffle splits fairly.
    images = (bunch.images / 16.0).astype(np.float32)[..., None]
    labels = bunch.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:450], order[450:]
    everything = Split(images, labels)
    names = tuple(str(digit) for digit in range(10))
    return Dataset("digits", everything.take(train), everything.take(test), names)
