"""The paper's Table XIII, typed from the paper, value by value; what it leaves open, from elsewhere."""

from typing import Any

import pytest

from deepsec_jax.attacks import ATTACKS, ROWS, Restarts, preset, preset_card

# Row of the table -> what it prints, in our words: eps_iter is step_size, max_iter is steps, bin_search_steps
# is search_steps, kappa is confidence, initial_const is c, noise_count is copies and noise_mag is noise.
TABLE_XIII: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "fgsm": {"eps": 0.3},
        "fgsm@0.5": {"eps": 0.5},
        "rfgsm": {"alpha": 0.15},
        "bim": {"eps": 0.3, "step_size": 0.05},
        "pgd": {"eps": 0.3, "step_size": 0.05},
        "umifgsm": {"eps": 0.3, "step_size": 0.05},
        "uap": {"eps": 0.3, "fooling_rate": 0.3},
        "deepfool": {"overshoot": 0.02, "steps": 50},
        "optmargin": {"c": 0.02, "search_steps": 4, "learning_rate": 0.2, "copies": 20, "noise": 0.3},
        "llc": {"eps": 0.3},
        "rllc": {"alpha": 0.15},
        "illc": {"eps": 0.3, "step_size": 0.05},
        "tmifgsm": {"eps": 0.3, "step_size": 0.05},
        "jsma": {"theta": 1.0, "gamma": 0.1},
        "blb": {},
        "cw2": {"confidence": 0.0, "learning_rate": 0.02, "c": 0.001},
        "cw2@k20": {"confidence": 20.0, "learning_rate": 0.02, "c": 0.001},
        "ead": {"confidence": 0.0, "beta": 1e-3, "rule": "en"},
        "ead@l1": {"confidence": 0.0, "beta": 1e-3, "rule": "l1"},
    },
    "cifar10": {
        "fgsm": {"eps": 0.1},
        "fgsm@0.2": {"eps": 0.2},
        "rfgsm": {"alpha": 0.05},
        "bim": {"eps": 0.1, "step_size": 0.01},
        "pgd": {"eps": 0.1, "step_size": 0.01},
        "umifgsm": {"eps": 0.1, "step_size": 0.01},
        "uap": {"eps": 0.1, "fooling_rate": 0.8},
        "deepfool": {"overshoot": 0.02, "steps": 50},
        "optmargin": {"c": 1.0, "search_steps": 4, "learning_rate": 0.02, "copies": 20, "noise": 8 / 255},
        "llc": {"eps": 0.1},
        "rllc": {"alpha": 0.05},
        "illc": {"eps": 0.1, "step_size": 0.01},
        "tmifgsm": {"eps": 0.1, "step_size": 0.01},
        "jsma": {"theta": 1.0, "gamma": 0.1},
        "blb": {},
        "cw2": {"confidence": 0.0, "learning_rate": 0.02, "c": 0.001},
        "cw2@k20": {"confidence": 20.0, "learning_rate": 0.02, "c": 0.001},
        "ead": {"confidence": 0.0, "beta": 1e-3, "rule": "en"},
        "ead@l1": {"confidence": 0.0, "beta": 1e-3, "rule": "l1"},
    },
}

# What the table does not print: DEEPSEC's command lines and code, or the attack's authors.
_MOMENTUM = {"steps": 15, "decay": 1.0}
_CW2 = {"search_steps": 9, "steps": 1000}
_EAD = {"learning_rate": 0.02, "c": 0.001, "search_steps": 9, "steps": 1000}
OPEN: dict[str, dict[str, Any]] = {
    "bim": {"steps": 15},
    "pgd": {"steps": 15},
    "umifgsm": _MOMENTUM,
    "tmifgsm": _MOMENTUM,
    "illc": {"steps": 10},
    "uap": {"overshoot": 0.02, "inner_steps": 10, "passes": 20},
    "optmargin": {"steps": 1000},
    "jsma": {"saliency": "probabilities"},
    "blb": {"c": 0.01, "search_steps": 9, "steps": 150, "descents": 2},
    "cw2": _CW2,
    "cw2@k20": _CW2,
    "ead": _EAD,
    "ead@l1": _EAD,
}
# The table's eps of these two is the gradient step, after a random step of alpha: ours is the sum.
REMAINDER = {"mnist": 0.15, "cifar10": 0.05}
# The table's TAs that take a target; LLC, R+LLC and ILLC find theirs themselves.
DRIVEN = ("tmifgsm", "jsma", "blb", "cw2", "cw2@k20", "ead", "ead@l1")

