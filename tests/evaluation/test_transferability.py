"""Transfer: images of one model judged on others, against an independent count; nothing is attacked twice."""

import itertools

import numpy as np
import pytest
from conftest import make_linear
from defended import RAW, SHAPE, make_dataset

from deepsec_jax.evaluation.sample import split_name
from deepsec_jax.models import AveragedLogits
from deepsec_jax.runs.cells import ATTACK, TRANSFER
from deepsec_jax.runs.runner import missing, run_plan
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.options import InputError
from deepsec_jax.studies.report import render_run
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.transferability import jobs as module
from deepsec_jax.studies.transferability.cells import Target
from deepsec_jax.studies.transferability.options import Options
from deepsec_jax.studies.transferability.tables import TRANSFERABILITY

N, ROWS = 40, 300
NEAR = make_linear(SHAPE)
NEAR = NEAR.replace(weights=NEAR.weights + 0.5 * make_linear(SHAPE, seed=5).weights)
FAR = make_linear(SHAPE, seed=9)
MODELS = {"near": NEAR, "far": FAR}
OPTIONS = Options(
    "raw", models=("near", "far"), attacks=("fgsm", "tmifgsm"), matrix=("fgsm",), steps=(1, 3),
    climbs=("bim",), kappas=(), n=N,
)  # fmt: skip


def jobs_in(folder, options=OPTIONS):
    dataset = make_dataset(rows=ROWS)
    run = Run(RAW, {"name": "raw"}, dataset, 3, Store(folder), 16, warn=lambda text: None)
    return run.store, module.jobs(options, run)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_target", lambda name, run: Target({"name": name}, MODELS[name]))
        store, jobs = jobs_in(folder)
        store.add_to_plan(job.config for job in jobs)
        assert run_plan(store, jobs, advance=lambda done=1, note="": None) == []
        again = jobs_in(folder)[1]
        assert [job.name for job in again if missing(store, job.name, job.groups)] == []
    return read_cells(folder)


def source(cells, attack, model="raw"):
    return next(
        cell
        for cell in cells
        if cell.kind == ATTACK
        and (cell.config["attack"]["name"], cell.config["model"]["name"]) == (attack, model)
    )


def predicted(model, images):
    return np.asarray(model(images)).argmax(1)


def figure(cells, attack, span, column, kind="transfer", model="raw"):
    (section,) = TRANSFERABILITY.sections(cells)
    row = next(r for r in section.rows(kind) if (r.name, r.record["source"]) == (attack, model))
    return row.figures[span][column]


def test_no_attack_is_made_twice_and_none_that_is_not_wanted(cells):
    made = [
        (cell.config["attack"]["name"], cell.config["model"]["name"]) for cell in cells if cell.kind == ATTACK
    ]
    averages = [f"average without {name}" for name in ("raw", "near", "far")]
    wanted = [("fgsm", "raw"), ("tmifgsm", "raw"), ("bim@steps:1", "raw"), ("bim@steps:3", "raw")]
    wanted += [("fgsm", name) for name in ("near", "far", *averages)]
    assert sorted(made) == sorted(wanted)
    judged = [cell for cell in cells if cell.kind == TRANSFER]
    assert len(judged) == 4 * 2 + 2 * 2 + 3  # raw on two, each other on two, each average on the one left out


@pytest.mark.parametrize("name", ["near", "far"])
def test_untargeted_transfer_counts_wrong_classes(cells, name):
    made = source(cells, "fgsm").arrays
    hits, labels = made["success"] >= 0.5, made["labels"]
    fooled = (predicted(MODELS[name], made["x_adv"]) != labels) & (
        predicted(MODELS[name], made["x"]) == labels
    )
    found = figure(cells, "fgsm", name, "transfer")
    assert found.summary.n == hits.sum() and found.summary.mean == pytest.approx(fooled[hits].mean())
    assert figure(cells, "fgsm", name, "transfer_all").summary.mean == pytest.approx(fooled.mean())
    assert figure(cells, "fgsm", name, "transfer_wrong").absent == "as MR"
    # Planted: without the condition on the clean image, errors of the model itself would count.
    careless = predicted(MODELS[name], made["x_adv"]) != labels
    assert (careless[hits].mean() > fooled[hits].mean()) or name == "near"


