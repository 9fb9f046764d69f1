"""The report of an evaluation of defenses: figures, comparisons, flags, warnings, bytes, a page alone."""

import csv
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from fake_cells import failed_cell, fake_cell
from fake_defenses import TESTS, N, fake_defense, fake_robustness, fake_utility, history
from rich.console import Console
from scipy import stats
from test_attack_report import page_faults

from deepsec_jax.evaluation.adaptive import ROBUSTNESS_COLUMNS
from deepsec_jax.evaluation.utility import utility_columns
from deepsec_jax.metrics import DEFENSE_METRICS, Column
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.store import Store, StoreError
from deepsec_jax.studies import report
from deepsec_jax.studies.defenses.inconsistencies import MASKING, UNFINISHED
from deepsec_jax.studies.defenses.tables import DEFENSES, sections
from deepsec_jax.tables import checks
from deepsec_jax.tables.published import Published


@pytest.fixture(scope="module")
def cells():
    masked = fake_defense("dd", replayed=0.2, white_box=0.9, adaptive=0.1)
    failed = fake_robustness("adaptive", "pat", right=0, error="RuntimeError: out of memory\nfor good")
    return [
        *masked, fake_robustness("undefended", right=0.05), *fake_defense("nat"),
        *fake_defense("pat")[:3], failed,
        *fake_defense("nat", data="cifar10", model="cifar10-small", preset="small"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def texts(cells):
    return report.render(DEFENSES, cells)


COLUMNS = utility_columns() | ROBUSTNESS_COLUMNS


def lines_of(text):
    return {
        (line["data"], line["table"], line["defense"], line["column"]): line
        for line in csv.DictReader(io.StringIO(text))
    }


def said(cells):
    return [text for section in sections(cells) for text in checks.warnings(section, DEFENSES.checks)]


# --- figures


def wrong_means(cells, text):
    """Columns whose mean in the CSV is not that of their own values over their own images."""
    found, lines = [], lines_of(text)
    for cell in cells:
        name = cell.config.get("defense", {}).get("name", "undefended")
        for column, values in cell.columns.items():
            line = lines[cell.config["data"], cell.kind, name, column]
            chosen = values
            if COLUMNS[column].over == "both correct":
                chosen = values[(cell.arrays["correct"] > 0) & (cell.arrays["correct_raw"] > 0)]
            mean = float(line["mean"])
            if int(line["n"]) != len(chosen) or not math.isclose(mean, chosen.mean(), rel_tol=1e-9):
                found.append(column)
    return found


def test_every_figure_is_the_mean_of_its_own_column_over_its_own_images(cells, texts):
    assert wrong_means(cells, texts["defenses.csv"]) == []
    planted = [
        dataclasses.replace(cell, columns={**cell.columns, "ccv": cell.columns["cos"]})
        for cell in cells
        if cell.kind == "utility"
    ]
    assert set(wrong_means(planted, texts["defenses.csv"])) == {"ccv"}


def test_what_stays_right_under_attack_is_a_share_of_all_n_with_its_exact_interval(texts):
    line = lines_of(texts["defenses.csv"])["mnist", "robustness", "nat", "white_box"]
    assert (float(line["mean"]), int(line["n"])) == (0.5, N) and line["eps"] == "0.3"
    exact = stats.binomtest(N // 2, N).proportion_ci(0.95, method="exact")
    assert (float(line["low"]), float(line["high"])) == pytest.approx((exact.low, exact.high))


def test_worst_is_image_by_image_and_never_an_average():
    rows = [fake_robustness(knowledge, right=right) for knowledge, right in
            (("replayed", 0.75), ("white_box", 0.5), ("adaptive", 0.5))]  # fmt: skip
    other = rows[2]
    flipped = {**other.columns, "adaptive": other.columns["adaptive"][::-1].copy()}
    rows[2] = dataclasses.replace(other, columns=flipped)
    (row,) = sections([fake_utility(), *rows])[0].tables[1].rows
    assert row.figures[""]["worst"].summary.mean == 0.0  # each leaves the other's half wrong
    (row,) = sections([fake_utility(), *rows[:2]])[0].tables[1].rows
    assert row.figures[""]["worst"].absent == "not all measured" and "worst" not in row.values


def test_json_and_csv_agree_and_keep_configs_flags_and_nulls(cells, texts):
    content = json.loads(texts["defenses.json"])
    lines, seen = lines_of(texts["defenses.csv"]), 0
    for section in content["sections"]:
        for row in section["utility"]:
            for name, entry in row["columns"].items():
                line = lines[section["data"], "utility", row["defense"], name]
                assert line["mean"] == ("" if entry["mean"] is None else str(entry["mean"]))
                seen += 1
        for threat in section["robustness"]:
            for row in threat["rows"]:
                for name, entry in row["columns"].items():
                    line = lines[section["data"], "robustness", row["defense"], name]
                    assert line["mean"] == ("" if entry["mean"] is None else str(entry["mean"]))
                    seen += 1
    assert seen == len(lines)
    first = content["sections"][0]["utility"][0]
    assert first["defense"] == "nat" and first["config"]["defense"]["settings"]["sigma"] == 50.0
    assert first["columns"]["cav"]["published"] == pytest.approx(0.0024)
    assert first["environment"]["training"]["history"][0]["validation"] == 0.6
    failed = lines["mnist", "robustness", "pat", "adaptive"]
    assert (failed["mean"], failed["n"], failed["absent"]) == ("", "0", "failed")
    assert "out of memory" in failed["error"]
    assert lines["mnist", "robustness", "dd", "white_box"]["flags"] == MASKING
    assert lines["mnist", "robustness", "undefended", "adaptive"]["absent"] == "no defense"


def test_a_defense_without_confidences_says_so():
    cell = fake_utility("rc", others={"confidences": False})
    (section,) = sections([cell])
    entries = section.rows("utility")[0].figures[""]
    assert entries["ccv"].absent == entries["cos"].absent == "votes, no confidences"
    assert entries["accuracy"].summary.n == TESTS
    assert any("CCV, COS: n/a, n = 0 (votes, no confidences) for rc" in text for text in said([cell]))


# --- beside the paper


def test_every_difference_is_explained(cells, monkeypatch):
    def unexplained():
        return [
            (row.name, entry.column.name)
            for section in sections(cells)
            for row in section.rows("utility")
            for entry in row.figures[""].values()
            if not math.isnan(entry.difference) and not entry.inside and not entry.reasons
        ]

    assert unexplained() == []
    monkeypatch.setattr(Published, "reasons", lambda *_: ())
    assert ("nat", "accuracy") in unexplained()


def test_only_the_papers_settings_on_its_recipe_stand_under_its_title():
    def section(*defenses):
        return sections(list(defenses))[0]

    assert section(fake_utility()).title == "Table IV (MNIST) and ours" and not section(fake_utility()).note
    others = [
        (fake_utility(model="mnist-small"), "of recipe mnist-small"),
        (fake_utility(preset="small"), "of preset small"),
        (fake_utility(data="digits", model="digits-small"), "no table of defenses on digits"),
        (fake_utility(sigma=1.0), "settings of NAT are not the paper's"),
    ]
    for cell, words in others:
        other = section(cell)
        assert other.title.startswith("Defenses of ") and words in other.note
        assert words in report.render(DEFENSES, [cell])["defenses.tex"]
    small = section(fake_utility(preset="small")).rows("utility")[0].figures[""]["accuracy"]
    assert small.printed.value == pytest.approx(0.9951)
    assert small.reasons[0].label == "another model or training"


def test_settings_that_are_not_the_presets_are_found():
    cell = fake_utility("pat", steps=99)
    assert any("pat: steps differ from the paper preset" in text for text in said([cell]))
    page = report.render(DEFENSES, [cell])["defenses.html"]
    assert "set for this run" in page and "as Madry et al." in page
    assert "not those of the preset" in page


def test_rows_stand_in_the_papers_order_and_sections_apart(cells):
    first, second = sections(cells)
    assert [row.name for row in first.rows("utility")] == ["nat", "pat", "dd"]
    assert [row.name for row in first.tables[1].rows] == ["undefended", "nat", "pat", "dd"]
    assert [row.name for row in second.rows("utility")] == ["nat"] and second.fields["data"] == "cifar10"
    assert first.missing["EAT"] == "not in this run" and "NAT" not in first.missing
    assert second.missing == {}


def test_threats_are_never_mixed():
    cells = [fake_utility()]
    cells += [fake_robustness("white_box", right=0.9, eps=eps) for eps in (0.1, 0.3)]
    cells += [fake_robustness("adaptive", right=right, eps=0.3, steps=steps)
              for right, steps in ((0.5, 10), (0.4, 100))]  # fmt: skip
    cells += [fake_robustness("white_box", right=0.9, seed=1), fake_robustness("white_box", right=0.9, n=12)]
    (section,) = sections(cells)
    titles = [threat.record["title"] for threat in section.tables[1:]]
    assert len(titles) == 5 and titles[0].startswith("L∞, ε = 0.1, n = 24")
    adaptive = [threat.rows[0].values["adaptive"].mean() for threat in section.tables[1:][1:3]]
    assert adaptive == [0.5, pytest.approx(10 / 24)]
    assert ["adaptive" in threat.rows[0].values for threat in section.tables[1:]] == [
        False,
        True,
        True,
        False,
        False,
    ]
    coloured = sections([fake_robustness("white_box", right=1, eps=8 / 255, data="cifar10")])
    assert "ε = 8/255" in coloured[0].tables[1].title


def test_a_toy_metric_appears_everywhere_without_another_line(monkeypatch):
    toy = Column("toy", "toy", "Toy", "a formula", "ours", "toys", "higher", "all",
                 lambda record: record.correct * 0.125)  # fmt: skip
    monkeypatch.setitem(DEFENSE_METRICS, "toy", toy)
    files = report.render(DEFENSES, [fake_utility(right=1.0)])
    assert all("Toy" in files[name] or '"toy"' in files[name] for name in files if name != "defenses.csv")
    assert lines_of(files["defenses.csv"])["mnist", "utility", "nat", "toy"]["mean"] == "0.125"


# --- flags and warnings


def test_flags_stand_in_table_page_and_warnings(cells, texts):
    assert any(text.startswith(f"dd: {MASKING}: white-box 91.7 % is above replayed") for text in said(cells))
    assert MASKING in texts["defenses.html"] and f"dd: {MASKING}" in texts["defenses.tex"]
    unfinished = fake_defense("igr", replayed=0.5, white_box=0.4, adaptive=0.9)
    assert UNFINISHED in report.render(DEFENSES, unfinished)["defenses.html"]
    sound = [*fake_defense("nat"), fake_robustness("undefended", right=0)]
    assert said(sound) == []
    assert "None: no failed cell" in " ".join(report.render(DEFENSES, sound)["defenses.html"].split())


def test_warnings_name_what_spoils_a_table(cells):
    assert any("pat adaptive: the cell failed" in text and "out of memory" in text for text in said(cells))
    guessing = fake_utility("pat", right=0.1)
    assert any("that of guessing among 10 classes" in text for text in said([guessing]))
    curves = history(one_step=[0.5, 0.9, 0.95, 0.97], clean=[0.9] * 4)
    curves[2]["validation"] = 0.05
    overfitted = fake_utility("pat", others={"training": {"best_epoch": 2, "history": curves}})
    assert any(
        "95.0 % under one step and 5.0 % under many: catastrophic" in text for text in said([overfitted])
    )
    assert any("ε = 0.5 is 0.5 or more" in text for text in said(fake_defense(eps=0.5)))
    lacking = said(fake_defense()[:3])
    assert "Adaptive: n/a, n = 0 (not measured) for nat." in lacking
    assert "Worst: n/a, n = 0 (not all measured) for nat." in lacking


# --- bytes and the page


def test_the_same_cells_give_the_same_bytes_and_clocks_can_be_left_out(cells, texts):
    assert report.render(DEFENSES, cells) == texts
    slow, fast = (fake_defense(others={"seconds": seconds}) for seconds in (9.0, 1.0))
    assert report.render(DEFENSES, slow)["defenses.json"] != report.render(DEFENSES, fast)["defenses.json"]
    assert report.render(DEFENSES, slow, times=False) == report.render(DEFENSES, fast, times=False)
    assert "Times are left out" in report.render(DEFENSES, slow, times=False)["defenses.html"]


def test_the_page_stands_alone_and_holds_numbers_settings_and_training(cells, texts):
    page = texts["defenses.html"]
    assert page_faults(page) == [] and page_faults(page + "<script>1</script>")
    words = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    for text in (
        "Table IV (MNIST) and ours", "90.00 % 79.49–96.24 n 60 paper 99.51 %",
        "L∞, ε = 0.3, n = 24 test images",
        "50.0 % 29.1–70.9 n 24", "|N(0, 50)| / 255", "epochs 5 undefended 8", "epoch kept 3",
        "Adaptive adversarial images, ε = 0.3", "White-box adversarial images, ε = 0.3", "guessing",
        "Not Table IV: the undefended model is of recipe cifar10-small",
    ):  # fmt: skip
        assert text in words, text
    assert page.count('<svg class="chart"') == 2 * 4  # accuracy and loss of four trainings


def test_curves_of_a_training_under_attack_are_told_apart():
    curves = history(clean=[0.9, 0.91, 0.92, 0.93], one_step=[0.2, 0.3, 0.4, 0.5])
    cell = fake_utility("pat", others={"training": {"best_epoch": 3, "history": curves}})
    page = report.render(DEFENSES, [cell])["defenses.html"]
    assert "In the last one: under attack 90.0 %, clean 93.0 %, one step 50.0 %. Epoch 4 was kept." in page
    without = fake_utility("pat", others={"training": {}})
    assert 'class="chart"' not in report.render(DEFENSES, [without])["defenses.html"]


def test_texts_of_the_run_are_escaped():
    cell = fake_robustness("adaptive", right=0, error="<script>alert(1)</script> 50 % & more_")
    files = report.render(DEFENSES, [fake_utility(), cell])
    assert page_faults(files["defenses.html"]) == []
    assert r"50 \% \& more\_" in files["defenses.tex"]


# --- terminal, LaTeX and files


def test_the_terminal_tables_fit_a_terminal(cells):
    console = Console(width=100, file=io.StringIO(), record=True)
    report.print_run(cells, console)
    text = console.export_text()
    assert "…" not in text and "Table IV (MNIST) and ours: utility" in text
    assert re.search(r"nat +90.00 %", text) and re.search(r"paper +99.51 % +0.24 %", text)
    assert re.search(r"nat +95.8 % +79.2 % +50.0 % +41.7 %", text)
    assert "nat: Accuracy 90.00 %, 99.51 % in the paper (−9.51 points): the distribution of eps" in text
    assert "masking: white-box above" in text and "warning: pat adaptive" in text


def test_latex_rows_have_as_many_cells_as_the_table_has_columns(texts):
    for table in texts["defenses.tex"].split(r"\begin{table*}")[1:]:
        width = len(re.search(r"\\begin{tabular}{([lr]+)}", table)[1])
        rows = [line for line in table.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert rows and {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {width}


def test_a_run_has_the_files_of_what_it_holds(tmp_path):
    attacks, defended = [fake_cell("fgsm"), failed_cell("pgd")], fake_defense("nat")
    kinds = {name.partition(".")[0] for name in report.render_run(attacks)}
    assert kinds == {"attacks"} == {name.partition(".")[0] for name in report.render_run([])}
    assert {name.partition(".")[0] for name in report.render_run(defended)} == {"defenses"}
    store = Store(tmp_path / "run")
    everything = [*attacks, *defended, fake_robustness("adaptive", "pat", right=0, error="no luck")]
    store.add_to_plan([cell.config for cell in everything])
    for cell in everything:
        name = cell_name(cell.config)
        if cell.error is not None:
            store.write_failure(name, "cell", cell.error, "traceback")
            continue
        store.write_cell(cell.config, cell.environment, cell.arrays)
        for column, values in cell.columns.items():
            store.write_column(name, column, values)
    paths = report.write_run_report(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in paths] == [
        f"{kind}.{ending}" for kind in ("attacks", "defenses") for ending in ("html", "csv", "json", "tex")
    ]
    renamed = [dataclasses.replace(cell, name=cell_name(cell.config)) for cell in everything]
    assert {path.name: path.read_text() for path in paths} == report.render_run(renamed)
    assert report.write_run_report(tmp_path / "run", tmp_path / "out") == paths
    console = Console(width=100, file=io.StringIO(), record=True)
    report.print_run(renamed, console)
    assert "Misclassification" in console.export_text()
    with pytest.raises(StoreError, match="no run in"):
        report.write_run_report(tmp_path, tmp_path / "out")


def test_a_column_of_other_length_is_damage(tmp_path):
    cell = fake_utility()
    store = Store(tmp_path / "run")
    store.add_to_plan([cell.config])
    store.write_cell(cell.config, cell.environment, cell.arrays)
    store.write_column(cell_name(cell.config), "cav", np.zeros(3))
    with pytest.raises(StoreError, match="for 60 images"):
        report.write_run_report(tmp_path / "run", tmp_path / "out")