CELLS = [(dataset, row) for dataset, rows in ROWS.items() for row in rows]


def wanted(dataset: str, row: str) -> dict[str, Any]:
    total = {}
    if row in ("rfgsm", "rllc"):
        total = {"eps": REMAINDER[dataset] + TABLE_XIII[dataset][row]["alpha"]}
    return {**TABLE_XIII[dataset][row], **OPEN.get(row, {}), **total}


def differences(attack: Any, card: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What of an attack's preset is another value than wanted, missing, or not asked for."""
    found = [name for name, value in values.items() if getattr(attack, name) != value]
    return found + sorted((set(card) ^ set(values)) - {"targeted"})


@pytest.mark.parametrize(("dataset", "row"), CELLS)
def test_every_value_of_every_row(dataset, row):
    attack, card = preset(row, dataset), preset_card(row, dataset)
    assert type(attack) is ATTACKS[row.partition("@")[0]], "as it is, without restarts"
    assert differences(attack, card, wanted(dataset, row)) == []
    assert getattr(attack, "targeted", False) == (row in DRIVEN)


def test_a_slip_of_the_pen_is_found():
    attack, card, values = preset("cw2", "mnist"), preset_card("cw2", "mnist"), wanted("mnist", "cw2")
    assert differences(attack.replace(confidence=2.0), card, values) == ["confidence"]
    assert differences(attack, card | {"abort_early": {}}, values) == ["abort_early"]  # not asked for
    assert differences(attack, {name: card[name] for name in card if name != "c"}, values) == [
        "c"
    ]  # left out


@pytest.mark.parametrize(("dataset", "row"), CELLS)
def test_the_table_is_named_for_what_it_prints_and_for_nothing_else(dataset, row):
    named = {name for name, entry in preset_card(row, dataset).items() if "Table XIII" in entry["source"]}
    assert named == set(TABLE_XIII[dataset][row])


# --- the strong presets: one rule for those with a budget, the authors' values for the others

EPS = {"mnist": 0.3, "cifar10": 8 / 255}
STRONG: dict[str, dict[str, Any]] = {
    "uap": {"fooling_rate": 1.0, "passes": 20},
    "deepfool": {"overshoot": 0.02, "steps": 100},
    "jsma": {"either": True, "theta": 1.0, "gamma": 0.145},
    "blb": {"search_steps": 15, "steps": 400, "descents": 4, "targeted": True},
    "cw2": {"learning_rate": 0.01, "steps": 10000, "targeted": True},
    "ead": {"learning_rate": 0.01, "steps": 1000, "settle": 400, "targeted": True},
    "square": {"queries": 5000, "share": 0.8},
}
OPTMARGIN = {
    "mnist": {"noise": 0.3, "learning_rate": 0.2, "c": 0.2, "search_steps": 9},
    "cifar10": {"noise": 8 / 255, "learning_rate": 0.01, "c": 1.0, "search_steps": 9},
}


@pytest.mark.parametrize("dataset", ROWS)
@pytest.mark.parametrize("name", [*(row for row in ROWS["mnist"] if "@" not in row), "square"])
def test_strong_is_one_budget_100_steps_and_10_restarts(name, dataset):
    attack = preset(name, dataset, "strong")
    card = {field: entry["value"] for field, entry in preset_card(name, dataset, "strong").items()}
    assert isinstance(attack, Restarts) == ("restarts" in card) == (name in ("rfgsm", "pgd", "rllc"))
    assert card.pop("restarts", 10) == 10
    eps = EPS[dataset]
    if ATTACKS[name].card.kind != "minimum-norm":
        assert card.pop("eps") == pytest.approx(eps)
    assert card.pop("alpha", eps / 2) == pytest.approx(eps / 2)
    if "step_size" in card:
        assert card.pop("step_size") == pytest.approx(2.5 * eps / 100) and card.pop("steps") == 100
    assert card.pop("decay", 1.0) == 1.0
    assert card == pytest.approx(
        {**STRONG.get(name, {}), **(OPTMARGIN[dataset] if name == "optmargin" else {})}
    )
