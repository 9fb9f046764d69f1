"""Attacks: frozen pytrees of hyperparameters whose call is one jitted pure function.

    x_adv = PGD(eps=0.3, step_size=0.05)(model, x, labels, key=jax.random.key(0))

One algorithm is one file, named as in :data:`ATTACKS`.  Other modules: ``losses``, ``geometry``, ``parts``
(starts and step rules), ``ascent`` (the loop), ``gradient`` (differentiation of models), ``call`` (checks of
each call), ``combinators``, ``batching``, ``presets``.

Importing it calls :func:`deepsec_jax.convolutions.convolve_for_gradients`, which has an effect if jax has not
computed anything yet.
"""

from deepsec_jax.attacks import functional, losses, parts
from deepsec_jax.attacks.apgd import APGD
from deepsec_jax.attacks.apgd_l1 import APGDL1
from deepsec_jax.attacks.autoattack import AutoAttack
from deepsec_jax.attacks.basinhopping import BasinHopping
from deepsec_jax.attacks.batching import run_in_batches
from deepsec_jax.attacks.bim import BIM
from deepsec_jax.attacks.blb import BLB
from deepsec_jax.attacks.call import count_calls
from deepsec_jax.attacks.cascade import Cascade
from deepsec_jax.attacks.cgba import CGBA
from deepsec_jax.attacks.combinators import LeastLikely, MultiTarget, RandomTarget, Restarts, WorstCase
from deepsec_jax.attacks.cost import Counted
from deepsec_jax.attacks.cw2 import CW2
from deepsec_jax.attacks.ddn import DDN
from deepsec_jax.attacks.deepfool import DeepFool
from deepsec_jax.attacks.ead import EAD
from deepsec_jax.attacks.eps_grid import over_eps, with_eps
from deepsec_jax.attacks.fab import FAB
from deepsec_jax.attacks.fgsm import FGSM
from deepsec_jax.attacks.fixed_images import FixedImages
from deepsec_jax.attacks.fmn import FMN
from deepsec_jax.attacks.illc import ILLC
from deepsec_jax.attacks.indicators import INDICATORS, Indicators, indicators
from deepsec_jax.attacks.jsma import JSMA
from deepsec_jax.attacks.layer_losses import FeatureDistance
from deepsec_jax.attacks.llc import LLC
from deepsec_jax.attacks.many import ManyRestarts
from deepsec_jax.attacks.masked import Masked
from deepsec_jax.attacks.mifgsm import TMIFGSM, UMIFGSM
from deepsec_jax.attacks.model_outputs import check_model_outputs
from deepsec_jax.attacks.optmargin import OptMargin
from deepsec_jax.attacks.pdpgd import PDPGD
from deepsec_jax.attacks.pgd import PGD
from deepsec_jax.attacks.presets import ROWS, preset, preset_card
from deepsec_jax.attacks.rays import RayS
from deepsec_jax.attacks.rfgsm import RFGSM
from deepsec_jax.attacks.rllc import RLLC
from deepsec_jax.attacks.rounded import Rounded
from deepsec_jax.attacks.saved import AdversarialSet, SavedSetError, load, save
from deepsec_jax.attacks.several import run_all
from deepsec_jax.attacks.sigmazero import SigmaZero
from deepsec_jax.attacks.simifgsm import SIMIFGSM
from deepsec_jax.attacks.smallest_eps import SmallestEps
from deepsec_jax.attacks.square import Square
from deepsec_jax.attacks.superdeepfool import SuperDeepFool
from deepsec_jax.attacks.table import ATTACKS
from deepsec_jax.attacks.text import parse
from deepsec_jax.attacks.transfer import Transfer
from deepsec_jax.attacks.uap import UAP, Perturbation, prepare
from deepsec_jax.attacks.vmifgsm import VMIFGSM
from deepsec_jax.attacks.within import Within
from deepsec_jax.convolutions import convolve_for_gradients

convolve_for_gradients()

__all__ = [
    "APGD",
    "APGDL1",
    "ATTACKS",
    "BIM",
    "BLB",
    "CGBA",
    "CW2",
    "DDN",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "ILLC",
    "INDICATORS",
    "JSMA",
    "LLC",
    "PDPGD",
    "PGD",
    "RFGSM",
    "RLLC",
    "ROWS",
    "SIMIFGSM",
    "TMIFGSM",
    "UAP",
    "UMIFGSM",
    "VMIFGSM",
    "AdversarialSet",
    "AutoAttack",
    "BasinHopping",
    "Cascade",
    "Counted",
    "DeepFool",
    "FeatureDistance",
    "FixedImages",
    "Indicators",
    "LeastLikely",
    "ManyRestarts",
    "Masked",
    "MultiTarget",
    "OptMargin",
    "Perturbation",
    "RandomTarget",
    "RayS",
    "Restarts",
    "Rounded",
    "SavedSetError",
    "SigmaZero",
    "SmallestEps",
    "Square",
    "SuperDeepFool",
    "Transfer",
    "Within",
    "WorstCase",
    "check_model_outputs",
    "count_calls",
    "functional",
    "indicators",
    "load",
    "losses",
    "over_eps",
    "parse",
    "parts",
    "prepare",
    "preset",
    "preset_card",
    "run_all",
    "run_in_batches",
    "save",
    "with_eps",
]


def __dir__() -> list[str]:
    return __all__
