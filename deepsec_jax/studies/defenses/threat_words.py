"""Short descriptions of attacks and radii."""

from typing import Any

from deepsec_jax.tables.numbers import digits


def attack_in_words(attack: dict[str, Any]) -> str:
    """Return the description of an attack in one line."""
    values = attack["hyperparameters"]
    if attack["name"] != "cascade":
        start = f"PGD, {values['steps']} steps of {values['step_size']:.4g}"
        return f"{start} from a random start; as many as in the paper, and as long against ε"
    nearest = f"each of the {values['aims']} nearest classes" if values["aims"] > 1 else "the nearest class"
    again = f", {values['rounds']} times" if values["rounds"] > 1 else ""
    words = [
        f"APGD through the surrogate, {values['steps']} steps, from the clean image; then towards "
        f"{nearest}{again}"
    ]
    if "weights" in values:
        shares = ", ".join(map(digits, values["weights"]))
        words.append(
            f"PGD, steps of {values['step_size']:.4g} at first, shrinking to 0, along a momentum of "
            f"{digits(values['decay'])}, first {values['confident']} on the model without its detector for "
            f"the largest margin, then on both at once, weight {shares} of the detector in turn, "
            f"{values['restarts']} restarts each of loss {', then '.join(values['losses'])}"
        )
    if "queries" in values:
        words.append(f"a search of {values['queries']} queries by squares")
    return f"{', then '.join(words)}; each run on the survivors of those before it"


def eps_in_words(eps: float) -> str:
    """Return a radius as text: k/255 for a whole number of grey levels without a short decimal."""
    levels = 255 * eps
    grey = abs(levels - round(levels)) < 1e-6 and abs(eps - round(eps, 3)) > 1e-9
    return f"{round(levels)}/255" if grey else f"{eps:.4g}"
