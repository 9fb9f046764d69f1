"""Defenses: recipes that make a classifier harder to attack.

Each is one file, named as in :data:`DEFENSES`.  Its class has ``fit(base, data, *, key) -> classifier`` (a
callable pytree) and ``surrogate(classifier)``, the model that an adaptive attacker differentiates. In the
paper's order they are ``nat eat pat dd igr eit rt pd te rc``.  The detectors ``lid fs magnet`` are fitted in
the same way; ``fit`` returns a :class:`FittedDetector`: a score, and one threshold set on clean images.
"""

from deepsec_jax.defenses.base import Base, DefenseError, base_of
from deepsec_jax.defenses.dd import DD
from deepsec_jax.defenses.detector import FittedDetector
from deepsec_jax.defenses.eat import EAT
from deepsec_jax.defenses.eit import EIT
from deepsec_jax.defenses.folders import Defended, ModelFolder, fit_into, load, load_defended
from deepsec_jax.defenses.fs import FS
from deepsec_jax.defenses.igr import IGR
from deepsec_jax.defenses.lid import LID
from deepsec_jax.defenses.magnet import MagNet, reformed
from deepsec_jax.defenses.nat import NAT
from deepsec_jax.defenses.pat import PAT
from deepsec_jax.defenses.pd import PD
from deepsec_jax.defenses.presets import preset, preset_card
from deepsec_jax.defenses.rc import RC
from deepsec_jax.defenses.rt import RT
from deepsec_jax.defenses.table import COMPLETE, DEFENSES, DETECTORS
from deepsec_jax.defenses.te import TE

__all__ = [
    "COMPLETE",
    "DD",
    "DEFENSES",
    "DETECTORS",
    "EAT",
    "EIT",
    "FS",
    "IGR",
    "LID",
    "NAT",
    "PAT",
    "PD",
    "RC",
    "RT",
    "TE",
    "Base",
    "Defended",
    "DefenseError",
    "FittedDetector",
    "MagNet",
    "ModelFolder",
    "base_of",
    "fit_into",
    "load",
    "load_defended",
    "preset",
    "preset_card",
    "reformed",
]


def __dir__() -> list[str]:
    return __all__
