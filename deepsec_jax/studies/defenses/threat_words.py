"""Short descriptions of attacks and radii."""

from typing import Any

from deepsec_jax.tables.numbers import digits


def attack_in_words(attack: dict[str, Any]) -> str:
    """Return the description of an attack in one line."""
    values = attack["hyperparameters"]
    if attack["name"] != "cascade":
        start = f"PGD, {values['steps']} steps of {values['step_size']:.4g}"
        return f"{start} from a random start; as in the paper, with the same ratio of step size to ε"
    nearest = f"each of the {values['aims']} nearest classes" if values["aims"] > 1 else "the nearest class"
    again = f", {values['rounds']} times" if values["rounds"] > 1 else ""
    words = [
        f"APGD through the surrogate, {values['steps']} steps, from the clean image; then towards "
        f"{nearest}{again}"
    ]
    if "weights" in values:
        shares = ", ".join(map(digits, values["weights"]))
        words.append(
            f"PGD, steps of {values['step_size']:.4g} at first, decreasing to 0, momentum "
            f"{digits(values['decay'])}, first {values['confident']} on the model without its detector for "
            f"the largest margin, then on both together, cycling through detector weights {shares}, "
            f"{values['restarts']} restarts each of loss {', then '.join(values['losses'])}"
        )
    if "queries" in values:
        words.append(f"Square with {values['queries']} queries")
    return f"{', then '.join(words)}; each run on the images that are not fooled yet"


def eps_in_words(eps: float) -> str:
    """Return a radius as text: k/255 for a whole number of grey levels without a short decimal."""
    levels = 255 * eps
    grey = abs(levels - round(levels)) < 1e-6 and abs(eps - round(eps, 3)) > 1e-9
    return f"{round(levels)}/255" if grey else f"{eps:.4g}"
