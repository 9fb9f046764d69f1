"""Attack tables and the report: figures, warnings, pictures, and that the page stands alone."""

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from conftest import Noisy, make_linear
from PIL import Image
from rich.console import Console

from deepsec_jax import attacks, data
from deepsec_jax.evaluation import attack_table
from deepsec_jax.evaluation.attack_table import Distance, Row
from deepsec_jax.evaluation.sample import examples_of
from deepsec_jax.studies import attack_page
from deepsec_jax.studies.attacks.checks import spoiled
from deepsec_jax.tables import pictures
from deepsec_jax.tables.pictures import class_in_words, names_for

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return make_linear(scale=3.0)


@pytest.fixture(scope="module")
def candidates(model):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(400, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(model(jax.numpy.asarray(images))).argmax(1).astype(np.int32)
    return data.make_candidates(
        lambda x: np.asarray(model(jax.numpy.asarray(x))), data.Split(images, labels), 30, seed=0
    )


@pytest.fixture(scope="module")
def results(model, candidates):
    chosen = {"fgsm": attacks.FGSM(eps=0.1), "tmifgsm": attacks.TMIFGSM(eps=0.1, steps=3)}
    return [
        attack_table.run_attack(name, attack, model, candidates, key=KEY, batch_size=8)
        for name, attack in chosen.items()
    ]


def _row(**changes) -> Row:
    values = dict(
        attack="pgd", goal="untargeted", hyperparameters={"eps": 0.3, "norm": "linf"}, n=200, success=0.9,
        success_8bit=0.9, successes=180, l2=Distance(1.0, 1.0), linf=Distance(0.3, 0.3),
        l0=Distance(0.5, 0.5), seconds=1.0, compile_seconds=2.0, gradients=15,
    )  # fmt: skip
    changes.setdefault("success_8bit", changes.get("success", 0.9))
    return Row(**{**values, **changes})


def test_a_row_says_what_an_independent_count_says(model, candidates, results):
    result = results[0]
    logits = np.asarray(model(jax.numpy.asarray(result.x_adv)))
    wrong = logits.argmax(1) != candidates.labels
    delta = (result.x_adv - candidates.images).reshape(30, -1)
    row = result.row
    assert 0 < wrong.sum() < 30, "the test needs both outcomes"
    assert (row.n, row.goal, row.gradients) == (30, "untargeted", 1)
    assert row.success == pytest.approx(wrong.mean()) and row.successes == wrong.sum()
    assert row.l2.mean == pytest.approx(np.linalg.norm(delta[wrong], axis=1).mean(), rel=1e-5)
    assert row.linf.median == pytest.approx(np.median(np.abs(delta[wrong]).max(1)), rel=1e-5)
    assert row.l0.mean == pytest.approx((delta[wrong] != 0).mean(), rel=1e-5)
    assert row.hyperparameters["eps"] == 0.1 and row.hyperparameters["loss"] == "logit_gap"
    assert (result.predicted == logits.argmax(1)).all() and (result.targets == -1).all()
    rounded = np.round(result.x_adv * 255) / np.float32(255)
    again = np.asarray(model(jax.numpy.asarray(rounded))).argmax(1) != candidates.labels
    assert row.success_8bit == pytest.approx(again.mean())


def test_a_targeted_attack_is_scored_against_the_candidates_targets(model, candidates, results):
    result = results[1]
    found = np.asarray(model(jax.numpy.asarray(result.x_adv))).argmax(1)
    assert result.row.goal == "targeted" and (result.targets == candidates.targets).all()
    assert result.row.success == pytest.approx((found == candidates.targets).mean())


def test_llc_takes_true_labels_and_is_scored_against_the_least_likely(model, candidates):
    result = attack_table.run_attack("llc", attacks.LLC(eps=0.3), model, candidates, key=KEY)
    assert (result.targets == candidates.least_likely).all()


def test_no_success_gives_no_distance(model, candidates):
    row = attack_table.run_attack("fgsm", attacks.FGSM(eps=0.0), model, candidates, key=KEY).row
    assert row.success == 0 and row.successes == 0 and math.isnan(row.l2.mean)
    assert row.to_dict()["l2"] == {"median": None, "mean": None}
    assert Row.from_dict(row.to_dict()).to_dict() == row.to_dict()


def test_a_randomised_model_gets_a_fraction(model, candidates):
    noisy = Noisy(model, jax.random.split(KEY, 5), 0.3)
    row = attack_table.run_attack("fgsm", attacks.FGSM(eps=0.1), noisy, candidates, key=KEY, batch_size=8).row
    hits = row.success * 300  # thirty images, ten draws each
    assert 0 < row.success < 1 and hits == pytest.approx(round(hits), abs=1e-3)


def test_time_is_split_at_the_compiler(model, candidates):
    first, second = (
        attack_table.run_attack("bim", attacks.BIM(steps=7), model, candidates, key=KEY).row for _ in range(2)
    )
    assert first.compile_seconds > 0 and second.compile_seconds < first.compile_seconds / 2
    assert first.seconds >= 0 and second.seconds > 0


def test_restarts_show_inner_fields_and_count_all_gradients():
    attack = attacks.Restarts(attacks.PGD(eps=0.2, steps=5), n=3)
    shown = attack_table.hyperparameters(attack)
    assert shown["eps"] == 0.2 and shown["restarts"] == 3 and shown["start"] == "in_ball"
    assert attack_table.gradients(attack) == 15


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([_row(hyperparameters={"eps": 0.5})], ["pgd", "0.5 or more"]),
        ([_row(success_8bit=0.88)], ["2.0 points", "n = 200"]),
        ([_row(attack="fgsm", success=0.95), _row(success=0.9)], ["fgsm", "ahead of pgd"]),
        ([_row(attack="llc", goal="targeted", success=0.95), _row(attack="fgsm")], ["llc", "ahead of fgsm"]),
    ],
)
def test_what_spoils_a_table_is_said(rows, words):
    found = spoiled(rows)
    assert len(found) == 1 and all(word in found[0] for word in words)


