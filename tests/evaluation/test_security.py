"""The security evaluation: three kinds of knowledge, the worst case per image, gates on planted defenses."""

import csv
import io

import jax
import numpy as np
import pytest
from conftest import Linear, Noisy
from defended import RAW, SHAPE, Misleading, Rounded, make_dataset, subject

from deepsec_jax import attacks
from deepsec_jax.data import candidates_name, stored_candidates
from deepsec_jax.evaluation.attack_jobs import attack_config, attack_job
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX
from deepsec_jax.evaluation.judge import judge
from deepsec_jax.evaluation.sample import split_name
from deepsec_jax.runs.cells import SECURITY
from deepsec_jax.runs.runner import Job, run_plan
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.options import InputError, seconds_of
from deepsec_jax.studies.report import render_run
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security import cells as security_cells
from deepsec_jax.studies.security import jobs as security_jobs
from deepsec_jax.studies.security.budget import numbers_of, place_of, shares
from deepsec_jax.studies.security.cells import Attacked, Makers
from deepsec_jax.studies.security.gating.gates import BLACK_BOX, BLIND, MASKED, SMALL, WEAK
from deepsec_jax.studies.security.gating.indicated import KIND
from deepsec_jax.studies.security.options import Options
from deepsec_jax.studies.security.tables import PAPER
from deepsec_jax.studies.security.worst import Threat, usual_threats, worst_case
from deepsec_jax.studies.table import STUDIES
from deepsec_jax.tables import checks, terminal

N = 50
AWAY = Linear(-RAW.weights, -RAW.bias)  # its worst images are RAW's best
MODELS = {
    "nat": subject("nat"),
    "dd": subject("dd", Misleading(RAW, AWAY), RAW),
    "te": subject("te", Rounded(RAW), RAW, differentiable=False),
    "igr": subject("igr", RAW, AWAY),
    "rt": subject("rt", Noisy(RAW, jax.random.split(jax.random.key(5), 4), 0.05)),
}
ATTACKS = {
    "pgd": attacks.PGD(eps=0.1, step_size=0.03, steps=6),
    "tmifgsm": attacks.TMIFGSM(eps=0.1, steps=4),
    "square": attacks.Square(eps=0.1, queries=30),
    "deepfool": attacks.DeepFool(steps=5),
}


def run(folder, models, knowledge=(REPLAYED, WHITE_BOX, ADAPTIVE), chosen=ATTACKS, n=N):
    """Write the cells of a security evaluation, and return them."""
    store, dataset = Store(folder), make_dataset()

    def candidates(n=N):
        return stored_candidates(RAW, dataset, n, 0, folder / "candidates")

    sources, attacked = [], []
    for name, attack in chosen.items():
        config = attack_config(
            name, attack, preset="paper", data="mnist", model={"name": "raw"}, n=N, seed=0,
            candidates=candidates_name(RAW, dataset, N, 0), images=split_name(dataset.test),
            train_digest=dataset.digest,
        )  # fmt: skip
        job = attack_job(
            config, attack, RAW, candidates, groups={}, image_shape=SHAPE, classes=3, batch_size=16,
            gradient_seconds=lambda: 0.001, train_images=lambda: dataset.train.images,
        )  # fmt: skip
        sources.append(job)
        attacked.append(Attacked(name, attack, config, job.name, N))
    kept = {}

    def once(key, make):
        if key not in kept:
            kept[key] = make()
        return kept[key]

    makers = Makers(
        store, candidates, lambda n: candidates_name(RAW, dataset, n, 0), lambda: dataset.train.images,
        SHAPE, 3, 16, lambda defended: {"folder": "here"}, once,
    )  # fmt: skip
    made = [makers.job(kind, each, model, n) for kind in knowledge for each in attacked for model in models]
    jobs = [*sources, *(job for job in made if job is not None)]
    store.add_to_plan(job.config for job in jobs)
    assert run_plan(store, jobs, advance=lambda done=1, note="": None) == []
    return read_cells(folder)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return run(tmp_path_factory.mktemp("security") / "run", list(MODELS.values()))


def of(cells, defense):
    """(knowledge, attack) -> cell of one defense."""
    return {
        (cell.config["knowledge"], cell.config["attack"]["name"]): cell
        for cell in cells
        if cell.kind == SECURITY and cell.config["defense"]["name"] == defense
    }


def source(cells, name):
    return next(c for c in cells if c.kind == "attack" and c.config["attack"]["name"] == name)


