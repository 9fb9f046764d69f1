"""Cells of defenses: a defense that is none, planted faults that flags find, resuming, replays."""

import shutil
from dataclasses import replace

import defended
import fake_run
import jax
import numpy as np
import pytest
from conftest import Linear, Noisy, make_linear

from deepsec_jax.evaluation import defense_jobs
from deepsec_jax.evaluation.cascade import Cascaded, Share
from deepsec_jax.evaluation.defense_cells import (
    Subset,
    Threat,
    default_eps,
    losses_for,
    paper_pgd,
)
from deepsec_jax.evaluation.sample import draw_sample, split_name
from deepsec_jax.evaluation.utility import utility_columns
from deepsec_jax.runs.cell_files import DamagedError, cell_name
from deepsec_jax.runs.runner import CELL
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.defenses.inconsistencies import MASKING, SEARCHED, UNFINISHED, ZERO_GRADIENT
from deepsec_jax.studies.defenses.tables import sections
from deepsec_jax.studies.defenses.threat_words import attack_in_words


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished evaluation of all planted subjects."""
    folder = tmp_path_factory.mktemp("planted") / "run"
    store, _, failures = defended.evaluate(folder, list(defended.planted().values()))
    assert failures == []
    return store.folder


def cells_of(run, name):
    """Knowledge, or kind -> cell of one defense; of the undefended model for None."""
    return {
        cell.config.get("knowledge", cell.kind): cell
        for cell in read_cells(run)
        if cell.config.get("defense", {}).get("name") == name
    }


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


# --- a defense that is none


def test_a_defense_that_is_none_changes_no_number(run):
    cells, undefended = cells_of(run, "nat"), cells_of(run, None)["undefended"]
    utility = cells["utility"]
    for name in ("cav", "crr", "csr", "ccv", "cos"):
        assert not utility.columns[name].any()
    assert np.array_equal(utility.columns["accuracy"], utility.arrays["correct_raw"])
    assert utility.columns["accuracy"].mean() == pytest.approx(55 / 60)
    for knowledge in ("replayed", "white_box"):
        assert same(cells[knowledge].arrays, undefended.arrays)
        assert np.array_equal(cells[knowledge].columns[knowledge], undefended.columns["white_box"])


def test_cav_is_crr_less_csr(run):
    for name in ("nat", "dd", "rt"):
        columns = cells_of(run, name)["utility"].columns
        assert columns["cav"].mean() == pytest.approx(columns["crr"].mean() - columns["csr"].mean(), abs=1e-6)


def test_images_stay_in_the_ball_and_columns_follow_from_answers(run):
    for cell in read_cells(run):
        if cell.kind != "robustness":
            continue
        arrays = cell.arrays
        assert np.abs(arrays["x_adv"] - arrays["x"]).max() <= 0.1 + 1e-6
        assert arrays["x_adv"].min() >= 0 and arrays["x_adv"].max() <= 1
        knowledge = defense_jobs.column_of(cell.config["knowledge"])
        robust = np.minimum(arrays["clean"], arrays["right_or_rejected"])
        assert np.array_equal(cell.columns[knowledge], robust.astype(np.float64))
        assert np.array_equal(cell.columns["clean"], arrays["clean"].astype(np.float64))


def test_the_sample_is_drawn_from_all_test_images_right_or_wrong(run):
    undefended = cells_of(run, None)["undefended"].arrays
    test = defended.make_dataset().test
    assert len(set(undefended["rows"].tolist())) == 40
    assert np.array_equal(undefended["x"], test.images[undefended["rows"]])
    assert np.array_equal(undefended["labels"], test.labels[undefended["rows"]])
    assert undefended["clean"].mean() == 0.875  # five of the forty have another label than the model finds
    few, many = draw_sample(test, 10, 3), draw_sample(test, 40, 3)
    assert np.array_equal(few.rows, many.rows[:10])
    assert split_name(test) != split_name(defended.make_dataset(wrong=4).test)


# --- clean images only


def test_utility_of_a_part_is_that_of_its_images_and_gives_way_to_that_of_all(run, tmp_path):
    part = Subset(12, 3)
    store, planned, failures = defended.evaluate(
        tmp_path / "run", [defended.planted()["masked"]], threat=None, clean=part
    )
    assert failures == [] and [each.config["kind"] for each in planned] == ["utility"]
    assert planned[0].gradients == 1
    every, some = cells_of(run, "dd")["utility"], cells_of(store.folder, "dd")["utility"]
    rows = draw_sample(defended.make_dataset().test, part.n, part.seed).rows
    assert some.config == every.config | {"n": 12, "seed": 3} and some.name != every.name
    for name, values in every.arrays.items():
        np.testing.assert_allclose(some.arrays[name], values[rows], atol=1e-5)
    for cells, n in (([some], 12), ([some, every], 60), ([every, some], 60)):
        (section,) = sections(cells)
        assert section.rows("utility")[0].figures[""]["accuracy"].summary.n == n
        assert section.facts["Undefended accuracy"].endswith(f"of n = {n}")


# --- flags


def test_planted_faults_are_flagged_and_sound_defenses_are_not(run):
    (section,) = sections(read_cells(run))
    _, threat = section.tables
    found = {row.name: {flag.label for flag in row.findings} for row in threat.rows}
    assert found == {
        "undefended": set(), "nat": set(), "dd": {MASKING}, "te": {ZERO_GRADIENT}, "igr": {UNFINISHED},
        "rt": set(),
    }  # fmt: skip
    rows = {row.name: row for row in threat.rows}
    masked = rows["dd"].values
    assert masked["white_box"].mean() > masked["replayed"].mean() > masked["adaptive"].mean()
    unfinished = rows["igr"].values
    assert np.array_equal(unfinished["adaptive"], unfinished["clean"])
    for row in rows.values():
        worst = np.min([row.values[name] for name in row.values if name not in ("clean", "worst")], axis=0)
        assert np.array_equal(row.values["worst"], worst)


def test_where_nothing_flows_back_the_zero_gradient_is_recorded_in_the_place_of_an_attack(run):
    cell = cells_of(run, "te")["white_box"]
    assert cell.environment["zero_gradient"] is True and cell.environment["gradients"] == 0
    assert np.array_equal(cell.arrays["x_adv"], cell.arrays["x"])
    (section,) = sections(read_cells(run))
    (row,) = [row for row in section.tables[1].rows if row.name == "te"]
    assert row.figures[""]["white_box"].absent == "zero gradient" and "white_box" not in row.values
    worst = np.minimum(row.values["replayed"], row.values["adaptive"])
    assert np.array_equal(row.values["worst"], worst) and worst.mean() < row.values["clean"].mean()
    for name in ("nat", "dd", "igr", "rt"):  # planted: a gradient that leads astray is one
        assert "zero_gradient" not in cells_of(run, name)["white_box"].environment


def test_a_sight_shows_what_the_network_sees_and_both_answers(run):
    for name in ("nat", "te"):
        model_inputs, attacked = (cells_of(run, name)[kind].arrays for kind in ("model_inputs", "adaptive"))
        rows = [int(np.flatnonzero(attacked["rows"] == row)[0]) for row in model_inputs["rows"]]
        for image in ("x", "x_adv"):
            assert np.array_equal(model_inputs[image], attacked[image][rows])
        assert np.allclose(model_inputs["probabilities_adv"], attacked["probabilities"][rows], atol=1e-6)
        assert np.array_equal(model_inputs["seen"], model_inputs["x"]) == (name == "nat")
        answers = np.asarray(jax.nn.softmax(defended.RAW(model_inputs["x"])))
        assert np.allclose(model_inputs["probabilities_raw"], answers, atol=1e-6)
    assert np.allclose(model_inputs["seen_adv"], np.round(model_inputs["x_adv"] * 31) / 31, atol=1e-6)


def test_a_randomised_model_is_judged_over_draws_that_no_attack_sees(run):
    cells = cells_of(run, "rt")
    assert cells["adaptive"].config["draws"] == 10
    shares = cells["white_box"].columns["white_box"]
    assert ((shares > 0) & (shares < 1)).any() and np.allclose(shares * 10, np.round(shares * 10), atol=1e-5)
    assert cells["utility"].columns["cav"].mean() < 0


def test_the_adaptive_attack_spends_runs_on_survivors_only(run):
    spent = {name: cells_of(run, name)["adaptive"].environment["gradients"] for name in ("dd", "igr")}
    # One run and two towards a class each, nine gradients long, and three to choose the classes; five of
    # forty images are wrong before any attack.
    assert spent["igr"] == pytest.approx((3 * 9 + 3) * 35 / 40)
    assert 8 * 35 / 40 < spent["dd"] < spent["igr"]


def test_a_search_finds_what_a_wrong_surrogate_does_not_and_it_is_flagged(run, tmp_path):
    """igr's surrogate leads astray; Square asks the model itself.  A sound surrogate leaves it nothing."""
    wrong, sound = defended.planted()["wrong surrogate"], defended.planted()["no-op"]
    threat = replace(defended.THREAT, queries=200, steps=20)
    defended.evaluate(tmp_path / "run", [wrong, sound], threat=threat)
    cells = read_cells(tmp_path / "run")
    found = {name: cells_of(tmp_path / "run", name)["adaptive"] for name in ("igr", "nat")}
    assert found["igr"].environment["felled"][-1] > 10 and found["nat"].environment["felled"][-1] == 0
    assert 0 < found["igr"].environment["forwards"] <= 200 + 2
    (section,) = sections(cells)
    flags = {row.name: {flag.label for flag in row.findings} for row in section.tables[1].rows}
    assert flags["igr"] == {SEARCHED} and flags["nat"] == set()


