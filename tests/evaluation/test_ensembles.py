"""Ensembles: members drawn, votes counted, replayed and attacked as a whole; against independent counts."""

import jax
import numpy as np
import pytest
from conftest import Noisy, make_linear
from defended import RAW, SHAPE, make_dataset, subject

from deepsec_jax.models import AveragedProbabilities, MajorityVote, Randomised
from deepsec_jax.runs.cells import ATTACK, MEMBER, SECURITY, WHOLE, Cell
from deepsec_jax.runs.runner import missing, run_plan
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.ensembles import jobs as module
from deepsec_jax.studies.ensembles import votes
from deepsec_jax.studies.ensembles.cells import ask
from deepsec_jax.studies.ensembles.drawn import BEST, INTERCLASS, RANDOM, draw
from deepsec_jax.studies.ensembles.figures import whole_values
from deepsec_jax.studies.ensembles.known import Known
from deepsec_jax.studies.ensembles.options import Options
from deepsec_jax.studies.ensembles.rows import NOT_WHOLE
from deepsec_jax.studies.ensembles.tables import ENSEMBLES
from deepsec_jax.studies.options import InputError
from deepsec_jax.studies.report import render_run
from deepsec_jax.studies.run import Run

GROUPS = {
    "nat": "a",
    "eat": "a",
    "pat": "a",
    "dd": "b",
    "igr": "b",
    "eit": "c",
    "rt": "c",
    "pd": "c",
    "te": "c",
}


def test_ensembles_are_drawn_as_the_paper_says():
    made = draw(GROUPS, ("pat", "te", "nat"), repeats=3, seed=7)
    assert [each.kind for each in made] == [RANDOM] * 3 + [INTERCLASS] * 3 + [BEST]
    assert all(len(set(each.members)) == 3 for each in made) and len({each.members for each in made[:3]}) == 3
    assert all(sorted(GROUPS[name] for name in each.members) == ["a", "b", "c"] for each in made[3:6])
    assert made[-1].members == ("nat", "pat", "te")
    assert made == draw(GROUPS, ("pat", "te", "nat"), repeats=3, seed=7)
    assert made != draw(GROUPS, ("pat", "te", "nat"), repeats=3, seed=8)
    few = draw({"nat": "a", "pat": "a"}, ("pat", "te", "nat"), repeats=3, seed=0)
    assert few == []  # two are no ensemble of three


def test_votes_agree_with_the_models():
    members = tuple(make_linear(SHAPE, seed=seed) for seed in range(3))
    x = np.random.default_rng(1).uniform(size=(40, *SHAPE)).astype(np.float32)
    said = [ask(member, x, batch_size=16) for member in members]
    assert said[0].shape == (40, 1, 3)
    np.testing.assert_array_equal(votes.voted(said)[:, 0], np.argmax(MajorityVote(members)(x), axis=1))
    mean = AveragedProbabilities(members)(x)
    np.testing.assert_array_equal(votes.averaged(said)[:, 0], np.argmax(mean, axis=1))
    np.testing.assert_allclose(votes.confidence(said), jax.nn.softmax(mean).max(axis=1), rtol=1e-5)
    assert (votes.voted(said) != votes.averaged(said)).any()  # planted: two columns, no copy


def test_no_answer_is_no_vote():
    nothing, sure = np.full((1, 1, 3), np.nan), np.array([[[0.1, 0.7, 0.2]]])
    assert votes.averaged([nothing, sure])[0, 0] == -1 and votes.voted([nothing, sure])[0, 0] == 1
    assert votes.voted([nothing, nothing])[0, 0] == -1
    assert votes.right(np.array([[1, 2], [0, 0]]), np.array([1, 0])).tolist() == [0.5, 1.0]


N = 100
OTHER = RAW.replace(weights=RAW.weights + 0.4 * make_linear(SHAPE, seed=5).weights)
MODELS = {
    "nat": subject("nat", OTHER),
    "dd": subject("dd", RAW.replace(weights=RAW.weights + 0.4 * make_linear(SHAPE, seed=6).weights)),
    "rt": subject("rt", Noisy(RAW, jax.random.split(jax.random.key(5), 4), 0.1)),
}
OPTIONS = Options("raw", defenses=tuple(MODELS), attacks=("fgsm", "tmifgsm"), whole=("bim",), n=N)


def jobs_in(folder, options=OPTIONS):
    run = Run(RAW, {"name": "raw"}, make_dataset(rows=130), 3, Store(folder), 16, warn=lambda text: None)
    return run.store, module.jobs(options, run)


def computed(folder, options=OPTIONS):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "defended_model", lambda name, base, dataset, like=None: MODELS[name])
        store, jobs = jobs_in(folder, options)
        store.add_to_plan(job.config for job in jobs)
        assert run_plan(store, jobs, advance=lambda done=1, note="": None) == []
        again = jobs_in(folder, options)[1]
        assert [job.name for job in again if missing(store, job.name, job.groups)] == []
    return read_cells(folder)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return computed(tmp_path_factory.mktemp("ensembles") / "run")


def rows_of(cells, kind):
    (section,) = ENSEMBLES.sections(cells)
    return section.rows(kind)


def test_cells_are_shared_with_other_studies_and_none_is_made_twice(cells):
    kinds = [cell.kind for cell in cells]
    assert kinds.count(ATTACK) == 3 and kinds.count(SECURITY) == 3  # fgsm, tmifgsm, bim; bim on each defense
    assert kinds.count(MEMBER) == 3 * (1 + 3 + 3) and kinds.count(WHOLE) == 2  # of one combination of three
    assert len({cell.name for cell in cells}) == len(cells)


