"""The demo's attacks are short, and attacks that are short already stay as they are."""

from deepsec_jax.attacks import ATTACKS, preset
from deepsec_jax.attacks.cost import cost
from deepsec_jax.cli.demo import CALLS, FEWEST, shortened

SIZE = {"classes": 10, "entries": 64}


def test_no_attack_of_the_demo_states_many_calls():
    changed = set()
    for name in ATTACKS:
        attack = preset(name, "digits")
        short = shortened(attack, **SIZE)
        assert type(short) is type(attack)
        changed |= {name} if repr(short) != repr(attack) else set()
        stated = cost(short, **SIZE)
        shortest = FEWEST in (getattr(short, "steps", 0), getattr(short, "queries", 0))
        assert max(stated.forwards, stated.gradients) <= 1.1 * CALLS or shortest, name
    assert {"cw2", "fab", "rays"} <= changed and not {"fgsm", "pgd", "jsma"} & changed