def test_a_search_ends_the_attack_on_a_model_without_a_gradient(tmp_path):
    """The surrogate leads astray: without the search, the planted violation, the model seems robust."""
    away = Linear(-defended.RAW.weights, -defended.RAW.bias)
    hidden, astray = defended.Rounded(defended.RAW), defended.Misleading(defended.RAW, away)
    robust, configs = {}, {}
    for queries in (0, 200):
        threat = replace(defended.THREAT, queries=queries)
        subject = defended.subject("te", hidden, astray, differentiable=False)
        defended.evaluate(tmp_path / str(queries), [subject], threat=threat)
        cell = cells_of(tmp_path / str(queries), "te")["adaptive"]
        robust[queries], configs[queries] = cell.columns["adaptive"].mean(), cell.config["attack"]
    assert robust[200] < 0.5 * robust[0], robust
    assert "queries" not in configs[0]["hyperparameters"]
    assert configs[200]["hyperparameters"]["search"] == "guided squares"
    assert attack_in_words(configs[200]).count("Square with 200 queries") == 1


def test_a_search_goes_on_where_its_cell_says_so(tmp_path, monkeypatch):
    """Where the mean over draws is fooled single draws may hold, so on random surrogates it spends all."""
    noisy = Noisy(defended.RAW, jax.random.split(jax.random.key(5), 4), 0.1)
    none, zeros = np.zeros(40), np.zeros((40, 4, 4, 1), np.float32)
    made, stops = Cascaded(zeros, none, none, none, none, 0.0, 0.0), []
    monkeypatch.setattr(
        defense_jobs, "run_cascade", lambda runs, *_, **__: stops.append(runs[-1].attack.attack.stops) or made
    )
    threat = replace(defended.THREAT, queries=9)
    for name, surrogate in (("te", defended.RAW), ("rc", noisy)):
        subject = defended.subject(name, defended.Rounded(defended.RAW), surrogate, differentiable=False)
        _, planned, _ = defended.evaluate(tmp_path / name, [subject], threat=threat)
        (cell,) = [each for each in planned if each.config.get("knowledge") == "adaptive"]
        asked = cell.config["attack"]["hyperparameters"]["search"]
        assert asked == ("guided squares" if stops[-1] else "guided squares, all queries")
    assert stops == [True, False]


