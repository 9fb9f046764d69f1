"""Attacks: frozen pytrees of hyperparameters whose call is one jitted pure function.

    x_adv = PGD(eps=0.3, step_size=0.05)(model, x, labels, key=jax.random.key(0))

One algorithm is one file, named as in :data:`ATTACKS`.  Beside them: ``losses``, ``geometry``,
``parts`` (starts and step rules), ``ascent`` (the loop), ``gradient`` (the one place that
differentiates), ``call`` (the check around each attack), ``combinators``, ``batching``, ``presets``.
"""

from deepsec_jax.attacks import functional as functional
from deepsec_jax.attacks import losses as losses
from deepsec_jax.attacks import parts as parts
from deepsec_jax.attacks.apgd import APGD as APGD
from deepsec_jax.attacks.autoattack import AutoAttack as AutoAttack
from deepsec_jax.attacks.batching import check_values as check_values
from deepsec_jax.attacks.batching import run_in_batches as run_in_batches
from deepsec_jax.attacks.bim import BIM as BIM
from deepsec_jax.attacks.blb import BLB as BLB
from deepsec_jax.attacks.call import count_calls as count_calls
from deepsec_jax.attacks.cascade import Cascade as Cascade
from deepsec_jax.attacks.closest import Counted as Counted
from deepsec_jax.attacks.combinators import LeastLikely as LeastLikely
from deepsec_jax.attacks.combinators import MultiTarget as MultiTarget
from deepsec_jax.attacks.combinators import RandomTarget as RandomTarget
from deepsec_jax.attacks.combinators import Restarts as Restarts
from deepsec_jax.attacks.combinators import WorstCase as WorstCase
from deepsec_jax.attacks.cw2 import CW2 as CW2
from deepsec_jax.attacks.ddn import DDN as DDN
from deepsec_jax.attacks.deepfool import DeepFool as DeepFool
from deepsec_jax.attacks.ead import EAD as EAD
from deepsec_jax.attacks.fab import FAB as FAB
from deepsec_jax.attacks.fgsm import FGSM as FGSM
from deepsec_jax.attacks.fmn import FMN as FMN
from deepsec_jax.attacks.given import Given as Given
from deepsec_jax.attacks.illc import ILLC as ILLC
from deepsec_jax.attacks.jsma import JSMA as JSMA
from deepsec_jax.attacks.layer_losses import FeatureDistance as FeatureDistance
from deepsec_jax.attacks.llc import LLC as LLC
from deepsec_jax.attacks.masked import Masked as Masked
from deepsec_jax.attacks.model_outputs import check_model_outputs as check_model_outputs
from deepsec_jax.attacks.optmargin import OptMargin as OptMargin
from deepsec_jax.attacks.pgd import PGD as PGD
from deepsec_jax.attacks.presets import ROWS as ROWS
from deepsec_jax.attacks.presets import preset as preset
from deepsec_jax.attacks.presets import preset_card as preset_card
from deepsec_jax.attacks.rfgsm import RFGSM as RFGSM
from deepsec_jax.attacks.rllc import RLLC as RLLC
from deepsec_jax.attacks.saved import AdversarialSet as AdversarialSet
from deepsec_jax.attacks.saved import SavedSetError as SavedSetError
from deepsec_jax.attacks.saved import load as load
from deepsec_jax.attacks.saved import save as save
from deepsec_jax.attacks.several import run_all as run_all
from deepsec_jax.attacks.sigmazero import SigmaZero as SigmaZero
from deepsec_jax.attacks.smallest_eps import SmallestEps as SmallestEps
from deepsec_jax.attacks.square import Square as Square
from deepsec_jax.attacks.table import ATTACKS as ATTACKS
from deepsec_jax.attacks.text import parse as parse
from deepsec_jax.attacks.tmifgsm import TMIFGSM as TMIFGSM
from deepsec_jax.attacks.transfer import Transfer as Transfer
from deepsec_jax.attacks.uap import UAP as UAP
from deepsec_jax.attacks.uap import Perturbation as Perturbation
from deepsec_jax.attacks.uap import prepare as prepare
from deepsec_jax.attacks.umifgsm import UMIFGSM as UMIFGSM
from deepsec_jax.attacks.within import Within as Within
