"""The paper's Table IV as data: complete, consistent but for one known slip, every number with a reason."""

import math

import pytest

from deepsec_jax.defenses import COMPLETE
from deepsec_jax.evaluation.utility import utility_columns
from deepsec_jax.tables.published import Published
from deepsec_jax.training import RECIPES

published = Published("defenses")

TABLES = ("mnist", "cifar10")
NAMES = ("nat", "eat", "pat", "dd", "igr", "eit", "rt", "pd", "te", "rc")
ROWS = [(data, row) for data in TABLES for row in NAMES]


def row_of(data, row):
    return {name: published.printed(data, row, name).value for name in published.columns()}


def impossible(values, undefended):
    """What cannot be true of one row (half a last digit of each number aside)."""
    found, slack = [], 0.00016
    if abs(values["accuracy"] - undefended - values["cav"]) > slack:
        found.append("accuracy against cav")
    if abs(values["crr"] - values["csr"] - values["cav"]) > slack:
        found.append("crr and csr against cav")
    if not math.isnan(values["cos"]) and not 0 <= values["cos"] <= math.log(2):
        found.append("cos outside its bound")
    return found


def test_the_table_has_all_rows_and_columns():
    assert published.columns() == tuple(utility_columns())[:6]
    for data in TABLES:
        assert published.rows(data) == NAMES
    assert [published.label(name) for name in NAMES] == [name.upper() for name in NAMES]
    assert [published.position(name) for name in NAMES] == list(range(10))
    assert set(COMPLETE) == set(NAMES)
    groups = [published.group(name) for name in NAMES]
    assert groups[:3] == [("Adversarial training",)] * 3 and groups[3:5] == [("Gradient masking",)] * 2
    assert groups[5:9] == [("Input transformation",)] * 4 and published.group("toy") == ()


@pytest.mark.parametrize(
    ("data", "row", "column", "value"),
    [
        ("mnist", "nat", "accuracy", 0.9951), ("mnist", "pat", "csr", 0.0030),
        ("mnist", "igr", "cav", -0.0018), ("mnist", "igr", "ccv", 0.0303), ("mnist", "rt", "cav", -0.0362),
        ("mnist", "te", "cos", 0.0020), ("cifar10", "pat", "ccv", 0.1387), ("cifar10", "igr", "ccv", 0.1880),
        ("cifar10", "pd", "csr", 0.1831), ("cifar10", "dd", "crr", 0.0734), ("cifar10", "eat", "cos", 0.0215),
        ("cifar10", "rc", "accuracy", 0.8487),
    ],
)  # fmt: skip
def test_numbers_as_they_are_printed(data, row, column, value):
    assert published.printed(data, row, column).value == pytest.approx(value, abs=1e-12)


def test_the_numbers_contradict_each_other_in_one_known_place_only():
    found = {
        key: said
        for key in ROWS
        if (said := impossible(row_of(*key), published.said(key[0], "undefended") / 100))
    }
    assert found == {("cifar10", "eit"): ["accuracy against cav"]}
    assert "contradiction" in published.reasons("cifar10", "eit", "accuracy")[0].label
    assert [published.said(data, "undefended") for data in (*TABLES, "digits")] == [99.27, 85.95, None]


@pytest.mark.parametrize(("column", "value"), [("accuracy", 0.95), ("crr", 0.0), ("csr", 0.01), ("cos", 0.7)])
def test_a_slip_of_the_pen_is_found(column, value):
    assert not impossible(row_of("mnist", "nat"), 0.9927)
    assert impossible({**row_of("mnist", "nat"), column: value}, 0.9927)


@pytest.mark.parametrize(("data", "row"), ROWS)
def test_every_number_is_there_or_says_why_not_and_has_a_reason(data, row):
    for column in published.columns():
        said = published.printed(data, row, column)
        assert math.isnan(said.value) == bool(said.absent)
        reasons = published.reasons(data, row, column)
        assert reasons and all(reason.label and len(reason.text) > 40 for reason in reasons)
    assert "votes" in published.printed(data, "rc", "ccv").absent


def test_special_reasons_stand_where_they_act_only():
    assert "half and half" in published.reasons("mnist", "pat", "accuracy")[0].text
    assert not any("half and half" in reason.text for reason in published.reasons("mnist", "nat", "accuracy"))
    labels = [reason.label for reason in published.reasons("mnist", "dd", "ccv")]
    assert labels[-1] == "other weights" and "over the images that both get right" in labels


def test_a_variant_stands_beside_its_defenses_numbers():
    assert published.printed("mnist", "pat@half", "cav") == published.printed("mnist", "pat", "cav")
    assert published.label("pat@half") == "PAT, half" and published.position("pat@half") == 2
    assert published.group("pat@half") == ("Adversarial training",)
    for row, column in (("toy", "cav"), ("nat", "toy")):
        assert published.printed("mnist", row, column).absent
    assert published.printed("digits", "nat", "cav").absent


def test_titles():
    assert published.title("mnist") == "Table IV (MNIST)" and published.title("digits") == ""
    assert published.title("cifar10") == "Table IV (CIFAR-10)"
    assert {published.said(data, "recipe") for data in TABLES} <= set(RECIPES)


def test_notes_say_what_the_paper_confuses():
    (note,) = published.notes(column="ccv")
    assert "other\nway" not in note and "18.80" in note
    assert published.notes(column="cav") == ()
