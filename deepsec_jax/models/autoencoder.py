"""Small convolutional autoencoders for MagNet."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from deepsec_jax.protocols import Images

KINDS = ("pooled", "flat")

_glorot = nnx.initializers.glorot_uniform()


class Autoencoder(nnx.Module):
    """Images -> images of the same shape, by 3x3 convolutions, each followed by a sigmoid.

    ``pooled``: conv, 2x2 mean, conv, conv, upsampling by 2, conv, conv; the bottleneck has a quarter of the
    pixels.  ``flat``: three convolutions without a change of resolution.  The last convolution has the
    image's channels, all others ``filters``.

    References:
        Meng, Chen, "MagNet: a Two-Pronged Defense against Adversarial Examples", CCS 2017,
        arXiv:1705.09064.
    """

    def __init__(self, channels: int, *, kind: str = "flat", filters: int = 3, rngs: nnx.Rngs):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.pooled = kind == "pooled"
        widths = [channels, *[filters] * (4 if self.pooled else 2), channels]
        self.convs = nnx.List([
            nnx.Conv(ins, outs, (3, 3), padding="SAME", kernel_init=_glorot, rngs=rngs)
            for ins, outs in pairwise(widths)
        ])  # fmt: skip

    def __call__(self, x: Images) -> Images:
        """Return the reconstructions [B, H, W, C], in (0, 1).

        Raises:
            ValueError: ``pooled`` and a side that is odd.
        """
        if self.pooled and (x.shape[1] % 2 or x.shape[2] % 2):
            raise ValueError(f"a pooled autoencoder needs even sides, got {x.shape[1]} x {x.shape[2]}")
        last = len(self.convs) - 1
        for number, conv in enumerate(self.convs):
            x = jax.nn.sigmoid(conv(x))
            if self.pooled and number == 0:
                batch, height, width, filters = x.shape
                x = x.reshape(batch, height // 2, 2, width // 2, 2, filters).mean(axis=(2, 4))
            if self.pooled and number == last - 2:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return x
