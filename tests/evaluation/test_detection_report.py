"""The report of an evaluation of detectors: figures, comparisons, warnings, bytes, a page; folders only."""

import csv
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from fake_cells import fake_cell
from fake_defenses import fake_defense
from fake_detectors import CLEAN, N, fake_clean, fake_detection, fake_sweep
from rich.console import Console
from sklearn.metrics import roc_auc_score
from test_attack_report import page_faults

from deepsec_jax.metrics import DETECTION_METRICS, Column, roc
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.store import Store
from deepsec_jax.studies import report
from deepsec_jax.studies.detectors.tables import DETECTORS, sections
from deepsec_jax.tables import checks
from deepsec_jax.tables.published import Published
from deepsec_jax.tables.score_plots import Scores, _corners, roc_curves


def watched(name, shift=2.5):
    return [
        fake_clean(name), fake_detection("fgsm", name, shift=shift), fake_detection("llc", name, rate=0.0),
        fake_detection("cw2", name, shift=-1.5),
        *(fake_sweep(eps, name, shift=8 * eps, rate=eps) for eps in (0.1, 0.3, 0.5)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    return [
        *watched("lid"), *watched("fs"),
        fake_detection("pgd", "lid", error="RuntimeError: out of memory\nfor good"),
        fake_clean("fs", data="cifar10", model="cifar10-small", preset="small"),
        fake_detection("fgsm", "fs", data="cifar10", model="cifar10-small", preset="small"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def texts(cells):
    return report.render(DETECTORS, cells)


def lines_of(text):
    return {
        (line["data"], line["table"], line["detector"], line["attack"], line["eps"], line["column"]): line
        for line in csv.DictReader(io.StringIO(text))
    }


def said(cells):
    return [text for section in sections(cells) for text in checks.warnings(section, DETECTORS.checks)]


# --- figures


def wrong_figures(cells, text):
    """Figures in the CSV that do not follow from the scores of their own cells."""
    lines, found = lines_of(text), []
    clean = {
        (cell.config["data"], cell.config["detector"]["name"]): cell for cell in cells if cell.kind == "clean"
    }
    for cell in cells:
        if cell.kind != "detection" or cell.error is not None:
            continue
        data, name, attack = (
            cell.config["data"],
            cell.config["detector"]["name"],
            cell.config["attack"]["name"],
        )
        normal, threshold = clean[data, name].arrays, cell.config["threshold"]
        scores, hits = cell.arrays["scores"], cell.arrays["success"] > 0
        expected = {
            "fpr": ((normal["scores"] > threshold).mean(), CLEAN),
            "evasion": ((hits & (scores <= threshold)).mean(), N), "mr": (hits.mean(), N),
            "tpr_all": ((scores > threshold).mean(), N),
            "fpr_correct": ((normal["scores"] > threshold)[4:].mean(), CLEAN - 4),
        }  # fmt: skip
        if hits.any():
            truth = np.concatenate((np.ones(hits.sum()), np.zeros(CLEAN)))
            area = roc_auc_score(truth, np.concatenate((scores[hits], normal["scores"])))
            expected |= {"tpr": ((scores[hits] > threshold).mean(), hits.sum()), "auc": (area, hits.sum())}
        for column, (mean, n) in expected.items():
            line = lines[data, "attacks", name.upper(), attack, "", column]
            if not math.isclose(float(line["mean"]), mean, rel_tol=1e-9) or int(line["n"]) != n:
                found.append((name, attack, column))
    return found


def test_every_figure_follows_from_its_own_scores(cells, texts):
    assert wrong_figures(cells, texts["detectors.csv"]) == []
    planted = [
        dataclasses.replace(cell, arrays={**cell.arrays, "scores": cell.arrays["scores"][::-1]})
        if cell.kind == "detection" and cell.error is None and cell.config["attack"]["name"] == "fgsm"
        else cell
        for cell in cells
    ]
    wrong = wrong_figures(planted, texts["detectors.csv"])
    assert wrong and {attack for _, attack, _ in wrong} == {"fgsm"}


def test_the_false_positive_rate_is_one_number_per_detector(texts):
    rates = {}
    for key, line in lines_of(texts["detectors.csv"]).items():
        if key[-1] == "fpr":
            rates.setdefault((line["data"], line["detector"]), set()).add(
                (line["mean"], line["n"], line["low"])
            )
    assert len(rates) == 3 and all(found == {("0.04", str(CLEAN), rates[key].copy().pop()[2])}
                                   for key, found in rates.items())  # fmt: skip


def test_json_and_csv_agree_and_keep_configs_and_nulls(texts):
    content, lines, seen = json.loads(texts["detectors.json"]), lines_of(texts["detectors.csv"]), 0
    for section in content["sections"]:
        for table, rows in (("attacks", section["attacks"]), ("sweep", section["sweep"])):
            for row in rows:
                for found in row["detectors"]:
                    for name, entry in found["columns"].items():
                        where = (table, row["attack"], "") if table == "attacks" else (
                            f"sweep {row['images']}", "fgsm", f"{row['eps']:g}")  # fmt: skip
                        line = lines[section["data"], where[0], found["detector"], where[1], where[2], name]
                        assert line["mean"] == ("" if entry["mean"] is None else str(entry["mean"]))
                        seen += 1
    assert seen == len(lines)
    head = content["sections"][0]["detectors"][0]
    assert head["detector"] == "LID" and head["threshold"] == 1.7 and head["environment"]["validation"] == 500
    assert head["fpr_limits_99"][0] < 0.04 < head["fpr_limits_99"][1]


def test_what_does_not_exist_is_na_with_its_reason(texts):
    lines = lines_of(texts["detectors.csv"])
    for key, absent in (
        (("mnist", "attacks", "FS", "llc", "", "auc"), "no success"),
        (("mnist", "attacks", "FS", "pgd", "", "tpr"), "not measured"),
        (("mnist", "attacks", "LID", "pgd", "", "tpr"), "failed"),
    ):  # fmt: skip
        assert (lines[key]["mean"], lines[key]["n"], lines[key]["absent"]) == ("", "0", absent)
    assert lines["mnist", "attacks", "LID", "pgd", "", "fpr"]["mean"] == "0.04"  # clean images are there
    without = report.render(DETECTORS, [fake_detection("fgsm"), fake_clean(error="ValueError: no")])
    lines = lines_of(without["detectors.csv"])
    assert lines["mnist", "attacks", "FS", "fgsm", "", "auc"]["absent"] == "no clean scores"
    assert lines["mnist", "attacks", "FS", "fgsm", "", "fpr"]["absent"] == "failed"
    assert lines["mnist", "attacks", "FS", "fgsm", "", "tpr"]["n"] == "30"


def test_unfinished_runs_are_reported(cells):
    for part in ([fake_clean()], [fake_sweep(0.1)], [fake_detection("fgsm")], [fake_clean(error="x")], []):
        files = report.render(DETECTORS, part)
        assert page_faults(files["detectors.html"]) == [] and set(files) == {
            f"detectors.{ending}" for ending in ("html", "csv", "json", "tex")
        }


# --- beside the paper


def test_printed_numbers_stand_beside_ours_and_every_difference_is_explained(cells, texts, monkeypatch):
    line = lines_of(texts["detectors.csv"])["mnist", "attacks", "LID", "fgsm", "", "fpr"]
    assert (float(line["published"]), line["reasons"]) == (
        pytest.approx(0.036), "one threshold for all attacks; which clean images"
    )  # fmt: skip
    assert float(
        lines_of(texts["detectors.csv"])["mnist", "sweep plain", "FS", "fgsm", "0.1", "auc"]["published"]
    ) == (pytest.approx(0.998))

    def unexplained():
        return [
            (row, entry.column.name)
            for section in sections(cells)
            for table in section.tables
            for row in table.rows
            for entries in row.figures.values()
            for entry in entries.values()
            if not math.isnan(entry.difference) and not entry.inside and not entry.reasons
        ]

    assert unexplained() == []
    monkeypatch.setattr(Published, "reasons", lambda *_: ())
    assert unexplained()


def test_only_the_papers_settings_on_its_recipe_stand_under_its_title():
    def section(**settings):
        return sections([fake_clean(**settings), fake_detection("fgsm", **settings)])[0]

    assert section().title == "Table XVI (MNIST) and ours" and section().note == ""
    for settings, words in (
        ({"model": "mnist-small"}, "of recipe mnist-small"),
        ({"preset": "small"}, "detectors are of preset small"),
        ({"data": "digits", "model": "digits-small"}, "no table of detectors on digits"),
    ):  # fmt: skip
        other = section(**settings)
        assert other.title.startswith("Detectors of ") and words in other.note
    strong = sections([fake_clean(), fake_detection("fgsm", kind="strong")])[0]
    assert "attacks are of preset strong" in strong.note
    (row,) = strong.rows("attacks")
    assert all(math.isnan(entry.printed.value) for entry in row.figures[strong.subjects[0].key].values())


def test_rows_and_detectors_stand_in_the_papers_order_and_sections_apart(cells):
    first, second = sections(cells)
    assert [head.label for head in first.subjects] == ["LID", "FS"]
    assert [row.name for row in first.rows("attacks")] == ["fgsm", "pgd", "llc", "cw2"]
    assert [(row.name, float(row.base)) for row in first.rows("sweep")] == [
        (how, eps) for how in ("plain", "carried") for eps in (0.1, 0.3, 0.5)
    ]
    assert second.fields["data"] == "cifar10" and not second.rows("sweep")
    assert "BIM" in first.missing and "MagNet" in first.missing and second.missing["LID"]
    two = sections([fake_clean(), fake_clean(preset="small"), fake_detection("fgsm")])[0]
    assert len({head.label for head in two.subjects}) == 2
    sizes = sections([fake_clean(), fake_detection("fgsm"), fake_detection("fgsm", n=12)])
    assert [section.rows("attacks")[0].n for section in sizes] == [N, 12] and all(
        len(s.subjects) == 1 for s in sizes
    )


def test_a_metric_of_ones_own_appears_everywhere_without_another_line(monkeypatch):
    toy = Column("toy", "toy", "Toy", "a formula", "ours", "toys", "higher", "all",
                 lambda record: np.full(len(record.scores), 0.125), host=True)  # fmt: skip
    monkeypatch.setitem(DETECTION_METRICS, "toy", toy)
    files = report.render(DETECTORS, [fake_clean(), fake_detection("fgsm")])
    assert all("Toy" in files[name] or '"toy"' in files[name] for name in files if not name.endswith("csv"))
    assert lines_of(files["detectors.csv"])["mnist", "attacks", "FS", "fgsm", "", "toy"]["mean"] == "0.125"


# --- warnings


def test_warnings_name_what_spoils_a_table(cells):
    texts = said(cells)
    assert any("lid pgd: the cell failed" in text and "out of memory" in text for text in texts)
    assert any(re.match(r"LID: AUC below 0.5 against cw2 .*look more ordinary", text) for text in texts)
    assert any("ε = 0.5 is 0.5 or more" in text for text in texts)
    assert any(text.startswith("FS: TPR, AUC: n/a, n = 0 (no success) for llc") for text in texts)
    close = said([fake_clean(), fake_detection("fgsm", shift=-0.1, n=8, rate=1.0)])
    assert not any("look more ordinary" in text for text in close)


def test_a_false_positive_rate_outside_its_interval_is_said():
    assert said([fake_clean(), fake_detection("fgsm")]) == []
    for above, words in ((25, "above the 4 %"), (0, "below the 4 %")):
        (text,) = said([fake_clean(above=above), fake_detection("fgsm")])
        assert words in text and "counts the 500 images that set it as well" in text
    few = [fake_clean(above=18, others={"validation": validation}) for validation in (100, 5000)]
    assert said(few[:1]) == [] and len(said(few[1:])) == 1  # 9 %: the luck of a hundred, not of 5000
    (section,) = sections(few[:1])
    low, high = section.subjects[0].limits()
    assert low < 0.04 < 0.09 < high


def test_a_sweep_that_looks_weaker_with_more_power_is_said():
    grows = [fake_sweep(eps, shift=shift, rate=1.0) for eps, shift in ((0.1, 0.5), (0.2, 4.0))]
    (text,) = said([fake_clean(), *grows])
    assert "plain FGSM evades less where it may change more" in text and "at ε = 0.1 and" in text
    assert (
        "None: no failed cell"
        in report.render(DETECTORS, [fake_clean(), fake_detection("fgsm")])["detectors.html"]
    )


# --- bytes, drawings and the page


def test_the_same_cells_give_the_same_bytes_and_clocks_can_be_left_out(cells, texts):
    assert report.render(DETECTORS, cells) == texts

    def at(seconds):
        others = {"seconds": seconds}
        return [
            fake_clean(others=others),
            fake_detection("fgsm", others=others),
            fake_sweep(0.1, others=others),
        ]

    assert (
        report.render(DETECTORS, at(9.0))["detectors.json"]
        != report.render(DETECTORS, at(1.0))["detectors.json"]
    )
    assert report.render(DETECTORS, at(9.0), times=False) == report.render(DETECTORS, at(1.0), times=False)
    assert "times classifying it" not in report.render(DETECTORS, at(9.0), times=False)["detectors.html"]


def test_the_page_stands_alone_and_holds_tables_thresholds_and_drawings(texts):
    page = texts["detectors.html"]
    assert page_faults(page) == [] and page_faults(page + "<script>1</script>")
    words = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    for text in (
        "Table XVI (MNIST) and ours", "UAs, L∞", "paper: 304", "4.0 % 1.7–7.7 paper 3.6 %",
        "Threshold 1.7, the same", "FPR 4 % on 500 clean images", "its 99 % interval, both samples",
        "10 ms per image, 4 times classifying", "Table VII (MNIST)", "plain ε = 0.1", "carried ε = 0.1",
        "Not Table VI: the model is of recipe cifar10-small", "These attacks do not know the detector",
        "swaps two counts",
    ):  # fmt: skip
        assert text in words, text
    assert page.count('<svg class="chart"') == 2 * 3 + 2 + 2  # ROC of UAs and TAs, scores; sweep; CIFAR-10
    assert "Area under the curve: FGSM" in page and "the threshold is 1.7" in page


def test_texts_of_the_run_are_escaped():
    cell = fake_detection("fgsm", error="<script>alert(1)</script> 50 % & more_")
    files = report.render(DETECTORS, [fake_clean(), cell])
    assert page_faults(files["detectors.html"]) == []
    assert r"50 \% \& more\_" in files["detectors.tex"]


def test_a_thinned_curve_stays_on_the_curve():
    rng = np.random.default_rng(0)
    false, true = roc(rng.normal(1, 1, 900), rng.normal(size=3000))
    thin = _corners(false, true)
    assert len(thin[0]) <= 90 and (thin[0][-1], thin[1][-1]) == (1.0, 1.0)
    points = set(zip(false, true, strict=True))
    assert all(point in points for point in zip(*thin, strict=True))
    drawn = roc_curves("x", [Scores("a", np.ones(3))], np.zeros(5), 0.0)
    assert "a 100.0 %" in drawn


def test_the_terminal_tables_fit_a_terminal(cells):
    console = Console(width=100, file=io.StringIO(), record=True)
    report.print_run(cells, console)
    text = console.export_text()
    assert "…" not in text and "Table XVI (MNIST) and ours: LID, threshold 1.7" in text
    assert re.search(r"paper +73.0 % +3.6 % +93.7 %", text) and re.search(r"pgd +40/0 +failed", text)
    assert "in the paper" in text and "warning: LID: AUC below 0.5" in text


def test_latex_rows_have_as_many_cells_as_the_table_has_columns(texts):
    tables = texts["detectors.tex"].split(r"\begin{table*}")[1:]
    assert len(tables) == 3
    for table in tables:
        width = len(re.search(r"\\begin{tabular}{([lr]+)}", table)[1])
        rows = [line for line in table.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert rows and {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {width}


def test_a_run_has_the_files_of_what_it_holds_and_only_folders_are_read(tmp_path, cells):
    everything = [fake_cell("fgsm"), *fake_defense("nat"), *cells]
    kinds = {name.partition(".")[0] for name in report.render_run(everything)}
    assert kinds == {"attacks", "defenses", "detectors"}
    assert {name.partition(".")[0] for name in report.render_run(cells)} == {"detectors"}
    store = Store(tmp_path / "run")
    store.add_to_plan([cell.config for cell in cells])
    for cell in cells:
        name = cell_name(cell.config)
        if cell.error is not None:
            store.write_failure(name, "cell", cell.error, "traceback")
        else:
            store.write_cell(cell.config, cell.environment, cell.arrays)
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")}
    paths = report.write_run_report(store.folder, tmp_path / "out")
    assert [path.name for path in paths] == [
        f"detectors.{ending}" for ending in ("html", "csv", "json", "tex")
    ]
    renamed = [dataclasses.replace(cell, name=cell_name(cell.config)) for cell in cells]
    assert {path.name: path.read_text() for path in paths} == report.render_run(renamed)
    assert before == {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")}
