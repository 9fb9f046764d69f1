"""``evaluation.evaluate``: the command line's tables in one call; what they become; what is refused."""

import csv
import io
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import make_linear
from subjects import MODULE, SHAPE, Models, make_npz

from deepsec_jax import attacks, data, evaluation, metrics
from deepsec_jax.attacks import CW2, FGSM, PGD, UAP
from deepsec_jax.catalog import UnknownName
from deepsec_jax.cli.main import main
from deepsec_jax.data import DataError
from deepsec_jax.studies.evaluate import seed_of

N = 12
COLUMNS = ("mr", "l2", "linf", "cc_gradients", "ric")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A data set of images that the linear model classifies."""
    return data.load(str(make_npz(tmp_path_factory.mktemp("own") / "own.npz")))


@pytest.fixture(scope="module")
def results(own):
    """An untargeted, a targeted, and a fitted attack."""
    return evaluation.evaluate(
        make_linear(SHAPE), ["fgsm", "llc", "uap"], own, n=N, key=jax.random.key(5), metrics=COLUMNS,
        times=False, model_name="linear",
    )  # fmt: skip


def test_it_gives_what_the_command_line_gives(results, own, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, MODULE, Models)
    monkeypatch.chdir(tmp_path)
    make_npz(tmp_path / "own.npz")
    words = ["--data", "own.npz", "--n", str(N), "--seed", "5", "--run-dir", "run", "--metrics", *COLUMNS]
    assert main(["evaluate", "attacks", f"{MODULE}:linear", "--attacks", "fgsm", "llc", "uap", *words]) == 0
    stored = evaluation.read("run", times=False)["attacks"]
    again = evaluation.evaluate(
        make_linear(SHAPE), ["fgsm", "llc", "uap"], own, n=N, key=jax.random.key(5), metrics=COLUMNS,
        times=False, model_name=f"{MODULE}:linear",
    )  # fmt: skip
    assert again.to_csv() == stored.to_csv()
    assert again.to_json() == stored.to_json()
    assert again.to_latex() == stored.to_latex()
    for ours, theirs in zip(again.cells, stored.cells, strict=True):
        assert ours.name == theirs.name and ours.config == theirs.config
        assert all(np.array_equal(ours.arrays[name], theirs.arrays[name]) for name in theirs.arrays)
    assert [figure["mean"] for figure in again.rows()] == [figure["mean"] for figure in results.rows()]


def test_figures_are_means_over_the_images_of_the_cell(results, own):
    model, cell = make_linear(SHAPE), results.cell("fgsm")
    x, x_adv, labels = (cell.arrays[name] for name in ("x", "x_adv", "labels"))
    assert np.array_equal(own.test.images[cell.arrays["rows"]], x)
    fooled = np.asarray(model(x_adv)).argmax(1) != labels
    assert results.figure("fgsm", "mr").summary.mean == pytest.approx(fooled.mean())
    lengths = np.linalg.norm((x_adv - x).reshape(N, -1), axis=1)
    assert results.figure("fgsm", "l2").summary.mean == pytest.approx(lengths[fooled].mean(), rel=1e-5)
    hit = np.asarray(model(results.cell("llc").arrays["x_adv"])).argmax(1)
    assert results.figure("llc", "mr").summary.mean == pytest.approx(
        (hit == results.cell("llc").arrays["targets"]).mean()
    )


def test_the_worst_case_counts_an_image_once(results, own):
    fooled = {name: results.cell(name).arrays["success"] for name in ("fgsm", "llc", "uap")}
    two = results.worst_case(["fgsm", "llc"])
    assert two.n == N and two.mean == pytest.approx(np.maximum(fooled["fgsm"], fooled["llc"]).mean())
    assert results.worst_case().mean == pytest.approx(np.max(list(fooled.values()), axis=0).mean())
    assert results.worst_case(["uap"]).mean == results.figure("uap", "mr").summary.mean
    with pytest.raises(KeyError, match="no row 'pgd'"):
        results.worst_case(["fgsm", "pgd"])
    other = evaluation.evaluate(make_linear(SHAPE), "fgsm", own, n=N, key=6, metrics=("mr",)).cells[0]
    mixed = evaluation.Results(results.study, (*results.cells[1:], other))
    with pytest.raises(ValueError, match="different images"):
        mixed.worst_case()


def test_other_keys_draw_other_images(results, own):
    other = evaluation.evaluate(make_linear(SHAPE), "fgsm", own, n=N, key=6, metrics=("mr",))
    drawn = [each.cell("fgsm").arrays["rows"].tolist() for each in (results, other)]
    assert drawn[0] != drawn[1]


def test_seeds_of_keys():
    assert [seed_of(jax.random.key(seed)) for seed in (0, 7, 2**31 - 1)] == [0, 7, 2**31 - 1]
    assert seed_of(7) == 7 == seed_of(jax.random.PRNGKey(7))
    split = [seed_of(key) for key in jax.random.split(jax.random.key(0), 50)]
    assert len(set(split)) == 50 and all(0 <= seed < 2**31 for seed in split)
    with pytest.raises(TypeError, match="one key"):
        seed_of(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        seed_of("0")


def test_all_forms_say_the_same(results):
    flat, plain = results.rows(), results.to_dict()
    assert json.loads(results.to_json()) == plain
    lines = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert [line["mean"] for line in lines] == [
        "" if row["mean"] is None else str(row["mean"]) for row in flat
    ]
    rows = {row["attack"]: row for row in plain["sections"][0]["rows"]}
    for row in flat:
        mean = results.figure(row["attack"], row["column"]).summary.mean
        found = (row["mean"], rows[row["attack"]]["columns"][row["column"]]["mean"])
        assert found == ((None, None) if np.isnan(mean) else (mean, mean))
    assert "pandas" not in sys.modules


def test_a_notebook_shows_the_tables(results):
    html, text = results._repr_html_(), str(results)
    assert html.startswith('<div class="deepsec">') and "<html" not in html and "<body" not in html
    for name in ("FGSM", "LLC", "UAP"):
        assert f'<th scope="row">{name}' in html
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert all(line.startswith(".deepsec ") for line in style.strip().splitlines())
    assert "fgsm" in text and all(line == line.rstrip() for line in text.splitlines())
    assert results.to_html().startswith("<!doctype html>") and "adversarial image" in results.to_html()
    assert repr(results).startswith("<Results of attacks, 3 cells")


def test_text_of_others_is_escaped(own):
    shown = evaluation.evaluate(
        make_linear(SHAPE), {"<script>": FGSM()}, own, n=4, key=0, metrics=("mr",), model_name="<b>"
    )
    assert "<script>" not in shown._repr_html_() and "<script>" not in shown.to_html()
    assert "<b></h4>" not in shown._repr_html_()


def test_attacks_by_name_by_value_and_with_names(own):
    model, options = make_linear(SHAPE), {"n": 6, "key": 0, "metrics": ("mr", "linf")}
    two = evaluation.evaluate(model, [PGD(eps=0.1), PGD(eps=0.2), CW2(steps=5)], own, **options)
    names = [row.name for row in two.sections[0].tables[0].rows]
    assert sorted(names) == sorted([repr(PGD(eps=0.1)), repr(PGD(eps=0.2)), "cw2"])
    assert {cell.config["attack"]["preset"] for cell in two.cells} == {"own"}
    named = evaluation.evaluate(model, {"mine": PGD(eps=0.1), "row": "fgsm"}, own, **options)
    assert {row.name for row in named.sections[0].tables[0].rows} == {"mine", "row"}
    assert named.cell("mine").arrays["x_adv"] == pytest.approx(two.cell(repr(PGD(eps=0.1))).arrays["x_adv"])
    table = evaluation.evaluate(model, "fgsm", own, **options)
    assert table.cells[0].config["attack"]["preset"] == "paper"


def test_images_alone_are_a_data_set(own):
    images, labels = own.test.images, own.test.labels
    by_arrays = evaluation.evaluate(make_linear(SHAPE), FGSM(), (images, labels), n=N, key=5, metrics=COLUMNS)
    by_set = evaluation.evaluate(make_linear(SHAPE), FGSM(), own, n=N, key=5, metrics=COLUMNS)
    assert np.array_equal(by_arrays.cells[0].arrays["x_adv"], by_set.cells[0].arrays["x_adv"])
    assert by_arrays.figure("fgsm", "l2").summary == by_set.figure("fgsm", "l2").summary


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"attacks": ["fgms"]}, UnknownName, "Did you mean fgsm"),
        ({"attacks": ["fgsm", "fgsm"]}, ValueError, "two attacks are called 'fgsm'"),
        ({"attacks": [PGD(), PGD()]}, ValueError, "two attacks are called"),
        ({"attacks": []}, ValueError, "no attack"),
        ({"preset": "strongest"}, UnknownName, "Did you mean strong"),
        ({"metrics": ("l3",)}, UnknownName, "metric 'l3'"),
        ({"n": 1000}, DataError, "take n <="),
        ({"n": 0}, DataError, "at least 1"),
        ({"dataset": (np.zeros((3, 4, 4)), np.zeros(3, int))}, ValueError, r"must be \[N, H, W, C\]"),
        ({"dataset": (np.zeros((3, 4, 4, 1)), np.zeros(2, int))}, ValueError, r"must be \[N, H, W, C\]"),
        ({"model": lambda x: x}, TypeError, "plain function"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_an_attack_runs(own, monkeypatch, change, kind, message):
    from deepsec_jax.evaluation import attack_jobs

    monkeypatch.setattr(attack_jobs, "attacked", lambda *_, **__: pytest.fail("an attack ran"))
    asked = {"model": make_linear(SHAPE), "attacks": ["fgsm"], "dataset": own, "n": 4, "key": 0, **change}
    with pytest.raises(kind, match=message):
        evaluation.evaluate(**asked)


def test_an_attack_that_fails_is_named(own):
    test = (own.test.images, own.test.labels)  # and nothing that an attack could be fitted to
    with pytest.raises(ValueError) as failed:
        evaluation.evaluate(make_linear(SHAPE), {"bad": UAP()}, test, n=4, key=0)
    assert "while evaluating 'bad'" in failed.value.__notes__


def test_what_is_not_there_is_a_key_error_that_says_what_is(results):
    with pytest.raises(KeyError, match="no row 'pgd'; there are: fgsm"):
        results.figure("pgd", "mr")
    with pytest.raises(KeyError, match="its columns: mr"):
        results.figure("fgsm", "l3")
    with pytest.raises(KeyError, match="no row"):
        results.cell("pgd")


def test_a_record_is_what_metrics_take():
    model = make_linear(SHAPE)
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(8, *SHAPE)).astype(np.float32)
    labels = np.asarray(model(x)).argmax(1)
    x_adv = attacks.PGD(eps=0.3)(model, x, labels, key=jax.random.key(0))
    record = evaluation.record_of(model, x, x_adv, labels)
    outcome = evaluation.judge(model, x, x_adv, labels)
    assert np.array_equal(record.success, outcome.success)
    values = {name: column.values(record) for name, column in metrics.METRICS.items() if not column.host}
    assert np.allclose(values["l2"], outcome.l2) and np.array_equal(values["mr"], outcome.success)
    column = metrics.METRICS["l2"]
    hits = np.asarray(record.success) >= 0.5
    expected = np.linalg.norm((np.asarray(x_adv) - x).reshape(8, -1), axis=1)[hits].mean()
    assert metrics.summarise(column, values["l2"], record.success).mean == pytest.approx(expected, rel=1e-5)


def test_tables_are_imported_when_they_are_first_used():
    program = (
        "import sys\n"
        "from deepsec_jax import evaluation\n"
        "above = lambda: {'deepsec_jax.studies', 'deepsec_jax.tables', 'jinja2'} & set(sys.modules)\n"
        "assert not above(), above()\n"
        "assert dir(evaluation) == sorted(evaluation.__all__) and not above()\n"
        "assert callable(evaluation.evaluate) and callable(evaluation.read) and above()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="it has Outcome"):
        _ = evaluation.evalute  # codespell:ignore
