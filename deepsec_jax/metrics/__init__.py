"""Metrics: pure functions from one immutable record of an attack or defense to per-example values.

None stands yet.  Ten measure attacks (``mr acac actc ald ass psd nte rgb ric cc``), five measure
defenses (``cav crr csr ccv cos``); one place averages them.  Success and distances of single examples
are measured by :func:`deepsec_jax.evaluation.judge` already.
"""

METRICS: dict[str, type] = {}
"""The table of metrics: the paper's names in lower case, in the paper's order."""
