"""Models of votes: no confidence is made of them, anywhere; what is told of them says so."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear
from guards import Brightness, detector, guarded

from deepsec_jax.attacks import BIM
from deepsec_jax.attacks.least_likely import least_likely_class
from deepsec_jax.data import Candidates
from deepsec_jax.defenses.rc import RegionVotes
from deepsec_jax.evaluation import judge
from deepsec_jax.evaluation.attack_jobs import attack_config, attack_job
from deepsec_jax.evaluation.measured import record_of
from deepsec_jax.evaluation.model_inputs import input_arrays
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.metrics import (
    METRICS,
    defense_record_of,
    measure,
    measure_defense,
    not_applicable,
    summarise,
)
from deepsec_jax.model_traits import gives_confidences
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.models.wrappers import EOT
from deepsec_jax.pytree import Struct
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.attacks.tables import ATTACKS, sections
from deepsec_jax.studies.report import render

ROWS, CLASSES = 12, 10
X = make_images(rows=ROWS)
KEYS = jax.random.split(jax.random.key(0), ROWS)
ONE = Linear(jnp.zeros((16, CLASSES)), 5.0 * jax.nn.one_hot(1, CLASSES))  # class 1, whatever it sees
VOTES = RegionVotes(ONE, 0.1, KEYS, 20)
CANNOT = ("acac", "actc", "nte")


class Silent(Struct):
    """A wrapper that says nothing of confidences."""

    model: Any

    def __call__(self, x):
        return self.model(x)


class Says(Struct):
    """A wrapper that turns votes into confidences."""

    model: Any

    confidences: ClassVar[bool] = True

    def __call__(self, x):
        return jnp.log(jnp.maximum(self.model(x), 1e-6))


def test_the_trait_is_found_through_wrappers():

    assert (
        gives_confidences(ONE) and gives_confidences(Silent(ONE)) and gives_confidences(guarded(Brightness()))
    )
    for votes in (VOTES, Silent(VOTES), EOT(VOTES, 2), Silent(EOT(VOTES, 2)), Guarded(VOTES, detector())):
        assert not gives_confidences(votes)
    assert gives_confidences(Says(VOTES))


def test_votes_have_no_acac_actc_or_nte():
    labels = jnp.zeros(ROWS, jnp.int32)
    black = RegionVotes(make_linear(classes=CLASSES), 0.1, KEYS, 20)
    outcome = judge(VOTES, X, X, labels)
    assert np.isnan(outcome.probabilities).all() and np.isnan(outcome.confidence).all()
    assert (np.asarray(outcome.predicted) == 1).all()
    shares = np.asarray(jax.nn.softmax(outcome.logits, axis=-1))
    np.testing.assert_allclose(
        shares[:, 1], 0.2320, atol=5e-5
    )  # planted: what ACAC was, with all votes for 1
    record = record_of(black, X, 1 - X, labels)
    found = measure(record, ["mr", *CANNOT])
    assert found["mr"].any()
    for name in CANNOT:
        assert METRICS[name].needs_confidences and np.isnan(found[name]).all()
        assert summarise(METRICS[name], found[name], np.ones(ROWS)).n == 0
    sure = measure(record_of(black.model, X, 1 - X, labels), ["mr", *CANNOT])
    assert all(np.isfinite(sure[name][sure["mr"] == 1]).all() for name in CANNOT)


def test_defense_metrics_ask_the_models_themselves():
    labels = jnp.ones(ROWS, jnp.int32)
    drawn = jax.random.split(jax.random.key(1), (1, ROWS))
    for raw, defended, draws in ((ONE, VOTES, {"draws": drawn}), (VOTES, ONE, {"raw_draws": drawn})):
        record = defense_record_of(raw, defended, X, labels, **draws)
        values = measure_defense(record)
        assert not record.confidences and np.isnan(values["ccv"]).all() and np.isnan(values["cos"]).all()
        assert np.asarray(record.correct).all() and not values["cav"].any()
        assert "no confidences" in not_applicable(record, METRICS["acac"])
    assert defense_record_of(ONE, Silent(ONE), X, labels).confidences


@pytest.fixture(scope="module")
def cell():
    labels = np.ones(ROWS, np.int32)
    candidates = Candidates(
        images=np.asarray(X), labels=labels, targets=labels - 1, least_likely=labels - 1,
        rows=np.arange(ROWS), seed=0,
    )  # fmt: skip
    attack = BIM(eps=0.3, step_size=0.3, steps=1)
    config = attack_config(
        "bim", attack, preset="paper", data="digits", model={"name": "votes"}, candidates="c", n=ROWS, seed=0,
        images="i", train_digest=str,
    )  # fmt: skip
    wavering = RegionVotes(make_linear(classes=CLASSES), 0.3, KEYS, 20)
    labels[:] = np.asarray(judge(wavering, X, X, labels).predicted)
    job = attack_job(
        config, attack, wavering, lambda: candidates, groups={"device": ("mr", *CANNOT)}, batch_size=ROWS,
        image_shape=X.shape[1:], classes=CLASSES, gradient_seconds=lambda: 1.0, train_images=lambda: X,
    )  # fmt: skip
    environment, arrays = job.compute(lambda images: None)
    arrays["success"][:3] = 1.0  # as if it had: votes have no gradient
    columns = job.measure(environment, arrays, ("mr", *CANNOT), lambda images: None)
    names = {"class_names": [f"c{n}" for n in range(CLASSES)]}
    return Cell("votes", config, environment | names, arrays, columns)


def test_the_tables_say_why_and_no_picture_shows_a_confidence(cell):
    from fake_cells import fake_cell

    assert cell.environment["confidences"] is False and np.isnan(cell.arrays["probabilities"]).all()
    (section,) = sections([cell])
    entries = section.rows("rows")[0].figures[""]
    assert [entries[name].absent for name in CANNOT] == ["votes, no confidences"] * 3
    page = render(ATTACKS, [cell])["attacks.html"]
    assert "votes, no confidences" in page and "nan" not in page.lower()
    pictures = page[page.index('class="grid"') :]
    captions = pictures[: pictures.index("</div>")]
    assert "hit" in captions and "%" not in captions
    sure = render(ATTACKS, [fake_cell("bim")])["attacks.html"]  # planted: captions with a confidence are seen
    sure = sure[sure.index('class="grid"') :]
    assert "%" in sure[: sure.index("</div>")]


def test_what_a_defense_sees_and_answers_has_no_confidence_either():
    labels = np.ones(ROWS, np.int32)
    answers = predict(VOTES, np.asarray(X), labels, batch_size=ROWS)
    assert answers.correct.all() and (answers.predicted == 1).all() and np.isnan(answers.confidence).all()
    attacked = {
        "x": np.asarray(X), "x_adv": np.asarray(X), "labels": labels, "rows": np.arange(ROWS, dtype=np.int32)
    }  # fmt: skip
    found = input_arrays(ONE, VOTES, attacked)
    assert np.isnan(found["probabilities"]).all() and np.isfinite(found["probabilities_raw"]).all()
    assert (found["predicted"] == 1).all() and (found["predicted_raw_adv"] == 1).all()


class Drawn(Struct):
    """One of two shares of votes, by the row's key."""

    keys: jax.Array
    cut: float

    confidences: ClassVar[bool] = False
    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        heads = jax.vmap(jax.random.uniform)(self.keys) < self.cut
        return jnp.where(heads[:, None], jnp.array([[0.5, 0.27, 0.23]]), jnp.array([[0.0, 0.27, 0.73]]))


def test_the_least_likely_class_of_votes_has_the_fewest():
    """In half of ten draws each: class 0 has a quarter of all votes; a softmax would prefer class 1."""
    drawn = jax.vmap(jax.random.fold_in, in_axes=(0, None))(jax.random.split(jax.random.key(0), 10), 0)
    cut = float(jnp.median(jax.vmap(jax.random.uniform)(drawn)))
    each = np.stack([np.asarray(Drawn(drawn[n : n + 1], cut)(X)[0]) for n in range(10)])
    np.testing.assert_allclose(each.mean(axis=0), [0.25, 0.27, 0.48], atol=1e-6)
    assert np.asarray(jax.nn.softmax(each)).mean(axis=0).argmin() == 1  # planted: what was taken
    assert (np.asarray(least_likely_class(Drawn(KEYS, cut), X)) == 0).all()
