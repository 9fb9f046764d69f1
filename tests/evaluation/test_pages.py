"""Every page, whatever figures it has: few digits, and no wider than the screen, on a desk and on a phone."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_cells import fake_cell
from fake_defenses import fake_defense, fake_robustness, history
from fake_detectors import fake_clean, fake_detection, fake_sweep

from deepsec_jax.studies import report

DIGITS = 5
"""Significant digits that a page shows of a number, at most."""

WIDTHS = (1280, 390)
UGLY = 12.345678901234
COSTS = ("cc", "cc_gradients", "cc_forwards", "cc_bare")


def ugly(cell):
    """A cell with figures as a machine gives them, in its settings, its environment and its columns."""
    config = json.loads(json.dumps(cell.config))
    for part in (config.get("attack", {}).get("hyperparameters"), config.get("detector", {}).get("settings"),
                 config.get("defense", {}).get("settings")):  # fmt: skip
        if part:
            part["extra"] = UGLY
            part["nested"] = [0.123456789, ["rate", 0.0001234567]]
    config["model"]["test_accuracy"] = 0.987654321
    environment = dict(cell.environment)
    for name in ("seconds", "compile_seconds", "gradients", "gradient_seconds", "forwards"):
        if name in environment:
            environment[name] = 37.57500076293945
    if "training" in environment:
        environment["training"] = {**environment["training"], "of_images": 1234567, "test_error": UGLY}
    columns = {name: values * 1234.56789 if name in COSTS else values for name, values in
               cell.columns.items()}  # fmt: skip
    return dataclasses.replace(cell, config=config, environment=environment, columns=columns)


def pages() -> dict[str, str]:
    """Name -> text of every kind of page."""
    curves = history(clean=[0.9, 0.91, 0.92, 0.93], one_step=[0.2, 0.3, 0.4, 0.5])
    trained = {"best_epoch": 3, "test_accuracy": 0.9876543, "history": curves}
    attacked = [fake_cell(name) for name in ("fgsm", "fgsm@0.5", "bim", "pgd", "llc", "tmifgsm")]
    defended = [
        *fake_defense("nat"), *fake_defense("pat", others={"training": trained}),
        fake_robustness("undefended", right=0.05),
    ]  # fmt: skip
    detected = [fake_clean(), fake_clean("lid")]
    detected += [fake_detection(name, of) for name in ("fgsm", "pgd", "llc") for of in ("fs", "lid")]
    detected += [fake_sweep(eps) for eps in (0.1, 8 / 255)]
    return {
        name: report.render(report.STUDIES[name], [ugly(cell) for cell in cells])[f"{name}.html"]
        for name, cells in (("attacks", attacked), ("defenses", defended), ("detectors", detected))
    }


@pytest.fixture(scope="module")
def made():
    return pages()


class _Text(HTMLParser):
    """What a reader sees or hears of a page: its text without styles and scripts."""

    def __init__(self):
        super().__init__()
        self.hidden, self.parts = 0, []

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def long_numbers(page: str) -> list[str]:
    """Numbers of a page with a decimal point or an exponent and more than DIGITS significant digits.

    Whole numbers are counts and seeds; what stands in a name, a version, a path or after "arXiv:" is none.
    """
    text = _Text()
    text.feed(page)
    number = r"(?<![\w.:/@-])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w]|\.\d|/)"
    found = []
    for written in re.findall(number, " ".join(text.parts)):
        digits = re.sub(r"e.*", "", written).replace(".", "").lstrip("0")
        if ("." in written or "e" in written) and len(digits) > DIGITS:
            found.append(written)
    return found


@pytest.mark.parametrize("name", ["attacks", "defenses", "detectors"])
def test_no_number_has_more_digits_than_can_be_read(name, made):
    assert long_numbers(made[name]) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("37.57500076293945", 1), ("0.30000001192092896", 1), ("1234.56", 1), ("(12.34567)", 1),
        ("0.00012345", 0), ("99.36 %", 0), ("12.345 to 67.891", 0), ("1.23456e-07", 1), ("1e-07", 0),
        ("n = 123456789", 0), ("jax 0.10.2", 0), ("arXiv:1412.65720", 0), ("a1.234567", 0),
        ("x-1.234567.npz", 0),        ("<style>a { b: 1.234567 }</style>", 0),
    ],
)  # fmt: skip
def test_long_numbers_are_found(text, found):
    assert len(long_numbers(f"<p>{text}</p>")) == found


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path (Debian: apt install chromium)"
)

MEASURE = """
<pre id="found"></pre><script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument.documentElement;
    return [frame.name, frame.clientWidth, page.clientWidth, page.scrollWidth];
  });
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


def widths(texts: dict[str, str], folder: Path) -> dict[tuple[str, int], int]:
    """(page, width of the screen) -> width that the page takes, as Chromium lays it out."""
    frames = [
        f'<iframe name="{name}" width="{width}" height="800" style="border:0" '
        f'srcdoc="{html.escape(text, quote=True)}"></iframe>'
        for name, text in texts.items()
        for width in WIDTHS
    ]
    path = folder / "frames.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{''.join(frames)}{MEASURE}", encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]
    shown = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout  # fmt: skip
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)[1]))
    assert all(frame == page for _, frame, page, _ in found)  # the frame is the screen, no bar beside it
    return {(name, frame): needed for name, frame, _, needed in found}


@BROWSER
def test_no_page_is_wider_than_the_screen(made, tmp_path):
    wide = "<p>text</p><div style='width: 1300px'>a table</div>"
    found = widths({**made, "planted": f"<!doctype html><body style='margin: 0'>{wide}"}, tmp_path)
    assert found.pop(("planted", 1280)) == found.pop(("planted", 390)) == 1300
    assert len(found) == 2 * len(made)
    assert {place: needed for place, needed in found.items() if needed > place[1]} == {}
