"""RIC, robustness to image compression: successful images that stay successful as JPEG, quality 90.

The paper compresses with Guetzli, which is slow and no longer maintained.  The default here is libjpeg
without chroma subsampling, through Pillow.  Guetzli is a separate column if its binary is installed, because
the two are not comparable.
"""

import io
import subprocess
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from PIL import Image

from deepsec_jax.metrics.pictures import through_pictures
from deepsec_jax.metrics.record import AttackRecord, Column, success_on
from deepsec_jax.placement import on_host
from deepsec_jax.transforms import jpeg

QUALITY = 90
"""The paper's value."""


def ric(record: AttackRecord) -> jax.Array:
    """Return the success [B] of images after a real JPEG codec (on the host)."""
    return success_on(record, jnp.asarray(through_pictures(on_host(record.x_adv), _compressed)))


def _compressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return Image.open(buffer)


def ric_device(record: AttackRecord) -> jax.Array:
    """Return the success [B] of images after the lossy part of JPEG, on the device."""
    return success_on(record, jpeg(record.x_adv, QUALITY))


def ric_guetzli(record: AttackRecord) -> jax.Array:
    """Return the success [B] of images after Guetzli (on the host, one process per picture)."""
    return success_on(record, jnp.asarray(through_pictures(on_host(record.x_adv), _by_guetzli)))


def _by_guetzli(picture: Image.Image) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "image.png", Path(folder) / "image.jpg"
        picture.save(before)
        subprocess.run(
            ["guetzli", "--quality", str(QUALITY), str(before), str(after)], check=True, capture_output=True
        )
        with Image.open(after) as compressed:
            return compressed.convert(picture.mode)


COLUMNS = (
    Column("ric", "ric", "RIC jpeg90", "MR of x_adv after Pillow's JPEG, quality 90, 4:4:4", "II-B3",
           "share", "higher", "successful", ric, rate=True, host=True),
    Column("ric_device", "ric", "RIC device", "MR of x_adv after JPEG's lossy part, quality 90", "II-B3",
           "share", "higher", "successful", ric_device, rate=True, quick=False),
    Column("ric_guetzli", "ric", "RIC Guetzli", "MR of x_adv after Guetzli, quality 90", "II-B3",
           "share", "higher", "successful", ric_guetzli, rate=True, host=True, program="guetzli"),
)  # fmt: skip
