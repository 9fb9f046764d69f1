"""Every attack of the table at a size that tests can pay; a promise holds at any size."""

from typing import Any

import jax

from deepsec_jax.attacks import ATTACKS, prepare
from deepsec_jax.randomness import is_key

_SEARCH = {"c": 0.1, "search_steps": 4, "learning_rate": 0.05}
_SETTINGS: dict[str, dict[str, Any]] = {
    "uap": {"passes": 2},
    "deepfool": {"steps": 10},
    "optmargin": {**_SEARCH, "steps": 25, "copies": 3, "noise": 0.02},
    "jsma": {"gamma": 1.0},
    "blb": {"c": 0.1, "search_steps": 4, "steps": 20, "memory": 4},
    "cw2": {**_SEARCH, "steps": 40},
    "ead": {**_SEARCH, "steps": 40},
    "square": {"queries": 60},
    "fab": {"steps": 10},
    "fmn": {"steps": 40},
    "ddn": {"steps": 40},
    "sigmazero": {"steps": 40},
    "apgdl1": {"eps": 2.0},
    "basinhopping": {"hops": 3},
    "rays": {"queries": 60},
    "vmifgsm": {"neighbours": 1},
    "simifgsm": {"copies": 2},
    "cgba": {"queries": 200},
    "pdpgd": {"steps": 40},
    "superdeepfool": {"steps": 10, "search_steps": 4},
}


def small(name: str) -> Any:
    """Return the attack with few steps."""
    attack = ATTACKS[name](**_SETTINGS.get(name, {}))
    budget = ATTACKS[name].card.kind == "budget"
    if not (budget and hasattr(attack, "steps")):
        return attack
    return attack.replace(steps=4, **({"step_size": 0.1} if hasattr(attack, "step_size") else {}))


def ready(attack: Any, model: Any, images: Any) -> Any:
    """Return the attack fitted to ``images`` if it must be."""
    return prepare(attack, model, images, key=jax.random.key(0))


def traced_fields(attack: Any) -> dict[str, float]:
    """Return the numbers of an attack that are traced, by field."""
    return {
        name: value for name, value in vars(attack).items() if isinstance(value, float) and not is_key(value)
    }