@pytest.mark.parametrize(
    "rows",
    [
        [_row()],
        [_row(success_8bit=0.895)],
        [_row(attack="fgsm", success=0.905), _row()],
        [_row(attack="fgsm", success=0.95, hyperparameters={"eps": 0.4}), _row()],
        [_row(hyperparameters={"eps": 1.5, "norm": "l2"})],
    ],
)
def test_a_sound_table_has_no_warnings(rows):
    assert spoiled(rows) == []


class _Page(HTMLParser):
    """Every tag that is opened, with its attributes, and all text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(results, candidates):
    cards = {"fgsm": {"eps": {"value": 0.1, "source": "a source", "reason": "a <reason>"}}}
    facts = {"Model": "<script>alert(1)</script>"}
    return attack_page.render("A title", facts, results, cards, candidates, ("zero", "<b>one</b>", "two"))


def test_the_page_stands_alone(page):
    parsed = _Page()
    parsed.feed(page)
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe", "b")]
    for tag, attributes in parsed.tags:
        assert tag != "img" or attributes["src"].startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page and "@import" not in page and "http" not in page


def test_the_page_has_figures_reasons_and_captions(page, results, candidates):
    parsed = _Page()
    parsed.feed(page)
    text = " ".join(" ".join(parsed.text).split())
    for result in results:
        assert f"{100 * result.row.success:.1f} % of n = 30" in text
    assert "a source" in text and "a <reason>" in text and "<script>alert(1)</script>" in text
    shown = examples_of(candidates.labels)
    assert {int(candidates.labels[index]) for index in shown} == {0, 1, 2}
    assert text.count("true <b>one</b>") == 2 * sum(candidates.labels[index] == 1 for index in shown)
    assert f"{100 * results[0].confidence[shown[0]]:.0f} %" in text


def test_pictures_are_small_and_the_clean_one_is_the_image(page, candidates):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)" alt="clean', page)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0]))))
    first = examples_of(candidates.labels)[0]
    assert picture.shape == (4, 4, 3)
    assert np.array_equal(picture[..., :1], np.round(candidates.images[first] * 255).astype(np.uint8))


def test_perturbations_are_scaled_and_coloured():
    grey = pictures.coloured(np.array([[[0.0], [0.02], [-0.01]]], np.float32))
    assert np.allclose(grey[0, 0], 1) and np.allclose(grey[0, 1], pictures.UP)
    assert grey[0, 2, 2] > grey[0, 2, 0]  # darker is blue
    colour = pictures.coloured(np.array([[[0.0, 0.1, -0.1]]], np.float32))
    assert np.allclose(colour[0, 0], [0.5, 1.0, 0.0])
    assert np.allclose(pictures.coloured(np.zeros((1, 1, 3))), 0.5)


def test_a_report_is_not_overwritten(tmp_path, page):
    path = attack_page.write_report(tmp_path / "new" / "report.html", page)
    with pytest.raises(attack_page.ReportError, match="exists already: choose another folder"):
        attack_page.write_report(path, "other")
    assert path.read_text() == page
    attack_page.write_report(path, "other", replace=True)
    assert path.read_text() == "other" and list(path.parent.iterdir()) == [path]


def test_the_terminal_table_fits_80_columns(results):
    rows = [
        dataclasses.replace(results[0].row, n=1000, seconds=123.4, compile_seconds=12.3, attack="fgsm@0.5")
    ]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(attack_page.terminal_table(rows, "title"))
    text = console.export_text()
    assert "…" not in text and "1000" in text and "fgsm@0.5" in text and "123.40" in text


def test_a_class_beyond_the_data_sets_names_is_no_rejection():
    """A model of four classes on data that names two."""
    names = names_for(("a", "b"), 4)
    assert names == ["a", "b", "class 2", "class 3"]
    assert class_in_words(3, names) == "class 3" and class_in_words(4, names) == "rejected"
    assert class_in_words(3, ("a", "b")) == "rejected"  # planted: the data set's names alone
