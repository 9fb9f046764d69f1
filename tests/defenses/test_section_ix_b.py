"""The paper's section IX-B, typed from the paper, value by value; what it leaves open, from elsewhere."""

from typing import Any

import pytest

from deepsec_jax.defenses import DEFENSES
from deepsec_jax.defenses.presets import preset, preset_card

SETS = ("mnist", "cifar10")

# Defense -> what the section says, in our words, (MNIST, CIFAR-10).  A number that is no field of ours under
# its own name stands beside what becomes of it: IGR's lambda is of the mean of a batch of 256 losses.
SECTION_IX_B: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nat": (
        {"weight": 0.3, "sigma": 50.0, "largest": 0.3},
        {"weight": 0.3, "sigma": 15.0, "largest": 0.1},
    ),
    "eat": ({"eps": 0.3, "alpha": 0.05}, {"eps": 0.0625, "alpha": 0.03125}),
    "pat": (
        {"steps": 40, "step_size": 0.01, "eps": 0.3, "natural": 0.0},
        {"steps": 7, "step_size": 0.007843, "eps": 0.03137, "natural": 0.0},
    ),
    "dd": ({"temperature": 50.0}, {"temperature": 50.0}),
    "igr": ({"lam": 316 / 256}, {"lam": 10 / 256}),
    "eit": (
        {"crop": 26, "p": 2, "lam": 0.03, "quality": 85, "bits": 4},
        {"crop": 30, "p": 2, "lam": 0.03, "quality": 85, "bits": 4},
    ),
    "rt": ({"smallest": 28, "largest": 31}, {"smallest": 32, "largest": 36}),
    "pd": ({"eps": 0.3}, {"eps": 0.0627}),
    "te": ({"levels": 16, "eps": 0.3, "steps": 40}, {"levels": 16, "eps": 0.031, "steps": 7}),
    "te@sign": (
        {"levels": 16, "eps": 0.3, "steps": 40, "step_size": 0.01},
        {"levels": 16, "eps": 0.031, "steps": 7, "step_size": 0.01},
    ),
    "rc": ({"points": 1000, "radius": 0.3}, {"points": 1000, "radius": 0.02}),
    "lid": ({"eps": 0.3, "k": 20, "minibatch": 100}, {"eps": 0.1, "k": 20, "minibatch": 100}),
    "fs": (
        {"bits": 1, "median": True, "search": 0},
        {"bits": 5, "median": True, "search": 13, "patch": 3, "strength": 2.0},
    ),
    "magnet": (
        {"powers": (2, 1), "temperatures": (), "fpr": 0.04},
        {"powers": (1,), "temperatures": (10.0, 40.0), "fpr": 0.04},
    ),
}

# What it does not say, or what is ours, and why: docs/differences.md.
_FPR = {"fpr": 0.04, "images": 5000}  # section IV-D: about 4 %, the rate at which detectors are compared
_TE = {"anneal": 1.2, "natural": 1.0}
_PIXELCNN = {"filters": 160, "blocks": 5, "mixtures": 10, "dropout": 0.5}


def _adam(epochs: int, batch_size: int, rate: float, **others: Any) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": batch_size, "learning_rate": rate, **others}


OPEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "eat": (
        {"sources": ("mnist_cnn", "static_b", "static_c", "static_d")},
        {"sources": ("resnet20", "densenet", "alexnet", "static_c")},
    ),
    "igr": tuple(
        {"changes": _adam(epochs, 256, 2e-4, optimizer="adam", schedule="constant")} for epochs in (20, 200)
    ),
    "eit": ({"keep": 0.5, "sweeps": 100},) * 2,
    "rt": ({"pad": 0.0},) * 2,
    "pd": tuple({**_PIXELCNN, "changes": _adam(epochs, 64, 1e-3)} for epochs in (100, 200)),
    "te": ({**_TE, "step_size": 1.0},) * 2,
    "te@sign": ({**_TE, "sign": True},) * 2,
    "lid": ({**_FPR, "examples": 0},) * 2,
    "fs": (_FPR,) * 2,
    "magnet": (
        {
            "autoencoders": ("pooled", "flat"), "filters": 3, "noise": 0.1, "images": 5000,
            "changes": _adam(100, 256, 1e-3, schedule="constant"),
        },
        {
            "autoencoders": ("flat",), "filters": 3, "noise": 0.025, "images": 5000,
            "changes": _adam(400, 256, 1e-3, schedule="constant", augment="none"),
        },
    ),
}  # fmt: skip
NOTHING: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
CELLS = [(number, name) for number in range(2) for name in SECTION_IX_B]


def wanted(number: int, name: str) -> dict[str, Any]:
    return {**SECTION_IX_B[name][number], **OPEN.get(name, NOTHING)[number]}


def differences(defense: Any, card: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What of a defense's preset is another value than wanted, missing, or not asked for."""
    fields = {name: tuple(sorted(v.items())) if isinstance(v, dict) else v for name, v in values.items()}
    found = [name for name, value in fields.items() if getattr(defense, name) != value]
    return found + sorted(set(card) ^ set(values))


def test_every_defense_of_the_table_is_here():
    assert {name.partition("@")[0] for name in SECTION_IX_B} == set(DEFENSES)


@pytest.mark.parametrize(("number", "name"), CELLS)
def test_every_value_of_every_defense(number, name):
    defense, card = preset(name, SETS[number]), preset_card(name, SETS[number])
    assert differences(defense, card, wanted(number, name)) == []


def test_a_slip_of_the_pen_is_found():
    defense, card, values = preset("fs", "cifar10"), preset_card("fs", "cifar10"), wanted(1, "fs")
    assert differences(defense.replace(strength=4.0), card, values) == ["strength"]
    assert differences(defense, card | {"changes": {}}, values) == ["changes"]  # not asked for
    assert differences(defense, {name: card[name] for name in card if name != "bits"}, values) == ["bits"]


@pytest.mark.parametrize(("number", "name"), CELLS)
def test_the_section_is_named_for_what_it_says_and_for_nothing_else(number, name):
    card = preset_card(name, SETS[number])
    named = {field for field, entry in card.items() if entry["source"].startswith("paper, IX-B")}
    # EAT's eps is named after the code, which says that it is the sum of both steps.
    assert named | ({"eps"} if name == "eat" else set()) == set(SECTION_IX_B[name][number])


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("pat@half", {"natural": 1.0}), ("rt@grey", {"pad": 0.5}), ("te@plain", {"adversarial": False}),
        ("magnet@reformed", {"reforms": True}), ("rc@search", {"search": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", range(2))
def test_a_variant_is_the_papers_but_for_what_it_is_named_after(number, variant, changes):
    paper = preset(variant.partition("@")[0], SETS[number])
    if variant == "rc@search":  # asks 2 % of the training images
        changes = {**changes, "images": (1200, 1000)[number]}
    assert preset(variant, SETS[number]) == paper.replace(**changes)


def test_small_variants_are_what_they_are_named_after():
    assert (
        preset("pat@free", "mnist", "small").replays == 8 and preset("pat@fast", "mnist", "small").steps == 1
    )
    assert not preset("te@plain", "mnist", "small").adversarial
    assert preset("magnet@reformed", "mnist", "small").reforms