def test_progress_counts_a_run_by_its_gradients():
    told: list[int] = []
    meter = Share(told.append, 100, [10, 30])
    meter.fallen(0, 0)
    meter.tell(50)
    assert sum(told) == 12  # half of a quarter
    meter.tell(50)
    meter.fallen(1, 60)  # sixty have fallen: their share of the second run is saved
    assert sum(told) == 25 + 45
    meter.tell(40)
    assert sum(told) == 100


# --- resuming


def starts(store):
    return [(entry["cell"], entry["group"]) for entry in store.read_log() if entry["event"] == "start"]


def test_only_what_is_missing_is_computed_and_gives_the_same(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    store, before = Store(folder), len(starts(Store(folder)))
    again = list(defended.planted().values())[:1]
    monkeypatch.setattr(defense_jobs, "generate", lambda *given, **more: pytest.fail("attacked again"))
    _, planned, failures = defended.evaluate(folder, again)
    assert failures == [] and len(starts(store)) == before
    adaptive = cells_of(folder, "nat")["adaptive"]
    shutil.rmtree(folder / "cells" / adaptive.name)
    (folder / "columns" / planned[0].name / "cos.npy").unlink()
    defended.evaluate(folder, again, batch_size=7)
    assert starts(store)[before:] == [(planned[0].name, "utility"), (adaptive.name, CELL)]
    found = cells_of(folder, "nat")["adaptive"].arrays
    # In batches of another size a softmax may round its last digit otherwise, and nothing else may differ.
    for name in ("probabilities", "confidence"):
        np.testing.assert_allclose(found.pop(name), adaptive.arrays.pop(name), atol=1e-6)
    assert same(found, adaptive.arrays)


def test_images_to_replay_are_made_once_for_all_defenses(tmp_path, monkeypatch):
    made, generate = [], defense_jobs.generate

    def counted(attack, model, *given, **more):
        made.append(model)
        return generate(attack, model, *given, **more)

    monkeypatch.setattr(defense_jobs, "generate", counted)
    subjects = [defended.subject("nat"), defended.subject("eat", make_linear(defended.SHAPE, seed=4))]
    store, planned, failures = defended.evaluate(tmp_path / "run", subjects)
    assert failures == [] and len(made) == 3  # undefended, and white-box on two
    replayed = [cells_of(store.folder, name)["replayed"] for name in ("nat", "eat")]
    assert np.array_equal(replayed[0].arrays["x_adv"], replayed[1].arrays["x_adv"])
    replays = [each.after for each in planned if each.config.get("knowledge") == "replayed"]
    assert replays == [(planned[2].name,)] * 2


def test_what_replays_a_failed_cell_fails_and_the_rest_goes_on(tmp_path, monkeypatch):
    generate = defense_jobs.generate

    def broken(attack, model, *given, **more):
        if model is defended.RAW:
            raise RuntimeError("out of memory")
        return generate(attack, model, *given, **more)

    monkeypatch.setattr(defense_jobs, "generate", broken)
    other = make_linear(defended.SHAPE, seed=4)
    store, _, failures = defended.evaluate(tmp_path / "run", [defended.subject("eat", other)])
    assert [failure.error.partition(":")[0] for failure in failures] == ["RuntimeError"] * 2
    assert "out of memory" in failures[0].error and "no images to replay" in failures[1].error
    cells = cells_of(store.folder, "eat")
    assert cells["replayed"].error and cells["white_box"].error is None and cells["adaptive"].error is None
    monkeypatch.undo()
    _, _, failures = defended.evaluate(store.folder, [defended.subject("eat", other)])
    assert failures == [] and cells_of(store.folder, "eat")["replayed"].error is None


# --- names


def test_names_of_attack_cells_are_what_they_were():
    """Since version 2 of their meaning."""
    assert cell_name(fake_run.config(0)) == "fake0-paper-none-fake-s0-f2fcdb094d0d"


def test_a_name_follows_from_everything_that_decides():
    question = defense_jobs.question_of(defended.RAW, defended.BASE, defended.make_dataset(), 3)
    subject, threat = defended.subject("nat"), defended.THREAT
    config = question.adaptive(subject, threat)
    assert cell_name(config).startswith("nat-paper-adaptive-raw-mnist-s3-")
    others = [
        question.adaptive(subject, replace(threat, **change))
        for change in ({"eps": 0.2}, {"n": 41}, {"seed": 4}, {"steps": 9}, {"restarts": 3})
    ]
    others.append(question.adaptive(replace(subject, surrogate=make_linear(defended.SHAPE, seed=9)), threat))
    others.append(question.adaptive(replace(subject, classifier=make_linear(defended.SHAPE, seed=9)), threat))
    others += [question.white_box(subject, threat), question.replayed(subject, threat)]
    others += [question.utility(subject), question.undefended(threat)]
    assert len({cell_name(other) for other in (config, *others)}) == 1 + len(others)
    # The adaptive attack's own numbers leave the other cells alone.
    harder = replace(threat, steps=999, restarts=99)
    assert question.white_box(subject, harder) == question.white_box(subject, threat)


def test_a_config_of_an_unknown_kind_is_damage(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    plan = folder / "plan.json"
    plan.write_text(plan.read_text().replace('"kind": "utility"', '"kind": "beauty"'))
    with pytest.raises(DamagedError, match=r"plan\.json is damaged"):
        read_cells(folder)


# --- settings


def test_pgd_is_the_papers_and_its_step_goes_with_the_radius():
    assert (paper_pgd("mnist", 0.3).step_size, paper_pgd("mnist", 0.3).steps) == (0.05, 15)
    small = paper_pgd("cifar10", 8 / 255)
    assert small.eps == 8 / 255 and small.step_size == pytest.approx(0.1 * 8 / 255) and small.steps == 15
    assert (default_eps(1), default_eps(3)) == (0.3, 8 / 255)
    assert losses_for(10) == ("max_margin", "dlr") and losses_for(2) == ("max_margin",)


def test_the_adaptive_attack_by_default_is_the_strong_one():
    question = defense_jobs.question_of(defended.RAW, defended.BASE, defended.make_dataset(), 3)
    assert question.cascade(Threat(eps=0.3))["hyperparameters"] == {
        "attack": "APGD", "norm": "linf", "eps": 0.3, "steps": 100, "restarts": 5, "aims": 2, "rounds": 3,
        "stops": True, "search": "squares", "queries": 1000,
    }  # fmt: skip
    joint = question.cascade(Threat(eps=0.3), joint=True)["hyperparameters"]
    assert joint["losses"] == ["max_margin", "dlr"] and joint["step_size"] == 0.3 / 8


def test_the_columns_of_table_iv_come_first():
    assert list(utility_columns())[:6] == ["accuracy", "cav", "crr", "csr", "ccv", "cos"]
