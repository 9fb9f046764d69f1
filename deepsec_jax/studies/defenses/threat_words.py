"""Short descriptions of attacks and radii."""

from typing import Any

from deepsec_jax.tables.numbers import digits


def attack_in_words(attack: dict[str, Any]) -> str:
    """Return the description of an attack in one line."""
    values = attack["hyperparameters"]
    steps = f"PGD, {values['steps']} steps of {values['step_size']:.4g}"
    if values.get("rule") == "cosine":
        steps += " at first, shrinking to 0"
    if "decay" in values:
        steps += f", along a momentum of {digits(values['decay'])}"
    if attack["name"] != "cascade":
        return f"{steps} from a random start; as many as in the paper, and as long against ε"
    losses = ", then ".join(values["losses"])
    runs = f"{values['restarts']} restarts each of loss {losses}"
    if "weights" in values:
        shares = ", ".join(map(digits, values["weights"]))
        runs = (
            f"first {values['confident']} on the model without its detector for the largest margin, then on "
            f"both at once, weight {shares} of the detector in turn, {runs}"
        )
    if "queries" in values:
        runs = f"{runs}, then a search of {values['queries']} queries by squares"
    return f"{steps} through the surrogate, {runs}; each run on the survivors of those before it"


def eps_in_words(eps: float) -> str:
    """Return a radius as text: k/255 for a whole number of grey levels without a short decimal."""
    levels = 255 * eps
    grey = abs(levels - round(levels)) < 1e-6 and abs(eps - round(eps, 3)) > 1e-9
    return f"{round(levels)}/255" if grey else f"{eps:.4g}"