def test_replayed_images_are_those_of_the_undefended_model(cells):
    for defense in ("nat", "te"):
        cell, made = of(cells, defense)[REPLAYED, "pgd"], source(cells, "pgd").arrays
        found = np.asarray(MODELS[defense].classifier(made["x_adv"])).argmax(1)
        np.testing.assert_array_equal(cell.arrays["right_or_rejected"], found == made["labels"])
        change = np.abs(made["x_adv"] - made["x"]).reshape(N, -1)
        np.testing.assert_allclose(cell.arrays["linf"], change.max(1), rtol=1e-6)
        np.testing.assert_allclose(cell.arrays["l2"], np.linalg.norm(change, axis=1), rtol=1e-5)
        assert "x_adv" not in cell.arrays and cell.config["source"] == source(cells, "pgd").name


def test_no_column_is_a_copy_of_another(cells):
    kinds = {name: {knowledge for knowledge, _ in of(cells, name)} for name in MODELS}
    assert kinds["nat"] == {REPLAYED, WHITE_BOX}  # its surrogate is the model itself
    assert kinds["dd"] == kinds["rt"] == {REPLAYED, WHITE_BOX, ADAPTIVE}
    assert all((ADAPTIVE, "square") not in of(cells, name) for name in MODELS)  # it follows no gradient
    (section,) = STUDIES["security"].sections(cells)
    (adaptive,) = [table for table in section.tables if table.kind == ADAPTIVE]
    pgd = next(row for row in adaptive.rows if row.name == "pgd")
    nat = next(model.key for model in section.subjects if model.name == "nat")
    assert pgd.figures[nat]["robust"].absent == "as white-box"


def test_white_box_is_the_attack_on_the_model_itself_and_judged_from_outside(cells):
    made = source(cells, "tmifgsm").arrays
    cell = of(cells, "nat")[WHITE_BOX, "tmifgsm"]
    np.testing.assert_array_equal(cell.arrays["x_adv"], made["x_adv"])  # nat is the undefended model
    outcome = judge(RAW, made["x"], cell.arrays["x_adv"], made["labels"], targets=made["targets"])
    np.testing.assert_array_equal(cell.arrays["success"], outcome.success)


def test_success_is_the_judges_and_no_image_is_predicted_twice(cells, monkeypatch, tmp_path):
    for name in ("rt", "igr"):
        for (knowledge, attack), cell in of(cells, name).items():
            made = source(cells, attack).arrays
            x_adv = made["x_adv"] if knowledge == REPLAYED else cell.arrays["x_adv"]
            targets = cell.arrays["targets"]
            outcome = judge(
                MODELS[name].classifier, made["x"], x_adv, made["labels"],
                targets=targets if targets.min() >= 0 else None,
            )  # fmt: skip
            if name == "igr":
                np.testing.assert_array_equal(cell.arrays["success"], outcome.success)
                np.testing.assert_array_equal(cell.arrays["right_or_rejected"], outcome.correct)
    asked = []
    plain = security_cells.predict
    monkeypatch.setattr(
        security_cells, "predict", lambda *args, **named: asked.append(args[1]) or plain(*args, **named)
    )
    run(tmp_path / "run", [MODELS["nat"]], chosen={"pgd": ATTACKS["pgd"], "square": ATTACKS["square"]})
    assert len(asked) == 1 + 2 * 1 + 2 * 2  # clean once; replayed; white-box, and rounded to 8 bits


def test_where_nothing_flows_back_no_attack_is_pretended(cells):
    found = of(cells, "te")
    assert found[WHITE_BOX, "pgd"].environment["zero_gradient"] is True
    assert not found[WHITE_BOX, "pgd"].arrays["linf"].any()
    assert "zero_gradient" not in found[WHITE_BOX, "square"].environment
    assert found[ADAPTIVE, "pgd"].arrays["linf"].max() == pytest.approx(0.1, abs=1e-6)


