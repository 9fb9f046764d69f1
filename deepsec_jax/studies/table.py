"""The table of studies, in the order of the command line's help."""

from deepsec_jax.studies.attacks.tables import ATTACKS
from deepsec_jax.studies.defenses.tables import DEFENSES
from deepsec_jax.studies.detectors.tables import DETECTORS
from deepsec_jax.studies.ensembles.tables import ENSEMBLES
from deepsec_jax.studies.security.tables import SECURITY_STUDY
from deepsec_jax.studies.study import Study
from deepsec_jax.studies.transferability.tables import TRANSFERABILITY
from deepsec_jax.studies.verdict.tables import ROBUSTNESS_STUDY

STUDIES: dict[str, Study] = {
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "detectors": DETECTORS,
    "security": SECURITY_STUDY,
    "robustness": ROBUSTNESS_STUDY,
    "transferability": TRANSFERABILITY,
    "ensembles": ENSEMBLES,
}
