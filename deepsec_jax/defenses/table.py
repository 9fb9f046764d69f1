"""The table of defenses: the paper's names in lower case, in the paper's order."""

from typing import Any

from deepsec_jax.defenses.dd import DD
from deepsec_jax.defenses.eat import EAT
from deepsec_jax.defenses.eit import EIT
from deepsec_jax.defenses.fs import FS
from deepsec_jax.defenses.igr import IGR
from deepsec_jax.defenses.lid import LID
from deepsec_jax.defenses.magnet import MagNet
from deepsec_jax.defenses.nat import NAT
from deepsec_jax.defenses.pat import PAT
from deepsec_jax.defenses.pd import PD
from deepsec_jax.defenses.rc import RC
from deepsec_jax.defenses.rt import RT
from deepsec_jax.defenses.te import TE

COMPLETE: dict[str, Any] = {  # classes; Any, since each has a card
    "nat": NAT,
    "eat": EAT,
    "pat": PAT,
    "dd": DD,
    "igr": IGR,
    "eit": EIT,
    "rt": RT,
    "pd": PD,
    "te": TE,
    "rc": RC,
}
"""Defenses whose ``fit`` returns a classifier."""

DETECTORS: dict[str, Any] = {
    "lid": LID,
    "fs": FS,
    "magnet": MagNet,
}
"""Defenses whose ``fit`` returns a :class:`~deepsec_jax.defenses.detector.FittedDetector`."""

DEFENSES: dict[str, Any] = {**COMPLETE, **DETECTORS}
