"""The paper's title stands where everything is the paper's, and a name alone grants nothing."""

from dataclasses import replace

import pytest
from fake_cells import config_of, fake_cell, model_of
from fake_defenses import fake_utility
from fake_detectors import fake_clean, fake_detection, fake_sweep

from deepsec_jax import attacks
from deepsec_jax.studies import report
from deepsec_jax.studies.paper_title import changed_hyperparameters, changed_settings, same

CELLS = {
    "attacks": (lambda: [fake_cell("fgsm"), fake_cell("bim")], "Table XIV"),
    "defenses": (lambda: [fake_utility("nat"), fake_utility("rt"), fake_utility("igr")], "Table IV"),
    "detectors": (lambda: [fake_clean(), fake_detection("fgsm"), fake_sweep(0.1)], "Table XVI"),
}


def sort(study, cells):
    return report.STUDIES[study].sections(cells)


def render(study, cells):
    return report.render(report.STUDIES[study], cells)


def changed(cells, **parts):
    """The cells with other entries in their configs; what is called by a function is changed by it."""
    made = []
    for cell in cells:
        config = dict(cell.config)
        for name, value in parts.items():
            if name in config:
                config[name] = value(config[name]) if callable(value) else value
        made.append(replace(cell, config=config))
    return made


def recipe(**fields):
    return {"model": model_of("mnist-paper", **fields)}


def inside(part, **fields):
    """A change of some entries of one part of a config."""
    return lambda whole: {**whole, part: {**whole[part], **fields}}


OF_EVERY = {
    "epochs of another recipe under the paper's name": (recipe(epochs=1), "epochs 1, not 20"),
    "network": (recipe(model="small_cnn"), "model small_cnn, not mnist_cnn"),
    "data of the recipe": (recipe(data="digits"), "data digits, not mnist"),
    "held-out share": (recipe(validation=0.5), "validation 0.5, not 0.1"),
    "a recipe's name alone": (
        {"model": {**model_of("mnist-paper"), "recipe": "mnist-paper"}}, "no more than the name",
    ),
    "no recipe": ({"model": {"name": "mnist-paper"}}, "does not say that it was trained"),
    "other training images": ({"model": {**model_of("mnist-paper"), "trained_on": "f0"}}, "on other images"),
    "training images untold": (
        {"model": {k: v for k, v in model_of("mnist-paper").items() if k != "trained_on"}},
        "on which images",
    ),
    "a defended model": (
        {"model": {**model_of("mnist-paper"), "defense": {"class": "RC"}}}, "is defended by RC",
    ),
    "test images of another set": ({"images": "test-0"}, "the test images are not the paper's"),
}  # fmt: skip

OF_ONE = {
    ("attacks", "another eps"): (
        {"attack": inside("hyperparameters", eps=0.31)}, "hyperparameters of FGSM, BIM are not the paper's",
    ),
    ("attacks", "another class"): (
        {"attack": lambda whole: {**whole, "class": "Mine"}}, "hyperparameters of FGSM, BIM",
    ),
    ("defenses", "another defense under the name"): (
        {"defense": lambda whole: {**whole, "class": "PAT"}}, "settings of NAT, RT, IGR are not the paper's",
    ),
    ("defenses", "settings left out"): ({"defense": lambda whole: {**whole, "settings": {}}}, "settings of"),
    ("defenses", "another training"): ({"defense": inside("recipe", epochs=1)}, "settings of NAT, RT, IGR"),
    ("detectors", "another defense under the name"): (
        {"detector": lambda whole: {**whole, "class": "LID"}}, "settings of FS are not the paper's",
    ),
    ("detectors", "settings left out"): ({"detector": lambda whole: {**whole, "settings": {}}}, "of FS are"),
    ("detectors", "other attacks under the names"): (
        {"attack": inside("hyperparameters", targeted=True)}, "hyperparameters of FGSM are not the paper's",
    ),
}  # fmt: skip

CASES = [
    *((study, name, *case) for study in CELLS for name, case in OF_EVERY.items()),
    *((study, name, *case) for (study, name), case in OF_ONE.items()),
]


@pytest.mark.parametrize(
    ("study", "parts", "words"),
    [pytest.param(study, *case, id=f"{study}: {name}") for study, name, *case in CASES],
)
def test_what_is_not_the_papers_has_no_title_of_it(study, parts, words):
    cells, title = CELLS[study]
    (section,) = sort(study, changed(cells(), **parts))
    assert title not in section.title and section.note.startswith(f"Not {title}")
    assert words in section.note and section.note.count(".") <= 1 + section.note.count("0.")


@pytest.mark.parametrize("study", CELLS)
def test_what_is_the_papers_has_its_title(study):
    cells, title = CELLS[study]
    (section,) = sort(study, cells())
    assert section.title.startswith(f"{title} (MNIST) and ours") and not section.note
    # What does not make another recipe of it: its name, its seed, where its values are from.
    (again,) = sort(study, changed(cells(), **recipe(name="mine", seed=3, source="me")))
    assert again.title == section.title and not again.note
    page = render(study, cells())[f"{study}.html"]
    other = render(study, changed(cells(), **recipe(epochs=1)))[f"{study}.html"]
    assert title in page and f"{title} (MNIST)" not in other
    if study == "detectors":  # the table of radii is the paper's where everything is, too
        assert "Table VII (MNIST)" in page and "Table VII" not in other


def test_settings_are_compared_whole():
    fgsm = fake_cell("fgsm").config["attack"]
    assert changed_hyperparameters(fgsm, "mnist", "paper") == ()
    rounded = {**fgsm, "hyperparameters": fgsm["hyperparameters"] | {"eps": 0.30000001192092896}}
    assert changed_hyperparameters(rounded, "mnist", "paper") == ()  # float32's 0.3
    more = {**fgsm, "hyperparameters": fgsm["hyperparameters"] | {"extra": 1}}
    assert changed_hyperparameters(more, "mnist", "paper") == ("extra",)
    assert changed_hyperparameters(fgsm, "mnist", "paper", eps=0.1) == ("eps",)
    for name in attacks.ATTACKS:
        for kind in ("paper", "strong"):
            config = config_of(name, preset=kind)
            assert changed_hyperparameters(config["attack"], "mnist", kind) == (), (name, kind)
    nat = fake_utility("nat").config["defense"]
    assert changed_settings(nat, "mnist", "paper", None, model_of("mnist-paper")["recipe"]) == ()
    assert changed_settings(nat, "mnist", "paper", None, model_of("mnist-small")["recipe"]) == ("training",)
    assert changed_settings({**nat, "class": "PAT"}, "mnist", "paper", None)[0] == "class"
    assert changed_settings({**nat, "name": "mine"}, "mnist", "paper", None) == ()  # it has no preset


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (0.3, 0.30000001, True), (0.3, 0.301, False), (1, 1.0, True), ([1, [2.0]], (1, (2,)), True),
        ([1], [1, 2], False), (True, 1.0, False), ("a", "a", True), (None, 0.0, False), (0.0, 1e-9, False),
    ],
)  # fmt: skip
def test_numbers_are_the_same_to_seven_digits(one, other, equal):
    assert same(one, other) is equal and same(other, one) is equal