def test_the_worst_case_is_taken_image_by_image(cells):
    for name in ("nat", "dd", "rt"):
        group = list(of(cells, name).values())
        for threat in (Threat("linf", 0.1), Threat("l2", 0.2), Threat("linf", 0.01)):
            found = worst_case(group, threat)
            wanted = np.min(
                [
                    np.where(
                        cell.arrays[threat.norm] <= threat.eps + 1e-5,
                        np.minimum(cell.arrays["clean"], cell.arrays["right_or_rejected"]),
                        cell.arrays["clean"],
                    )
                    for cell in group
                ],
                axis=0,
            )
            np.testing.assert_allclose(found.robust, wanted)
            bound = [c for c in group if c.arrays["linf"].max() <= 0.1 + 1e-5]
            if threat == Threat("linf", 0.1):  # planted: an average over attacks is above it
                assert found.robust.mean() < np.mean([c.arrays["right_or_rejected"].mean() for c in bound])
            taken = found.by >= 0
            assert (found.robust[taken] < found.clean[taken]).all()
    assert worst_case([], Threat("linf", 0.1)) is None


def labels_of(cells, name, *, closed=None):
    (section,) = STUDIES["security"].sections(cells)
    model = next(model for model in section.subjects if model.name == name)
    return {gate.finding.label for gate in model.gates if closed is None or gate.closed == closed}


def test_gates_catch_planted_defenses_and_accuse_no_honest_one(cells):
    radii = {"no attack at this radius"}  # nothing here is as large as 0.3
    assert labels_of(cells, "nat") <= {SMALL} | radii
    assert labels_of(cells, "rt", closed=True) <= {SMALL} | radii
    assert MASKED in labels_of(cells, "dd") and MASKED not in labels_of(cells, "dd", closed=True)
    assert BLIND in labels_of(cells, "te") and BLIND not in labels_of(cells, "te", closed=True)
    assert WEAK in labels_of(cells, "igr", closed=True)


def test_without_an_adaptive_attack_masked_figures_are_struck_through(tmp_path):
    models = [MODELS["nat"], MODELS["dd"], MODELS["te"]]
    cells = run(tmp_path / "run", models, knowledge=(REPLAYED, WHITE_BOX))
    assert MASKED in labels_of(cells, "dd", closed=True) and BLIND in labels_of(cells, "te", closed=True)
    (section,) = STUDIES["security"].sections(cells)
    said = checks.warnings(section, STUDIES["security"].checks)
    assert any("white-box attacks leave more images than replayed ones: pgd by" in text for text in said)
    files = render_run(cells)
    assert files["security.html"].count('<tr class="struck">') >= 2
    assert files["security.tex"].count(r"\sout{") >= 2 and ",ulem}" in files["security.tex"]
    assert '"may_be_called_robust": false' in files["security.json"]


def test_a_black_box_that_finds_more_is_a_closed_gate(tmp_path):
    """Square's images on a model whose own gradient leads astray, with nothing through a surrogate."""
    chosen = {"pgd": ATTACKS["pgd"], "square": attacks.Square(eps=0.1, queries=200)}
    cells = run(tmp_path / "run", [MODELS["dd"], MODELS["nat"]], knowledge=(WHITE_BOX,), chosen=chosen)
    assert BLACK_BOX in labels_of(cells, "dd", closed=True)
    assert BLACK_BOX not in labels_of(cells, "nat")


def test_every_format_has_the_tables(cells):
    files = render_run(cells)
    assert {"security.html", "security.csv", "security.json", "security.tex"} <= files.keys()
    for text in ("Replayed attacks", "White-box attacks", "Adaptive attacks", "Worst case"):
        assert text in files["security.html"]
    assert "no security claim" in files["security.html"]
    (section,) = STUDIES["security"].sections(cells)
    assert all(row.hits is None for kind in (WHITE_BOX, ADAPTIVE) for row in section.rows(kind))
    assert all(row.hits is not None for row in section.rows(REPLAYED))
    assert "worst" in files["security.csv"] and r"\caption" in files["security.tex"]
    alone = [cell for cell in cells if cell.kind == "attack"]
    assert "security.html" not in render_run(alone)