def test_targeted_transfer_counts_the_target_and_any_wrong_class_apart(cells):
    made = source(cells, "tmifgsm").arrays
    hits, labels, targets = made["success"] >= 0.5, made["labels"], made["targets"]
    said, clean = predicted(FAR, made["x_adv"]), predicted(FAR, made["x"])
    reached = (said == targets) & (clean != targets)
    wrong = (said != labels) & (clean == labels)
    assert figure(cells, "tmifgsm", "far", "transfer").summary.mean == pytest.approx(reached[hits].mean())
    assert figure(cells, "tmifgsm", "far", "transfer_wrong").summary.mean == pytest.approx(wrong[hits].mean())
    assert reached[hits].mean() != wrong[hits].mean()  # planted: the two are different questions
    z = np.asarray(FAR(made["x_adv"]), np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p = (p / p.sum(1, keepdims=True))[np.arange(N), targets]
    found = figure(cells, "tmifgsm", "far", "transfer_acac").summary
    if (hits & reached).any():
        assert found.mean == pytest.approx(p[hits & reached].mean(), rel=1e-4)
    else:
        assert found.n == 0


def test_the_average_is_over_the_other_models(cells):
    each = [figure(cells, "fgsm", name, "transfer").summary.mean for name in MODELS]
    assert figure(cells, "fgsm", "average", "transfer").summary.mean == pytest.approx(np.mean(each))
    original = figure(cells, "fgsm", "original", "transfer_all").summary
    assert original.mean == pytest.approx(source(cells, "fgsm").arrays["success"].mean())
    assert figure(cells, "fgsm", "original", "transfer").absent == "100 % by definition"


def test_the_matrix_has_every_model_and_every_average(cells):
    (section,) = TRANSFERABILITY.sections(cells)
    rows = {row.record["source"]: row for row in section.rows("matrix")}
    assert list(rows) == [
        "raw",
        "near",
        "far",
        *(f"average without {name}" for name in ("raw", "near", "far")),
    ]
    made = source(cells, "fgsm", "average without far").arrays
    assert (predicted(AveragedLogits((RAW, NEAR)), made["x"]) == made["labels"]).all()
    fooled = (predicted(FAR, made["x_adv"]) != made["labels"]) & (predicted(FAR, made["x"]) == made["labels"])
    found = rows["average without far"].figures
    assert found["far"]["transfer_all"].summary.mean == pytest.approx(fooled.mean())
    assert found["near"]["transfer_all"].absent == "not measured"
    assert rows["near"].figures["near"]["transfer_all"].summary.mean == pytest.approx(
        source(cells, "fgsm", "near").arrays["success"].mean()
    )


def test_more_steps_are_rows_of_their_own(cells):
    (section,) = TRANSFERABILITY.sections(cells)
    assert [(row.group, row.label) for row in section.rows("effort")] == [
        (("BIM", "steps"), "1"),
        (("BIM", "steps"), "3"),
    ]
    used = source(cells, "bim@steps:3").config["attack"]["hyperparameters"]
    assert used["step_size"] == pytest.approx(used["eps"] / 3)
    assert {row.name for row in section.rows("transfer")} == {"fgsm", "tmifgsm"}


def test_every_format_has_the_tables_and_no_title_of_the_paper(cells):
    files = render_run(cells)
    page = files["transferability.html"]
    for text in ("Every model against every model", "Transfer against effort", "Not Table XVII"):
        assert text in page
    assert "transfer_acac" in files["transferability.csv"] and r"\caption" in files["transferability.tex"]
    assert split_name(make_dataset(rows=ROWS).test) in files["transferability.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ()}, "names no folder"), ({"models": ("a", "a")}, "more than once"),
        ({"models": ("raw",)}, "more than once"), ({"steps": (0,)}, "--steps must be at least 1"),
        ({"kappas": (-1.0,)}, "--kappas must be at least 0"), ({"n": 0}, "--n must be at least 1"),
    ],
)  # fmt: skip
def test_senseless_options_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        Options(**{"model": "raw", "models": ("near",), **changes}).check()


def test_another_models_values_are_its_own_and_are_forgotten_with_the_runs(tmp_path):
    run = Run(RAW, {"name": "raw"}, make_dataset(), 3, Store(tmp_path), 16)
    other = run.of(RAW, {"name": "other"}, "digest")
    made = itertools.count()
    ask = [lambda: run.once("value", lambda: next(made)), lambda: other.once("value", lambda: next(made))]
    assert [each() for each in (*ask, *ask)] == [0, 1, 0, 1]
    assert other.images() == run.images()
    run.forget()
    assert [each() for each in ask] == [2, 3]
