"""``deepsec robustness``: the answer against independent counts, and gates on models that seem robust."""

import numpy as np
import pytest
from conftest import Linear
from defended import RAW, Misleading, Rounded, make_dataset

from deepsec_jax import evaluation
from deepsec_jax.runs.in_memory import compute_cells
from deepsec_jax.runs.store import Store
from deepsec_jax.studies.options import InputError
from deepsec_jax.studies.report import render_run
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.verdict.attacks import short_name
from deepsec_jax.studies.verdict.card import card_of, command_of
from deepsec_jax.studies.verdict.gates import gates
from deepsec_jax.studies.verdict.jobs import jobs
from deepsec_jax.studies.verdict.options import Options, radius_of
from deepsec_jax.studies.verdict.sentences import verdict
from deepsec_jax.studies.verdict.tables import sections

N, EPS = 60, 0.05


def cells_of(model, folder, surrogate=None, **options):
    """The cells of a verdict on a model that the linear one's labels belong to."""
    run = Run(
        model, {"name": "mine"}, make_dataset(), 3, Store(folder), 20, warn=lambda _: None,
        surrogate=surrogate,
    )  # fmt: skip
    chosen = Options("mine", **{"n": N, "eps": str(EPS), "version": "fast", "steps": 40, **options})
    chosen.check()
    return compute_cells(jobs(chosen, run))


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return cells_of(RAW, tmp_path_factory.mktemp("verdict"))


def exact(images, labels):
    """The closed form of the smallest change in L-inf and L2 of a linear model, without the box."""
    weights, bias = (np.asarray(part, np.float64) for part in (RAW.weights, RAW.bias))
    logits = images.reshape(len(images), -1) @ weights + bias
    found = {"linf": [], "l2": []}
    for row, label in zip(logits, labels, strict=True):
        for norm, order in (("linf", 1), ("l2", 2)):
            gaps = [
                (row[label] - row[k]) / np.linalg.norm(weights[:, label] - weights[:, k], order)
                for k in range(3)
                if k != label
            ]
            found[norm].append(min(gaps))
    return {norm: np.array(values) for norm, values in found.items()}


def test_accuracies_and_distances_are_those_of_the_closed_form(cells):
    accuracy, linf, l2, _ = cells
    arrays = accuracy.arrays
    nearest = exact(arrays["x"].astype(np.float64), arrays["labels"])
    right = np.asarray(RAW(arrays["x"])).argmax(1) == arrays["labels"]
    np.testing.assert_array_equal(accuracy.columns["clean"], right)
    # The box can only help the model, so what survives without it survives.
    assert (accuracy.columns["robust"][right & (nearest["linf"] > EPS * 1.001)] == 1).all()
    assert accuracy.columns["robust"].mean() < right.mean()
    for cell, norm in ((linf, "linf"), (l2, "l2")):
        hits = cell.arrays["success"] >= 0.5
        assert hits.sum() >= right.sum() - 1
        assert (cell.arrays["distance"][hits] >= nearest[norm][hits] * (1 - 1e-4)).all()
        assert np.median(cell.arrays["distance"][hits]) <= 1.2 * np.median(nearest[norm][hits])


def test_the_answer_has_every_topic_and_its_figures(cells):
    said = verdict(cells)
    topics = (
        "Question", "Clean accuracy", "Robust accuracy", "Tried", "Smallest change, L∞",
        "Smallest change, L2", "Curve", "Signs of weak attacks", "Not tried", "Gates",
    )  # fmt: skip
    assert list(said) == list(topics)
    accuracy = cells[0]
    assert f"{100 * accuracy.columns['robust'].mean():.1f} %" in said["Robust accuracy"]
    assert f"n = {N}" in said["Clean accuracy"] and "L∞ ≤ 0.05" in said["Robust accuracy"]
    right = cells[1].arrays["clean"] >= 0.5
    median = np.median(
        np.where(cells[1].arrays["success"] >= 0.5, cells[1].arrays["distance"], np.inf)[right]
    )
    assert f"{median:.3g} in L∞" in said["Smallest change, L∞"]
    assert said["Gates"].startswith("Not robust accuracy. Few images: n = 60 is too few")
    assert len(sections(cells)) == 1
    tried = said["Tried"].partition("first to fool: ")[2].strip(".").split(", ")
    names, counts = zip(*(each.rsplit(" ", 1) for each in tried), strict=True)
    assert len(set(names)) == len(names) and "APGD with twice the steps" in names
    assert sum(map(int, counts)) == sum(accuracy.environment["felled"])
    files = render_run(cells)
    assert files["robustness.html"].index("Not tried") < files["robustness.html"].index("<table")
    assert {"robustness.csv", "robustness.json", "robustness.tex"} <= files.keys()


def test_a_masked_model_closes_a_gate(tmp_path):
    away = Linear(-RAW.weights, -RAW.bias)
    found = [str(gate) for gate in gates(cells_of(Misleading(RAW, away), tmp_path / "misleading"))]
    assert any("a search without gradients only" in text for text in found), found
    blind = [str(gate) for gate in gates(cells_of(Rounded(RAW), tmp_path / "rounded"))]
    assert any("no gradient" in text for text in blind), blind


def test_a_defended_model_is_attacked_through_its_surrogate(tmp_path, cells):
    found = cells_of(Rounded(RAW), tmp_path, surrogate=RAW)
    assert not any("no gradient" in str(gate) for gate in gates(found))
    assert any("through the surrogate" in text for text in found[0].environment["attacks"])
    assert found[0].columns["robust"].mean() == pytest.approx(cells[0].columns["robust"].mean(), abs=0.1)


def test_the_same_in_one_call(tmp_path, cells):
    results = evaluation.robustness(
        RAW, make_dataset(), n=N, eps=EPS, version="fast", steps=40, batch_size=20, model_name="mine"
    )
    again = results.cells[0]
    np.testing.assert_array_equal(again.arrays["x_adv"], cells[0].arrays["x_adv"])
    assert again.name == cells[0].name
    assert results.sections[0].record["verdict"] == verdict(cells)
    with pytest.raises(ValueError, match="at most 1, the range of a pixel"):
        evaluation.robustness(RAW, make_dataset(), n=N, eps=8)


def test_inputs_that_no_run_can_use(tmp_path):
    assert radius_of("8/255") == pytest.approx(8 / 255)
    for wrong in ("0", "-1", "eight", "1/0", "inf"):
        with pytest.raises(InputError, match="--eps must be a positive number"):
            radius_of(wrong)
    with pytest.raises(InputError, match="at most 1, the range of a pixel"):
        Options("m", eps="8").check()
    with pytest.raises(InputError, match="--n must be at most 60"):
        cells_of(RAW, tmp_path, n=61)


def test_short_names():
    assert short_name("Within(attack=FAB(steps=9), eps=0.1)") == "FAB"
    assert short_name("APGD(eps=0.1, aims=9)") == "APGD (targeted)"


def test_a_card_has_the_figures_and_the_command_that_measures_them_again(cells):
    options = Options("pretrained/mine", n=N, eps=str(EPS), version="fast", steps=40)
    card = card_of(cells, command_of(options), "0123")
    assert card["robust"]["mean"] == cells[0].columns["robust"].mean()
    assert card["robust"]["low"] < card["robust"]["mean"] < card["robust"]["high"]
    assert (card["n"], card["eps"], card["digest"]) == (N, EPS, "0123")
    assert [gate.partition(":")[0] for gate in card["gates"]] == ["few images"]
    said = "deepsec robustness pretrained/mine --eps 0.05 --n 60 --version fast --steps 40 --card"
    assert card["command"] == said