def test_the_papers_rows_have_the_papers_averages():
    """Table V's row of R+LLC is missing from our copy; the averages say what it must have held."""
    for data, examples in (("mnist", 682.1), ("cifar10", 891.1)):
        rows, averages = PAPER.rows(data), PAPER.said(data, "averages")
        assert len(rows) == 19
        assert np.mean([PAPER.examples(data, row) for row in rows]) == pytest.approx(examples, abs=0.1)
        printed = np.array(
            [[100 * PAPER.printed(data, row, "replayed_hits", name).value for name in PAPER.labels()]
             for row in rows]
        )  # fmt: skip
        for row, values in zip(rows, printed, strict=True):
            if row in averages["attacks"]:
                assert np.mean(values) == pytest.approx(averages["attacks"][row], abs=0.07), row
        assert set(rows) - set(averages["attacks"]) == {"jsma" if data == "mnist" else "rllc"}
        for name, values in zip(PAPER.labels(), printed.T, strict=True):
            if name in averages["defenses"] and data == "mnist":
                assert np.mean(values) == pytest.approx(averages["defenses"][name], abs=0.06), name
            elif data == "cifar10":
                (gone,) = np.flatnonzero(np.isnan(values))
                missing = 19 * averages["defenses"][name] - np.nansum(values)
                # R+LLC lies near R+FGSM, the other single step from a random start.
                alike = values[rows.index("rfgsm")]
                assert rows[gone] == "rllc" and abs(missing - alike) < 10, name
    assert PAPER.printed("mnist", "pgd", "replayed_hits", "pat").value == pytest.approx(0.982)
    assert PAPER.examples("mnist", "pgd") == 824
    assert PAPER.printed("cifar10", "rllc", "replayed_hits", "nat").absent.startswith("the row is missing")


def test_averages_of_the_paper_are_beside_ours(cells):
    (section,) = STUDIES["security"].sections(cells)
    rows = {row.label: row.figures[""] for row in section.rows("averages")}
    replayed = {row.name: row for row in section.rows(REPLAYED)}
    keys = {model.name: model.key for model in section.subjects}
    assert set(rows) == {
        *(f"{name}, all attacks" for name in ("NAT", "DD", "TE", "IGR", "RT")),
        *(f"{name}, all defenses" for name in ("PGD", "T-MI-FGSM", "DF")), "All attacks, all defenses",
    }  # fmt: skip
    shares = [replayed[name].figures[keys["nat"]]["replayed_hits"] for name in ("pgd", "tmifgsm", "deepfool")]
    found, same = rows["NAT, all attacks"]["average"], rows["NAT, all attacks"]["average_of_same"]
    assert found.summary.n == 3
    for end in ("mean", "low", "high"):
        wanted = np.mean([getattr(share.summary, end) for share in shares])
        assert getattr(found.summary, end) == pytest.approx(wanted)
    assert found.printed.absent == "the paper's 90.7 % is over 19 figures, ours over 3"  # square is not there
    assert same.printed.value == pytest.approx(np.mean([0.954, 0.984, 0.996]))
    assert "no robust accuracy" in found.column.formula
    said = render_run(cells)["security.html"]
    assert "they are no robust accuracy" in said and "Averages over attacks" in said
    lines = csv.DictReader(io.StringIO(render_run(cells)["security.csv"]))
    named = {(line["attack"], line["defense"]) for line in lines if line["table"] == "averages"}
    assert {("all", "NAT"), ("pgd", "all"), ("all", "all")} <= named


def test_complete_averages_are_compared_with_the_printed_ones(monkeypatch, cells):
    """The paper's table is cut to what was measured, so that its averages are over the same figures."""
    rows, names = ("pgd", "tmifgsm", "deepfool"), ("nat", "dd", "te", "igr", "rt")
    monkeypatch.setattr(type(PAPER), "rows", lambda self, data: rows)
    monkeypatch.setattr(type(PAPER), "labels", lambda self: names)
    (section,) = STUDIES["security"].sections(cells)
    (table,) = [table for table in section.tables if table.kind == "averages"]
    found = {row.label: row.figures[""]["average"] for row in table.rows}
    assert found["PGD, all defenses"].printed.value == pytest.approx(0.654)
    assert found["NAT, all attacks"].printed.value == pytest.approx(0.907)
    assert found["All attacks, all defenses"].printed.absent == "our copy of the paper has no such average"


def test_the_terminal_explains_differences_from_the_paper(cells):
    (section,) = STUDIES["security"].sections(cells)
    lines = terminal.explanations(section)
    assert any(line.startswith("NAT, pgd: On hits") and "transfer, not attack" in line for line in lines)


