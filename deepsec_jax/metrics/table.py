"""The table of attack metrics: column name -> description and function."""

import shutil

from deepsec_jax.metrics import acac, actc, ald, ass, cc, mr, nte, psd, rejected, rgb, ric
from deepsec_jax.metrics.record import Column

MODULES = (mr, rejected, acac, actc, ald, ass, psd, nte, rgb, ric, cc)
"""One module per metric of the paper, in its order, then rejections; a new metric is one more entry."""

METRICS: dict[str, Column] = {
    column.name: column
    for module in MODULES
    for column in module.COLUMNS
    if not column.program or shutil.which(column.program)
}
"""Every column by name, in the order of tables."""
