"""Defenses: recipes that make a classifier harder to attack.

Each is one file, named as in :data:`DEFENSES`.  Its class has ``fit(base, data, *, key) -> classifier`` (a
callable pytree) and ``surrogate(classifier)``, the model that an adaptive attacker differentiates. In the
paper's order they are ``nat eat pat dd igr eit rt pd te rc``.  The detectors ``lid fs magnet`` are fitted in
the same way; ``fit`` returns a :class:`FittedDetector`: a score, and one threshold set on clean images.
"""

from deepsec_jax.defenses.base import Base as Base
from deepsec_jax.defenses.base import DefenseError as DefenseError
from deepsec_jax.defenses.base import base_of as base_of
from deepsec_jax.defenses.dd import DD as DD
from deepsec_jax.defenses.detector import FittedDetector as FittedDetector
from deepsec_jax.defenses.eat import EAT as EAT
from deepsec_jax.defenses.eit import EIT as EIT
from deepsec_jax.defenses.folders import Defended as Defended
from deepsec_jax.defenses.folders import ModelFolder as ModelFolder
from deepsec_jax.defenses.folders import fit_into as fit_into
from deepsec_jax.defenses.folders import load as load
from deepsec_jax.defenses.folders import load_defended as load_defended
from deepsec_jax.defenses.fs import FS as FS
from deepsec_jax.defenses.igr import IGR as IGR
from deepsec_jax.defenses.lid import LID as LID
from deepsec_jax.defenses.magnet import MagNet as MagNet
from deepsec_jax.defenses.magnet import reformed as reformed
from deepsec_jax.defenses.nat import NAT as NAT
from deepsec_jax.defenses.pat import PAT as PAT
from deepsec_jax.defenses.pd import PD as PD
from deepsec_jax.defenses.presets import preset as preset
from deepsec_jax.defenses.presets import preset_card as preset_card
from deepsec_jax.defenses.rc import RC as RC
from deepsec_jax.defenses.rt import RT as RT
from deepsec_jax.defenses.table import COMPLETE as COMPLETE
from deepsec_jax.defenses.table import DEFENSES as DEFENSES
from deepsec_jax.defenses.table import DETECTORS as DETECTORS
from deepsec_jax.defenses.te import TE as TE
