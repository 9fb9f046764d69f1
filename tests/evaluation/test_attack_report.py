"""The report of an attack evaluation: figures, comparisons, warnings, reproducible bytes, a page alone."""

import csv
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_cells import failed_cell, fake_cell
from rich.console import Console

from deepsec_jax import attacks
from deepsec_jax.catalog import Card
from deepsec_jax.metrics import METRICS, Column
from deepsec_jax.studies.attacks.tables import ATTACKS, sections
from deepsec_jax.studies.report import print_run, render
from deepsec_jax.tables import checks, plots
from deepsec_jax.tables.published import Published


@pytest.fixture(scope="module")
def cells():
    return [
        fake_cell("llc", rate=0.0), fake_cell("fgsm", rate=0.5), failed_cell("pgd"), fake_cell("bim"),
        fake_cell("fgsm", data="cifar10", model="cifar10-small"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def texts(cells):
    return render(ATTACKS, cells)


def lines_of(text):
    return {
        (line["data"], line["attack"], line["column"]): line for line in csv.DictReader(io.StringIO(text))
    }


def changed_column(cell, name, values):
    return dataclasses.replace(cell, columns={**cell.columns, name: values})


def said(cells):
    return [text for section in sections(cells) for text in checks.warnings(section, ATTACKS.checks)]


# --- figures


def wrong_means(cells, text):
    """Columns whose mean in the CSV is not that of their own values over their own examples."""
    found, lines = [], lines_of(text)
    for cell in cells:
        for name, values in cell.columns.items():
            hits = cell.arrays["success"] >= 0.5
            chosen = values if METRICS[name].over == "all" else values[hits]
            chosen = chosen[~np.isnan(chosen)]
            line = lines[cell.config["data"], cell.config["attack"]["name"], name]
            mean = float(line["mean"]) if line["mean"] else None
            if int(line["n"]) != len(chosen) or (mean is None) != (not len(chosen)):
                found.append(name)
            elif len(chosen) and not math.isclose(mean, chosen.mean(), rel_tol=1e-9):
                found.append(name)
    return found


def test_every_figure_is_the_mean_of_its_own_column_over_its_own_examples(cells, texts):
    assert wrong_means(cells, texts["attacks.csv"]) == []


def test_a_column_that_copies_another_is_found(cells, texts):
    planted = [changed_column(cell, "psd", cell.columns["ass"]) for cell in cells if cell.error is None]
    assert set(wrong_means(planted, texts["attacks.csv"])) == {"psd"}


def test_json_and_csv_agree_and_keep_config_reasons_and_nulls(cells, texts):
    content = json.loads(texts["attacks.json"])
    lines, seen = lines_of(texts["attacks.csv"]), 0
    for section in content["sections"]:
        for row in section["rows"]:
            for name, entry in row["columns"].items():
                line = lines[section["data"], row["attack"], name]
                assert line["mean"] == ("" if entry["mean"] is None else str(entry["mean"]))
                seen += 1
    assert seen == len(lines) > 4 * 15
    first = content["sections"][0]["rows"][0]
    assert first["attack"] == "fgsm" and first["config"] == cells[1].config
    assert first["columns"]["mr"]["published"] == pytest.approx(0.304)
    assert any("cross-entropy" in text for text in first["columns"]["mr"]["reasons"])


def test_what_does_not_exist_is_na_with_its_reason(texts):
    lines = lines_of(texts["attacks.csv"])
    for key, absent in (
        (("mnist", "llc", "acac"), "no success"), (("mnist", "pgd", "mr"), "failed"),
        (("mnist", "bim", "cc_forwards"), "no value for any image"),
    ):  # fmt: skip
        assert (lines[key]["mean"], lines[key]["n"], lines[key]["absent"]) == ("", "0", absent)
    assert lines["mnist", "llc", "mr"]["mean"] == "0.0" and lines["mnist", "llc", "mr"]["absent"] == ""
    assert lines["mnist", "bim", "mr_8bit"]["published_absent"] == "no column of the paper's table"
    assert "no success" in texts["attacks.html"] and "(no success)" in texts["attacks.tex"]


def test_a_paper_column_that_was_not_measured_says_so():
    text = render(ATTACKS, [fake_cell("bim", columns=("mr", "l2"))])["attacks.csv"]
    assert lines_of(text)["mnist", "bim", "ric"]["absent"] == "not measured"
    assert ("mnist", "bim", "cc_bare") not in lines_of(text)


# --- beside the paper


def unexplained(cells):
    """Compared figures outside our interval without a reason."""
    return [
        (row.name, entry.column.name)
        for section in sections(cells)
        for row in section.rows("rows")
        for entry in row.figures[""].values()
        if not math.isnan(entry.difference) and not entry.inside and not entry.reasons
    ]


def test_every_difference_is_explained(cells, monkeypatch):
    assert unexplained(cells) == []
    monkeypatch.setattr(Published, "reasons", lambda *_: ())
    assert ("fgsm", "l2") in unexplained(cells)


def test_only_the_papers_recipe_and_settings_stand_under_its_title():
    def section(**settings):
        return sections([fake_cell("fgsm", **settings)])[0]

    assert section().title == "Table XIV (MNIST) and ours" and section().note == ""
    for settings in (
        {"model": "mnist-small"}, {"preset": "strong"}, {"data": "digits", "model": "digits-small"}
    ):  # fmt: skip
        other = section(**settings)
        assert "Table" not in other.title and other.note
    small = section(model="mnist-small")
    assert small.rows("rows")[0].figures[""]["mr"].reasons[0].label == "another model"
    assert "mnist-small" in render(ATTACKS, [fake_cell("fgsm", model="mnist-small")])["attacks.tex"]
    strong = section(preset="strong").rows("rows")[0].figures[""]["mr"]
    assert strong.printed.absent and not strong.reasons


def test_rows_stand_in_the_papers_order_and_groups(cells):
    section = sections(cells)[0]
    assert [row.name for row in section.rows("rows")] == ["fgsm", "bim", "pgd", "llc"]
    assert list(dict.fromkeys(row.group for row in section.rows("rows"))) == [("UAs", "L∞"), ("TAs", "L∞")]
    assert "not in this run" in section.missing.values() and "PGD" not in section.missing


def test_other_candidates_are_another_section():
    one, two, three = fake_cell("bim"), fake_cell("fgsm", seed=1), fake_cell("fgsm")
    parts = sections([one, two, three])
    assert [[row.name for row in part.rows("rows")] for part in parts] == [["fgsm", "bim"], ["fgsm"]]


def test_a_toy_metric_appears_everywhere_without_another_line(monkeypatch):
    toy = Column("toy", "toy", "Toy", "a formula", "ours", "toys", "higher", "all", lambda record: None)
    monkeypatch.setitem(METRICS, "toy", toy)
    cell = changed_column(fake_cell("bim"), "toy", np.full(12, 0.125))
    files = render(ATTACKS, [cell])
    assert all("Toy" in files[name] or '"toy"' in files[name] for name in files if name != "attacks.csv")
    assert lines_of(files["attacks.csv"])["mnist", "bim", "toy"]["mean"] == "0.125"


# --- warnings


def _minimum_norm(monkeypatch):
    card = Card(name="BIM", title="t", reference="r", goal="untargeted", kind="minimum-norm")
    monkeypatch.setattr(attacks.BIM, "card", card)


def test_warnings_name_what_spoils_a_table(cells, monkeypatch):
    lost = changed_column(fake_cell("bim"), "mr_8bit", np.zeros(12))
    assert any("falls by 75.0 points" in text for text in said([lost]))
    assert any("0.5 or more" in text for text in said([fake_cell("fgsm@0.5")]))
    assert any(
        "fgsm (100.0 %) is ahead of bim" in text
        for text in said([fake_cell("fgsm", rate=1), fake_cell("bim")])
    )
    assert any("pgd" in text and "out of memory" in text for text in said(cells))
    assert any("n = 0 (no success) for llc" in text for text in said(cells))
    unbounded = [fake_cell("bim", rate=0.75)]
    whole = [fake_cell("bim", rate=1.0)]
    _minimum_norm(monkeypatch)
    assert any("unbounded" in text for text in said(unbounded))
    assert not any("unbounded" in text for text in said(whole))


def test_a_sound_table_has_no_warnings():
    cells = [fake_cell(name, rate=rate) for name, rate in (("fgsm", 0.5), ("bim", 1.0))]
    cells = [changed_column(cell, "cc_forwards", np.ones(12)) for cell in cells]
    assert said(cells) == []


def test_warnings_do_not_compare_across_candidates():
    assert not any("ahead" in text for text in said([fake_cell("fgsm", rate=1, seed=1), fake_cell("bim")]))


# --- bytes


def test_the_same_folders_give_the_same_bytes(cells, texts):
    assert render(ATTACKS, cells) == texts


def test_without_times_two_runs_that_differ_in_clocks_only_are_equal():
    slow, fast = ([fake_cell("bim", seconds=seconds)] for seconds in (9.0, 1.0))
    slow[0] = changed_column(slow[0], "cc_bare", np.full(12, 77.0))
    with_times = render(ATTACKS, slow), render(ATTACKS, fast)
    without = render(ATTACKS, slow, times=False), render(ATTACKS, fast, times=False)
    assert all(with_times[0][name] != with_times[1][name] for name in with_times[0])
    assert without[0] == without[1] and "Times are left out" in without[0]["attacks.html"]
    other = changed_column(fast[0], "l2", fast[0].columns["l2"] + 1)
    assert render(ATTACKS, [other], times=False)["attacks.csv"] != without[0]["attacks.csv"]


# --- the page


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def page_faults(text):
    """What keeps a page from standing alone or being read: outside references, scripts, ids, alt texts."""
    page, faults = _Page(text), []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    faults += [f"id {name} twice" for name in {name for name in ids if ids.count(name) > 1}]
    for tag, attributes in page.tags:
        if tag in ("script", "link", "iframe") or any(name.startswith("on") for name in attributes):
            faults.append(tag)
        target = attributes.get("src", attributes.get("href", attributes.get("xlink:href", "#")))
        if target.startswith("#"):
            faults += [f"no {target}"] if target != "#" and target[1:] not in ids else []
        elif not target.startswith("data:image/png;base64,"):
            faults.append(target)
        if tag == "img" and not attributes.get("alt"):
            faults.append("img without alt")
        if tag == "svg" and (attributes.get("role") != "img" or not attributes.get("aria-label")):
            faults.append("svg without words")
    for reference in re.findall(r"url\(#([^)]*)\)", text):
        faults += [] if reference in ids else [f"no #{reference}"]
    outside = re.search(r"https?:|@import|url\((?!#)", text)
    return faults + ([outside[0]] if outside else [])


def test_the_page_stands_alone(texts):
    assert page_faults(texts["attacks.html"]) == []


@pytest.mark.parametrize(
    "planted",
    [
        "<script>1</script>", '<img src="x.png" alt="x">', '<a href="#nowhere">x</a>', '<p onclick="x">',
        '<img src="data:image/png;base64,AA">', '<svg role="img"></svg>', '<p id="s0">',
        "<style>@import 'x'</style>", '<g clip-path="url(#no)">',
    ],
)  # fmt: skip
def test_a_page_that_does_not_is_found(texts, planted):
    assert page_faults(texts["attacks.html"] + planted)


def test_texts_of_the_run_are_escaped():
    cell = failed_cell("pgd", error="<script>alert(1)</script> 50 % & more_")
    files = render(ATTACKS, [cell, fake_cell("bim")])
    assert page_faults(files["attacks.html"]) == []
    assert r"50 \% \& more\_" in files["attacks.tex"]


def test_the_page_shows_hyperparameters_with_source_and_what_was_changed(cells):
    cell = fake_cell("bim")
    described = {
        **cell.config["attack"],
        "hyperparameters": {**cell.config["attack"]["hyperparameters"], "steps": 99},
    }
    other = dataclasses.replace(cell, config={**cell.config, "attack": described})
    assert "six steps cross the ball" in render(ATTACKS, [cell])["attacks.html"]
    page = render(ATTACKS, [other])["attacks.html"]
    assert "set for this run" in page and "command line" not in page


def test_no_cell_at_all_is_a_page_too():
    assert "nothing to report" in render(ATTACKS, [])["attacks.html"]


# --- drawings


def test_curves_end_at_the_success_rate_and_never_say_too_much():
    rng = np.random.default_rng(0)
    distances = rng.uniform(1, 2, size=730)
    r, share = plots._steps(plots.Curve("x", distances, 1000), 3.0)
    assert share[-1] == pytest.approx(73.0) and share[0] == 0 and len(r) <= 102
    for at, claimed in zip(r, share, strict=True):
        assert claimed <= 100 * np.mean(np.sort(distances) <= at) * 0.73 + 1e-9
    words = plots._in_words(plots.Curve("x", distances, 1000))
    assert "50 % at" in words and "90 %" not in words and "73.0 % of n = 1000" in words


@pytest.mark.parametrize("distances", [[], [0.0], [0.0, 0.0], [1e-6, 10.0]])
def test_any_distances_can_be_drawn(distances):
    curves = [plots.Curve("x", np.array(distances), 3), plots.Curve("y", np.array([5.0]), 3)]
    assert plots.success_distance("a", "L2", curves).startswith("<svg")
    assert plots.distribution("b", "d", np.array(distances)).startswith("<svg")


# --- terminal and files


def test_the_terminal_tables_fit_a_terminal(cells):
    console = Console(width=100, file=io.StringIO(), record=True)
    print_run(cells[:4], console)
    text = console.export_text()
    assert "…" not in text and "Table XIV (MNIST) and ours: Misclassification" in text
    assert re.search(r"fgsm +12/6 +50.0 % ", text) and re.search(r"paper +30.4 % ", text)
    assert "fgsm: MR 50.0 %, 30.4 % in the paper (+19.6 points): " in text
    assert "warning: pgd" in text and re.search(r"pgd +12/0 +failed", text)


def test_latex_rows_have_as_many_cells_as_the_table_has_columns(texts):
    for table in texts["attacks.tex"].split(r"\begin{table*}")[1:]:
        width = len(re.search(r"\\begin{tabular}{([lr]+)}", table)[1])
        rows = [line for line in table.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert rows and {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {width}


def test_sections_of_one_title_are_told_apart_in_the_list_of_contents():
    page = render(ATTACKS, [fake_cell("fgsm", n=12), fake_cell("fgsm", n=24)])["attacks.html"]
    links = [line for line in page.splitlines() if '<li><a href="#s' in line]
    assert len(links) == 2 and links[0].split(">", 2)[2] != links[1].split(">", 2)[2]
    assert "n = 12," in links[0] and "n = 24," in links[1]


# --- models that give no answer, and what was found wrong with them before


def test_images_without_an_answer_and_faults_of_the_model_are_said():
    cell = fake_cell("bim")
    silent = np.zeros(12, np.float32)
    silent[:3] = 1.0
    predicted = np.where(silent > 0, -1, cell.arrays["predicted"])
    other = dataclasses.replace(
        cell,
        arrays={**cell.arrays, "no_answer": silent, "predicted": predicted},
        environment={**cell.environment, "findings": ["its gradient is zero"]},
    )
    texts = said([other])
    assert "mnist-paper: its gradient is zero" in texts
    assert any(
        "bim: no answer (NaN or infinite logits) on 3 of n = 12 adversarial images" in t for t in texts
    )
    page = render(ATTACKS, [other])["attacks.html"]
    assert "no answer<br>" in page and page_faults(page) == []
