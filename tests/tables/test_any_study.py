"""Tables know no attack and no defense: a study that nobody has seen is rendered in every format."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from deepsec_jax import attacks, defenses, tables
from deepsec_jax.metrics import Column, Summary, summarise
from deepsec_jax.studies import report
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build, terminal
from deepsec_jax.tables.checks import Check
from deepsec_jax.tables.page import Detail, every_figure
from deepsec_jax.tables.published import Printed, Published, Reason
from deepsec_jax.tables.table import Finding, Row, Section, Span, Table

SOURCES = Path(tables.__file__).parent
NAMES = {*attacks.ATTACKS, *defenses.DEFENSES, *defenses.DETECTORS}


def named(text):
    """The attacks and defenses whose names stand in a file as strings."""
    return {name for name in NAMES if f'"{name}"' in text or f"'{name}'" in text}


def test_no_attack_and_no_defense_is_named_in_tables():
    for path in SOURCES.glob("*.py"):
        assert named(path.read_text()) == set(), path
    assert named('if row.name == "pgd":') == {"pgd"}  # planted


WARMTH = Column(
    "warmth", "warmth", "Warmth", "how warm it is", "ours", "share", "higher", "all", None, rate=True
)
GLOW = Column("glow", "glow", "Glow", "how bright it is", "ours", "1", "higher", "all", None, quick=False)


def figures(values, printed, reasons=()):
    return {
        "warmth": build.figure(WARMTH, summarise(WARMTH, values, values), "", printed, reasons),
        "glow": build.figure(GLOW, None, "nobody looked", Printed(math.nan, "no column"), reasons),
    }


def sections(cells, *, times=True):
    rows = tuple(
        Row(
            key=name, name=name, label=name.title(), n=20, base="20/10", hits=10, cells={"": None},
            figures={"": figures(np.array(values, float), Printed(0.9), [Reason("weather", "It rained.")])},
            fields={"lamp": name}, record={"lamp": name},
            findings=(Finding("flickers", "it goes on and off"),) if name == "candle" else (),
        )
        for name, values in (("candle", [1, 0] * 10), ("bulb", [1, 1] * 10))
    )  # fmt: skip
    table = Table(
        kind="lamps", title="Lamps & more", heading="Lamp", rows=rows, base="n/hits", further=(GLOW,),
        spans=(Span((WARMTH,), "Feeling"),), fields={"table": "lamps"},
    )  # fmt: skip
    return [Section(
        title="Lamps & more", note="No table of the paper.", facts={"Room": "kitchen"},
        fields={"data": "night"}, tables=(table,), cells=(), kinds=("lamps",), explained="warmth",
    )]  # fmt: skip


LAMPS = Study(
    name="lamps", kinds=(), title="Lamp evaluation", sections=sections, paper=Published("attacks"),
    checks=(Check(lambda section: ["a candle is no bulb"], "no candle"),), fields=("data", "table", "lamp"),
    fields_after=("flags",), overview=lambda section, anchor: [], heading="Lamps", intro="", better="Better",
    details=lambda section, anchor, times: [
        Detail(row.key, row.label, blocks=(every_figure(row.figures[""].values()),))
        for row in section.rows("lamps")
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def files():
    return report.render(LAMPS, [])


def test_every_format_has_it(files):
    assert set(files) == {f"lamps.{ending}" for ending in ("html", "csv", "json", "tex")}
    lines = list(csv.DictReader(io.StringIO(files["lamps.csv"])))
    assert [(line["lamp"], line["column"], line["mean"], line["absent"]) for line in lines] == [
        ("candle", "warmth", "0.5", ""), ("candle", "glow", "", "nobody looked"),
        ("bulb", "warmth", "1.0", ""), ("bulb", "glow", "", "nobody looked"),
    ]  # fmt: skip
    assert [line["flags"] for line in lines] == ["flickers"] * 2 + [""] * 2
    (section,) = json.loads(files["lamps.json"])["sections"]
    assert section["warnings"] == ["a candle is no bulb"]
    assert section["lamps"][0]["columns"]["warmth"]["published"] == 0.9
    assert section["lamps"][0]["columns"]["glow"]["mean"] is None
    assert (
        r"\caption{Lamps \& more}" in files["lamps.tex"]
        and "Candle & ours & 20 / 10 & 0.500" in files["lamps.tex"]
    )
    page = " ".join(files["lamps.html"].split())
    for words in (
        "Lamps &amp; more",
        "a candle is no bulb",
        "flickers",
        "It rained.",
        "how warm it is",
        "Feeling",
    ):
        assert words in page, words


def test_the_terminal_has_it():
    console = Console(width=100, file=io.StringIO(), record=True)
    terminal.print_section(console, sections([])[0], ["a candle is no bulb"])
    text = console.export_text()
    assert "Lamps & more: Feeling" in text and "flickers" in text and "warning: a candle is no bulb" in text
    assert "candle: Warmth 0.500, 0.900 in the paper" in text


def test_a_figure_has_reasons_only_where_two_numbers_can_be_compared():
    reason = [Reason("weather", "It rained.")]
    half = Summary(0.5, 4, 0.1, 0.9)
    assert build.figure(WARMTH, half, "", Printed(0.4), reason).reasons == (reason[0],)
    assert build.figure(WARMTH, half, "", Printed(math.nan, "none"), reason).reasons == ()
    absent = build.figure(WARMTH, None, "not measured", Printed(0.4), reason)
    assert absent.reasons == () and absent.absent == "not measured" and math.isnan(absent.summary.mean)