def test_a_cell_of_fewer_images_holds_the_first_ones(cells, tmp_path):
    few = run(tmp_path / "run", [MODELS["dd"]], chosen={"pgd": ATTACKS["pgd"]}, n=20)
    for place, cell in of(few, "dd").items():
        whole = of(cells, "dd")[place].arrays
        for name in ("labels", "rows", "success", "clean", "right_or_rejected", "linf"):
            np.testing.assert_array_equal(cell.arrays[name], whole[name][:20])
    threat = Threat("linf", 0.1)
    both = worst_case([of(few, "dd")[WHITE_BOX, "pgd"], of(cells, "dd")[WHITE_BOX, "square"]], threat)
    alone = worst_case([of(cells, "dd")[WHITE_BOX, "square"]], threat)
    assert len(both.robust) == N
    np.testing.assert_array_equal(both.robust[20:], alone.robust[20:])
    replayed = of(few, "dd")[REPLAYED, "pgd"]
    others = [cell for cell in cells if cell is not of(cells, "dd")[REPLAYED, "pgd"]]
    (section,) = STUDIES["security"].sections([*others, replayed])
    key = next(model.key for model in section.subjects if model.name == "dd")
    row = next(row for row in section.rows(REPLAYED) if row.name == "pgd")
    hits = source(cells, "pgd").arrays["success"][:20] >= 0.5
    summary = row.figures[key]["replayed_hits"].summary
    assert summary.n == hits.sum() < (source(cells, "pgd").arrays["success"] >= 0.5).sum()
    assert summary.mean == pytest.approx(replayed.arrays["right_or_rejected"][hits].mean())


def test_a_budget_gives_every_cell_the_same_time():
    assert shares([1.0, 1.0], 1000, 1e6) == [1000, 1000]
    assert shares([0.001, 1.0, float("nan")], 1000, 120) == [1000, 50, 50]
    rng = np.random.default_rng(0)
    for _ in range(50):
        each = list(10 ** rng.uniform(-4, 0, 12))
        budget = float(10 ** rng.uniform(1.2, 3))
        if 10 * sum(each) > budget:
            continue
        numbers = shares(each, 1000, budget)
        assert sum(n * cost for n, cost in zip(numbers, each, strict=True)) <= budget
        order = np.argsort(each)
        assert (np.diff(np.array(numbers)[order]) <= 0).all()  # never more images where one costs more
    with pytest.raises(InputError, match="10 images in each of 2 cells take about 40 s"):
        shares([2.0, 2.0], 1000, 30)
    assert [seconds_of(text) for text in ("2h", "90min", "90m", "45s", "0.5 h")] == [
        7200,
        5400,
        5400,
        45,
        1800,
    ]
    for wrong in ("2", "0h", "two hours", "-1h"):
        with pytest.raises(InputError, match="--budget must be a time such as 2h"):
            seconds_of(wrong)


def test_noise_of_the_clock_starts_no_new_cell(cells):
    jobs = [Job(cell.config, None, images=100) for cell in of(cells, "dd").values()]
    first = numbers_of(jobs, {}, lambda job: 0.01, n=1000, seconds=20)
    assert set(first.values()) == {100}
    plan = {str(i): {**job.config, "n": first[place_of(job.config)]} for i, job in enumerate(jobs)}
    for noisy in (0.006, 0.019):
        assert numbers_of(jobs, plan, lambda job, noisy=noisy: noisy, n=1000, seconds=20) == first
    assert numbers_of(jobs, {}, lambda job: 0.019, n=1000, seconds=20) != first  # without a plan it counts
    assert set(numbers_of(jobs, plan, lambda job: 0.01, n=1000, seconds=200).values()) == {1000}


def test_usual_radii():
    assert [threat.label for threat in usual_threats(1)] == ["L∞ ≤ 0.1", "L∞ ≤ 0.2", "L∞ ≤ 0.3", "L2 ≤ 1.5"]
    assert [threat.label for threat in usual_threats(3)] == ["L∞ ≤ 2/255", "L∞ ≤ 8/255", "L2 ≤ 0.5"]


def test_replays_alone_need_no_indicators_of_defended_models(tmp_path, monkeypatch):
    monkeypatch.setattr(security_jobs, "defended_model", lambda name, base, data, like=None: MODELS[name])
    given = Run(RAW, {"name": "raw"}, make_dataset(rows=130), 3, Store(tmp_path), 16, warn=lambda text: None)

    def watched(*knowledge):
        options = Options("raw", defenses=("te",), attacks=("fgsm",), knowledge=knowledge, n=10)
        return sum(job.config.get("kind") == KIND for job in security_jobs.jobs(options, given))

    assert watched(REPLAYED) == 1, "those of the undefended model"
    assert watched(REPLAYED, ADAPTIVE) == 2 == watched(WHITE_BOX)