def test_replayed_figures_are_those_of_the_ensemble(cells):
    row = next(row for row in rows_of(cells, "replayed") if row.name == "fgsm")
    made = row.cells[""].arrays
    hits, labels = made["success"] >= 0.5, made["labels"]
    said = [ask(each.classifier, made["x_adv"], batch_size=16) for each in MODELS.values()]
    assert [one.shape[1] for one in said] == [1, 1, 10]
    each = np.stack([np.broadcast_to(one, (N, 10, 3)) for one in said])
    share = (each.mean(axis=0).argmax(-1) == labels[:, None]).mean(axis=1)
    figures = row.figures[RANDOM]
    assert figures["averaged"].summary.mean == pytest.approx(share[hits].mean())
    assert figures["averaged"].summary.n == hits.sum()
    counts = (each.argmax(-1)[..., None] == np.arange(3)).sum(axis=0)
    majority = np.where(counts.max(-1) > 1, counts.argmax(-1), each.mean(axis=0).argmax(-1))
    assert figures["voted"].summary.mean == pytest.approx(
        (majority == labels[:, None]).mean(axis=1)[hits].mean()
    )
    alone = [(one.argmax(-1) == labels[:, None]).mean(axis=1)[hits].mean() for one in said]
    assert figures["best_member"].summary.mean == pytest.approx(max(alone))
    assert figures["worst_member"].summary.mean == pytest.approx(min(alone))
    assert INTERCLASS in row.figures  # nat, dd, rt are of the paper's three categories


def test_the_worst_of_an_attack_is_below_each_way(cells):
    for row in rows_of(cells, "whole"):
        for span in ("averaged", "voted"):
            found = {name: figure.summary.mean for name, figure in row.figures[span].items()}
            ways = [found[name] for name in ("on_base", "on_members", "on_average", "on_logits")]
            assert not np.isnan(ways).any() and found["worst"] <= min(ways) <= found["clean"]
    assert found["worst"] < found["clean"]


def test_on_members_is_the_worst_over_the_members():
    """Image 0 falls to the attack on a, image 1 to that on b, image 2 to none; class 0 is the true one."""
    labels, right, wrong = np.zeros(3, np.int32), [0.9, 0.1], [0.1, 0.9]

    def said(falls):
        rows = [wrong if place == falls else right for place in range(3)]
        return Cell("", {}, {}, {"labels": labels, "probabilities": np.array(rows)[:, None]})

    answers = {
        (source, name): said(falls) for source, falls in (("", 3), ("on a", 0), ("on b", 1)) for name in "ab"
    }
    known = Known({}, answers, {}, ())
    found = whole_values(known, votes.averaged, ("a", "b"), "pgd", {"a": "on a", "b": "on b"})
    assert found["on_members"].tolist() == [0.0, 0.0, 1.0] == found["worst"].tolist()
    assert found["clean"].tolist() == [1.0, 1.0, 1.0] and "on_base" not in found and "on_average" not in found


def test_the_worst_case_is_over_all_images_and_struck_without_an_attack_on_the_whole(cells, tmp_path):
    rows = {row.label: row for row in rows_of(cells, "worst")}
    both = rows["NAT + DD + RT"]
    assert not both.struck and set(rows) == {"NAT + DD + RT", "NAT + DD + RT, vote", "NAT", "DD", "RT"}
    part = computed(
        tmp_path / "run", Options("raw", defenses=tuple(MODELS), attacks=("fgsm",), whole=(), n=N)
    )
    alone = {row.label: row for row in rows_of(part, "worst")}["NAT + DD + RT"]
    assert alone.struck and NOT_WHOLE in alone.labels()
    name = "robust_linf_0.3"
    assert both.figures[""][name].summary.mean <= alone.figures[""][name].summary.mean


def test_every_format_has_the_tables(cells):
    files = render_run(cells)
    page = files["ensembles.html"]
    for text in ("Replayed attacks", "Attacks on whole ensembles", "Worst case", "no best-defense ensemble"):
        assert text in page
    assert "on_logits" in files["ensembles.csv"] and r"\caption" in files["ensembles.tex"]


def test_defenses_without_confidences_are_left_out_aloud():
    told = []
    votes_only = Randomised(jax.tree_util.Partial(lambda x, keys: x))
    object.__setattr__(votes_only, "confidences", False)
    models = {**MODELS, "rc": subject("rc", votes_only)}
    run = Run(RAW, {"name": "raw"}, make_dataset(), 3, Store("nowhere"), 16, warn=told.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "defended_model", lambda name, base, dataset, like=None: models[name])
        found = module._members(Options("raw", defenses=tuple(models)), run)
    assert [each.about["name"] for each in found] == ["nat", "dd", "rt"]
    assert told == ["warning: rc: rc gives no confidences, so no ensemble has it"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"defenses": ()}, "names 0 folders"), ({"defenses": ("a", "b")}, "names 2 folders"),
        ({"defenses": ("a", "a", "b")}, "more than once"),
        ({"repeats": 0}, "--repeats must be at least 1"), ({"whole": ("pgd", "pgd")}, "more than once"),
    ],
)  # fmt: skip
def test_senseless_options_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        Options(**{"model": "raw", "defenses": ("a", "b", "c"), **changes}).check()
