"""The paper's numbers as data: complete, possible, and with a reason for every difference."""

import math

import pytest

from deepsec_jax import attacks, training
from deepsec_jax.metrics import METRICS
from deepsec_jax.tables.published import Published

published = Published("attacks")

TABLES = ("mnist", "cifar10")
ROWS = [(data, row) for data in TABLES for row in attacks.ROWS[data]]


def impossible(values):
    """What cannot be true of one row's averages, whatever attack they come from (half a last digit aside)."""
    slack, found = 0.0011, []
    shares = ("mr", "acac", "actc", "l0", "linf", "ass", "nte", "rgb", "ric")
    found += [f"{name} outside [0, 1]" for name in shares if not 0 <= values[name] <= 1]
    if values["acac"] + values["actc"] > 1 + slack:
        found.append("acac + actc > 1")
    if not 2 * values["acac"] - 1 - slack <= values["nte"] <= values["acac"] + slack:
        found.append("nte against acac")
    if values["linf"] > values["l2"] + slack:
        found.append("linf > l2")
    return found


def row_of(data, row):
    return {name: published.printed(data, row, name).value for name in published.columns()}


@pytest.mark.parametrize("data", TABLES)
def test_the_tables_have_all_rows_in_the_papers_order_and_all_columns(data):
    assert published.rows(data) == attacks.ROWS[data] and len(attacks.ROWS[data]) == 19
    assert set(published.columns()) <= set(METRICS) and len(published.columns()) == 12
    for row in published.rows(data):
        assert published.label(row) != row and published.group(row)


@pytest.mark.parametrize(("data", "row"), ROWS)
def test_every_printed_number_is_there_or_says_why_not_and_has_a_reason(data, row):
    for column in published.columns():
        said = published.printed(data, row, column)
        assert math.isnan(said.value) == bool(said.absent)
        reasons = published.reasons(data, row, column)
        assert reasons and all(reason.label and len(reason.text) > 40 for reason in reasons)


def test_a_few_numbers_as_they_are_printed():
    assert published.printed("mnist", "fgsm", "mr").value == pytest.approx(0.304)
    assert published.printed("mnist", "ead@l1", "cc").value == 1.3622
    assert published.printed("cifar10", "fgsm@0.2", "psd").value == 537.340
    assert published.printed("cifar10", "ead@l1", "linf").value == 0.057
    assert "UAP" in published.printed("cifar10", "uap", "cc").absent


def test_the_numbers_contradict_each_other_in_one_known_place_only():
    found = {key: said for key in ROWS if (said := impossible(row_of(*key)))}
    assert found == {("cifar10", "illc"): ["nte against acac"]}
    assert "contradiction" in published.reasons("cifar10", "illc", "nte")[0].label


@pytest.mark.parametrize(
    ("column", "value"), [("mr", 30.4), ("nte", 0.99), ("actc", 0.65), ("linf", 0.9), ("ass", -0.1)]
)
def test_a_slip_of_the_pen_is_found(column, value):
    values = {**row_of("mnist", "fgsm"), "l2": 0.8, column: value}
    assert impossible(values) and not impossible(row_of("mnist", "fgsm"))


@pytest.mark.parametrize(
    ("data", "row", "column", "label"),
    [
        ("mnist", "fgsm", "mr", "float32"), ("mnist", "umifgsm", "mr", "float32"),
        ("mnist", "pgd", "l0", "float32"), ("cifar10", "umifgsm", "l2", "momentum"),
        ("cifar10", "bim", "ric", "Guetzli"), ("mnist", "llc", "ass", "SSIM"),
        ("mnist", "cw2", "l2", "constant"), ("mnist", "blb", "cc", "Python"), ("mnist", "bim", "cc", "clock"),
    ],
)  # fmt: skip
def test_known_causes_are_named_where_they_act(data, row, column, label):
    assert any(label in reason.label for reason in published.reasons(data, row, column))


@pytest.mark.parametrize(
    ("data", "row", "column", "label"),
    [
        ("cifar10", "fgsm", "mr", "float32"), ("mnist", "deepfool", "mr", "float32"),
        ("mnist", "fgsm", "cc", "float32"), ("mnist", "bim", "l2", "momentum"),
        ("mnist", "bim", "ass_original", "SSIM"), ("mnist", "bim", "ric_guetzli", "Guetzli"),
    ],
)  # fmt: skip
def test_and_nowhere_else(data, row, column, label):
    assert not any(label in reason.label for reason in published.reasons(data, row, column))


def test_other_forms_of_a_column_are_compared_and_other_columns_are_not():
    assert published.printed("mnist", "bim", "ass_original") == published.printed("mnist", "bim", "ass")
    for column in ("mr_8bit", "rgb_device", "psd_inverse", "a_toy"):
        assert published.printed("mnist", "bim", column).absent


def test_titles():
    assert published.title("mnist") == "Table XIV (MNIST)" and published.title("digits") == ""
    assert published.title("cifar10") == "Table III (CIFAR-10)"
    assert {published.said(data, "recipe") for data in TABLES} <= set(training.RECIPES)


def test_other_data_and_rows_have_no_printed_numbers():
    assert published.printed("digits", "fgsm", "mr").absent == "the paper has no table of digits"
    assert published.printed("mnist", "fgsm@0.2", "mr").absent == "no row of the paper's table"
