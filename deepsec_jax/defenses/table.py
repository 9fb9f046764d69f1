"""The table of defenses: the paper's names in lower case, in the paper's order."""

from typing import Any

from deepsec_jax.defenses.dd import DD
from deepsec_jax.defenses.eat import EAT
from deepsec_jax.defenses.igr import IGR
from deepsec_jax.defenses.nat import NAT
from deepsec_jax.defenses.pat import PAT

DEFENSES: dict[str, Any] = {  # classes; Any, for the card that each has
    "nat": NAT,
    "eat": EAT,
    "pat": PAT,
    "dd": DD,
    "igr": IGR,
}
