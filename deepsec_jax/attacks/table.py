"""The table of attacks: the paper's names in lower case, in the paper's order, then others."""

from typing import Any

from deepsec_jax.attacks.apgd import APGD
from deepsec_jax.attacks.apgd_l1 import APGDL1
from deepsec_jax.attacks.basinhopping import BasinHopping
from deepsec_jax.attacks.bim import BIM
from deepsec_jax.attacks.blb import BLB
from deepsec_jax.attacks.cgba import CGBA
from deepsec_jax.attacks.cw2 import CW2
from deepsec_jax.attacks.ddn import DDN
from deepsec_jax.attacks.deepfool import DeepFool
from deepsec_jax.attacks.ead import EAD
from deepsec_jax.attacks.fab import FAB
from deepsec_jax.attacks.fgsm import FGSM
from deepsec_jax.attacks.fmn import FMN
from deepsec_jax.attacks.illc import ILLC
from deepsec_jax.attacks.jsma import JSMA
from deepsec_jax.attacks.llc import LLC
from deepsec_jax.attacks.mifgsm import TMIFGSM, UMIFGSM
from deepsec_jax.attacks.optmargin import OptMargin
from deepsec_jax.attacks.pdpgd import PDPGD
from deepsec_jax.attacks.pgd import PGD
from deepsec_jax.attacks.rays import RayS
from deepsec_jax.attacks.rfgsm import RFGSM
from deepsec_jax.attacks.rllc import RLLC
from deepsec_jax.attacks.sigmazero import SigmaZero
from deepsec_jax.attacks.simifgsm import SIMIFGSM
from deepsec_jax.attacks.square import Square
from deepsec_jax.attacks.superdeepfool import SuperDeepFool
from deepsec_jax.attacks.uap import UAP
from deepsec_jax.attacks.vmifgsm import VMIFGSM

ATTACKS: dict[str, Any] = {  # classes; Any, for the card that each has
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "bim": BIM,
    "pgd": PGD,
    "umifgsm": UMIFGSM,
    "uap": UAP,
    "deepfool": DeepFool,
    "optmargin": OptMargin,
    "llc": LLC,
    "rllc": RLLC,
    "illc": ILLC,
    "tmifgsm": TMIFGSM,
    "jsma": JSMA,
    "blb": BLB,
    "cw2": CW2,
    "ead": EAD,
    "apgd": APGD,
    "apgdl1": APGDL1,
    "fab": FAB,
    "fmn": FMN,
    "ddn": DDN,
    "sigmazero": SigmaZero,
    "pdpgd": PDPGD,
    "superdeepfool": SuperDeepFool,
    "basinhopping": BasinHopping,
    "square": Square,
    "rays": RayS,
    "cgba": CGBA,
    "vmifgsm": VMIFGSM,
    "simifgsm": SIMIFGSM,
}
