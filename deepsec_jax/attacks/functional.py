"""The attacks as plain functions: ``pgd(model, x, labels, key=key, eps=0.3)``.

``functional.pgd(model, x, labels, key=key, **hyperparameters)`` is
``PGD(**hyperparameters)(model, x, labels, key=key)``: the same compiled code, no second cache.  There is one
function for every name of :data:`deepsec_jax.attacks.ATTACKS`.
"""

from collections.abc import Callable
from typing import Any

from deepsec_jax.attacks.table import ATTACKS
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels


def functional(attack: type) -> Callable[..., Images]:
    """Return the attack class as a function of model, images, labels, key and hyperparameters."""

    def function(
        model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None, **hyperparameters: Any
    ) -> Images:
        x_adv: Images = attack(**hyperparameters)(model, x, labels, key=key)
        return x_adv

    function.__name__ = attack.__name__.lower()
    function.__doc__ = attack.__doc__
    return function


def __getattr__(name: str) -> Callable[..., Images]:
    if name not in ATTACKS:
        raise AttributeError(f"no attack {name!r}; known: {', '.join(ATTACKS)}")
    return functional(ATTACKS[name])


def __dir__() -> list[str]:
    return ["functional", *ATTACKS]
