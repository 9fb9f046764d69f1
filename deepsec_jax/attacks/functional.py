"""The attacks as plain functions: ``pgd(model, x, labels, key=key, eps=0.3)``.

``functional.pgd(model, x, labels, key=key, **hyperparameters)`` is
``PGD(**hyperparameters)(model, x, labels, key=key)``: the same compiled code, no second cache.
"""

from collections.abc import Callable
from typing import Any

from deepsec_jax.attacks.bim import BIM
from deepsec_jax.attacks.fgsm import FGSM
from deepsec_jax.attacks.illc import ILLC
from deepsec_jax.attacks.llc import LLC
from deepsec_jax.attacks.pgd import PGD
from deepsec_jax.attacks.rfgsm import RFGSM
from deepsec_jax.attacks.rllc import RLLC
from deepsec_jax.attacks.tmifgsm import TMIFGSM
from deepsec_jax.attacks.umifgsm import UMIFGSM
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels


def functional(attack: type) -> Callable[..., Images]:
    """Return the attack class as a function of model, images, labels, key and hyperparameters."""

    def function(
        model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None, **hyperparameters: Any
    ) -> Images:
        return attack(**hyperparameters)(model, x, labels, key=key)

    function.__name__ = attack.__name__.lower()
    function.__doc__ = attack.__doc__
    return function


fgsm = functional(FGSM)
rfgsm = functional(RFGSM)
bim = functional(BIM)
pgd = functional(PGD)
umifgsm = functional(UMIFGSM)
llc = functional(LLC)
rllc = functional(RLLC)
illc = functional(ILLC)
tmifgsm = functional(TMIFGSM)
