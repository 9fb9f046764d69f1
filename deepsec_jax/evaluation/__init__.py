"""Evaluation: independent measurement of success, records for metrics, evaluations in memory.

    results = evaluation.evaluate(model, ["fgsm", "pgd"], "digits", n=100, key=jax.random.key(0))
    results = evaluation.robustness(model, "digits", eps=0.1)
    outcome = evaluation.judge(model, x, x_adv, labels)
    record = evaluation.record_of(model, x, x_adv, labels)

``evaluate``, ``robustness``, ``read`` and ``Results`` need tables and come from :mod:`deepsec_jax.studies`,
which imports this package.  They are imported when first used.
"""

import importlib
from typing import Any

from deepsec_jax.evaluation.cascade import autoattack
from deepsec_jax.evaluation.judge import Outcome, judge
from deepsec_jax.evaluation.measured import record_of

ABOVE = {
    "Results": "deepsec_jax.studies.results",
    "evaluate": "deepsec_jax.studies.evaluate",
    "read": "deepsec_jax.studies.results",
    "robustness": "deepsec_jax.studies.evaluate",
}
"""Public names defined in packages that import this one -> their modules."""

__all__ = ["Outcome", "Results", "autoattack", "evaluate", "judge", "read", "record_of", "robustness"]


def __getattr__(name: str) -> Any:
    if name in ABOVE:
        return getattr(importlib.import_module(ABOVE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
