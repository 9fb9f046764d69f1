"""What all defenses share: fitting, folders, loading, presets, resuming."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_linear
from few import KEEPING, base, digits, few, fitted, weights  # noqa: F401

from deepsec_jax import attacks, defenses, models, training
from deepsec_jax.catalog import UnknownName
from deepsec_jax.cli import InputError
from deepsec_jax.cli import models as named
from deepsec_jax.data import candidates_name
from deepsec_jax.defenses import DEFENSES, DETECTORS, Base, DefenseError, FittedDetector
from deepsec_jax.defenses.base import REJECTED
from deepsec_jax.defenses.detector import fitting_and_validation
from deepsec_jax.defenses.folders import CARD
from deepsec_jax.defenses.presets import KINDS
from deepsec_jax.evaluation.attack_jobs import attack_config
from deepsec_jax.randomness import example_keys, reseed
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.training import CheckpointError

SLOW = ("pat", "eit", "pd")
"""10 to 20 s each."""

KINDS_OF_FOLDERS = ("pat", "te", "rc", "fs")
"""One of each: a network, a transform before one, a vote, a detector; the others run with ``--long``."""

IN_FOLDERS = [
    pytest.param(name, marks=[] if name in KINDS_OF_FOLDERS else pytest.mark.long) for name in DEFENSES
]


def one_weight(name, base, digits, seed):
    with jax.numpy_dtype_promotion("standard"):
        return weights(few(name).fit(base, digits, key=jax.random.key(seed)))[0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in (*KINDS_OF_FOLDERS, "dd", "rt") else pytest.mark.long)
        for name in DEFENSES
        if name != "eit"  # tests/defenses/test_eit.py
    ],
)
def test_a_defended_model_is_attacked_like_any(name, fitted, digits):
    defended = fitted[1][name]
    x, labels = jnp.asarray(digits.test.images[:8]), jnp.asarray(digits.test.labels[:8])
    for model in (defended.surrogate, defended.classifier):
        assert model(x).shape == (8, 11 if name in DETECTORS else 10)  # one more: rejected
        x_adv = attacks.FGSM(eps=0.1)(model, x, labels, key=jax.random.key(0))
        assert float(jnp.abs(x_adv - x).max()) <= 0.1 + 1e-6
    # What says that it has no gradient is searched, and nothing else: FGSM finds no way on it.
    assert (x_adv != x).any() == getattr(defended.defense, "differentiable", True)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name in ("pd", "eit", "pat"))) for name in DEFENSES],
)
def test_a_look_at_an_honest_defended_model_finds_nothing(name, fitted, digits):
    defended = fitted[1][name]
    has_gradient = getattr(defended.defense, "differentiable", True)
    look = partial(attacks.check_model_outputs, images=digits.test.images, labels=digits.test.labels)
    assert look(defended.classifier, gradients=has_gradient) == []
    if defended.surrogate is not defended.classifier:
        assert look(defended.surrogate) == []
    if not has_gradient:  # whoever follows it all the same is told, votes among them
        (finding,) = look(defended.classifier)
        assert finding.startswith("The gradient by the image is zero for all n = 16 images")


@pytest.mark.parametrize("name", DEFENSES)
def test_fitting_starts_anew_and_follows_from_the_key(name, fitted, base, digits):
    at_first = fitted[1][name].classifier
    if name in KEEPING:
        assert all(
            any(map(partial(np.array_equal, each), weights(at_first))) for each in weights(base.trained)
        )
        return
    assert not np.array_equal(weights(at_first)[0], weights(base.trained)[0])
    if name == "igr":  # one is enough of the slow part
        assert np.array_equal(one_weight(name, base, digits, 3), weights(at_first)[0])
        assert not np.array_equal(one_weight(name, base, digits, 4), weights(at_first)[0])


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_a_folder_brings_back_the_defense_and_the_classifier(name, fitted):
    folder, made = fitted
    assert made[name]
    again = defenses.load_defended(folder / name)
    assert again.defense == made[name].defense and again.card == made[name].card
    assert all(map(np.array_equal, weights(again.classifier), weights(made[name].classifier)))


def test_a_folder_of_an_earlier_version_is_refused_and_one_that_does_not_say_is_of_the_first(
    fitted, base, digits, monkeypatch
):
    folder, made = fitted
    assert made["rt"]
    about = {"name": "rt", "preset": "paper", "base": "tests", "seed": 3}
    path = folder / "rt" / CARD
    said = json.loads(path.read_text())
    assert said.pop("versions") == {"RT": 1}
    path.write_text(json.dumps(said))
    again = defenses.fit_into(folder / "rt", few("rt"), base, digits, key=jax.random.key(3), card=about)
    assert again.card["versions"] == {"RT": 1}
    monkeypatch.setattr(DEFENSES["rt"], "card", replace(DEFENSES["rt"].card, version=2))
    with pytest.raises(DefenseError, match=r"holds another defense .*versions"):
        defenses.fit_into(folder / "rt", few("rt"), base, digits, key=jax.random.key(3), card=about)


def test_another_defense_is_refused_and_nothing_lost(fitted, base, digits):
    folder, made = fitted
    assert made["igr"] and made["nat"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DefenseError, match=r"holds another defense .*settings") as refused:
        defenses.fit_into(
            folder / "igr", few("igr").replace(lam=0.5), base, digits,
            key=jax.random.key(3), card={"name": "igr", "preset": "paper", "base": "tests", "seed": 3},
        )  # fmt: skip
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(CheckpointError, match="of recipe 'nat-tests', not of this 'igr-tests'"):
        few("igr").fit(base, digits, key=jax.random.key(3), folder=folder / "nat")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_networks_folder_is_not_taken_for_anothers(fitted, base, digits):
    folder, made = fitted
    assert made["nat"] and made["rt"]
    with pytest.raises(DefenseError, match="holds another model: choose another folder"):
        few("rt").fit(base, digits, key=jax.random.key(3), folder=folder / "nat")
    few("rt").fit(base, digits, key=jax.random.key(3), folder=folder / "rt")  # its own: nothing to do


@pytest.mark.parametrize(
    "text", ["", "[]", '{"class": "Nat"}', '{"class": "NAT", "settings": {"sigmaa": 1}}'], ids=range(4)
)
def test_a_damaged_card_is_one_line(text, fitted, tmp_path):
    (tmp_path / "defense.json").write_text(text)
    with pytest.raises(DefenseError, match=r"is damaged .*fit the defense again") as refused:
        defenses.load_defended(tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(DefenseError, match="no defended model in"):
        defenses.load_defended(tmp_path / "none")


@pytest.mark.parametrize("name", [name for name in DEFENSES if name not in KEEPING])
def test_retraining_a_bare_function_says_what_to_give(name, digits):
    bare = Base(None, None, make_linear((8, 8, 1), 10))
    with pytest.raises(DefenseError, match=r"trains a network anew.*give Base"):
        few(name).fit(bare, digits, key=jax.random.key(0))


def test_every_file_with_a_card_is_in_the_table():
    files = {
        path.stem
        for path in Path(defenses.__file__).parent.glob("*.py")
        if "card: ClassVar" in path.read_text()
    }
    assert files == set(DEFENSES)
    assert list(DEFENSES) == [
        name for name in "nat eat pat dd igr eit rt pd te rc lid fs magnet".split() if name in DEFENSES
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("name", DEFENSES)
def test_presets_explain_themselves_and_build(name, dataset, kind):
    built = defenses.preset(name, dataset, kind)
    card = defenses.preset_card(name, dataset, kind)
    assert card and all(entry["source"] and entry["reason"] for entry in card.values())
    recipe = {"mnist": "mnist-paper", "cifar10": "cifar10-paper"}[dataset]
    replace(
        training.recipe(recipe), **dict(getattr(built, "changes", ()))
    )  # a misspelt field or a senseless value raises
    for source in getattr(built, "sources", ()):
        assert source in models.MODELS


def thresholds(detector, rate, *images):
    """The thresholds that a detector would have on other images."""
    return [FittedDetector(detector.scorer).at_fpr(part, rate).threshold for part in images]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_threshold_is_set_on_held_out_images_that_nothing_was_fitted_to(name, fitted, base, digits):
    detector, rate = fitted[1][name].detector, few(name).fpr
    learned, held_out = (split.images for split in fitting_and_validation(base, digits))
    # MagNet's first half has given the quantiles.
    its_own, of_others = (
        (held_out[1::2], [learned, held_out[::2]]) if name == "magnet" else (held_out, [learned])
    )
    assert thresholds(detector, rate, its_own) == pytest.approx([detector.threshold], rel=1e-6)
    planted = thresholds(detector, rate, *of_others)
    assert all(other != pytest.approx(detector.threshold, rel=1e-6) for other in planted)


def test_unknown_names_have_near_matches():
    with pytest.raises(UnknownName, match="Did you mean"):
        defenses.preset("patt", "mnist")
    with pytest.raises(UnknownName, match="Did you mean"):
        defenses.preset("pat@hlaf", "mnist")
    with pytest.raises(UnknownName, match="kind"):
        defenses.preset("pat", "mnist", "papper")


class Stop(Exception):
    pass


@pytest.mark.parametrize("name", ["pat", "nat"])
def test_an_interrupted_defense_ends_with_the_same_weights(name, base, digits, tmp_path, monkeypatch):
    two = few(name).replace(changes=(("epochs", 2),))
    with jax.numpy_dtype_promotion("standard"):
        whole = two.fit(base, digits, key=jax.random.key(1))
        step, calls = training.loop._step, iter(range(6))

        def stopping(*args, **kwargs):
            if next(calls, None) is None:
                raise Stop
            return step(*args, **kwargs)

        monkeypatch.setattr(training.loop, "_step", stopping)
        with pytest.raises(Stop):
            two.fit(base, digits, key=jax.random.key(1), folder=tmp_path / "model")
        monkeypatch.setattr(training.loop, "_step", step)
        assert "epochs" in os.listdir(tmp_path / "model.partial")
        resumed = two.fit(base, digits, key=jax.random.key(1), folder=tmp_path / "model")
    assert all(map(np.array_equal, weights(whole), weights(resumed)))


def answers(model, images):
    """The logits of a model, each row under its own key."""
    return np.asarray(reseed(model, example_keys(jax.random.key(5), len(images)))(images))


def answers_like(model, made, images):
    """Whether a model gives the logits of a defended one."""
    one, other = answers(model, images), answers(made.classifier, images)
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-5, atol=1e-5))


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_what_a_command_loads_is_the_defended_model(name, fitted, base, digits):
    folder, made = fitted
    defended = made[name]
    images = jnp.asarray(digits.test.images[:8])
    loaded = named.load(str(folder / name), None)
    assert answers_like(loaded.model, defended, images)
    assert answers_like(defenses.load(folder / name).model, defended, images)
    # The undefended network must not pass, nor the network that lies in the folder of one that is more.
    assert not answers_like(base.trained, defended, images)
    assert loaded.folder.is_network == (name not in (*KEEPING, "eit", "te"))
    if name != "te":  # its network sees codes and no images
        bare = training.load_network(folder / name).model
        assert answers_like(bare, defended, images) == loaded.folder.is_network
    with pytest.raises(CheckpointError, match=r"holds a defended model.*defenses\.load.*load_network"):
        training.load_model(folder / name)


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_name_and_accuracy_are_those_of_what_is_attacked(name, fitted, base, digits):
    folder, made = fitted
    assert made[name]
    loaded = named.load(str(folder / name), None)
    asked = digits.test.take(np.arange(min(len(digits.test), 1000)))
    assert loaded.about["test_accuracy"] == pytest.approx(training.accuracy(loaded.model, asked), abs=1e-12)
    assert loaded.about["name"] == name and loaded.about["defense"]["class"] == type(few(name)).__name__
    figures = loaded.folder.saved.figures
    assert figures["test_images"] == len(digits.test)
    if name in DETECTORS:
        found = training.predictions(loaded.model, digits.test)
        assert figures[REJECTED] == pytest.approx((found == 10).mean())


def test_a_cell_of_the_bare_network_is_none_of_the_defended_models(fitted, digits):
    folder, made = fitted
    assert made["rc"]

    def cell(model, about):
        config = attack_config(
            "fgsm", attacks.FGSM(eps=0.1), preset="paper", data="digits", model=about,
            candidates=candidates_name(model, digits, 10, 0), images="test-0", n=10, seed=0,
            train_digest=digits.digest,
        )  # fmt: skip
        return cell_name(config)

    loaded = named.load(str(folder / "rc"), None)
    bare = training.load_network(folder / "rc")
    about = {key: value for key, value in loaded.about.items() if key != "defense"}
    names = {cell(model, said) for model in (loaded.model, bare.model) for said in (loaded.about, about)}
    assert len(names) == 4  # the weights' hash and the defense's card each tell them apart
    other = {**loaded.about, "defense": {**loaded.about["defense"], "settings": {"points": 3}}}
    assert cell(loaded.model, other) not in names


def test_a_detector_of_an_earlier_version_has_no_accuracy(fitted):
    fs = fitted[1]["fs"]
    found = defenses.ModelFolder(fs.classifier, fs.saved, fs)
    assert found.test_accuracy is not None
    old = {key: value for key, value in found.saved.figures.items() if key != REJECTED}
    assert replace(found, saved=replace(found.saved, figures=old)).test_accuracy is None


def test_a_base_is_a_network_and_nothing_more(fitted):
    folder, made = fitted
    assert made["rc"] and made["nat"] and made["te"]
    for name in ("rc", "te"):
        with pytest.raises(InputError, match=rf"is tests defended by {name.upper()}.*more than a network"):
            named.load_base(str(folder / name), None)
    assert named.load_base(str(folder / "nat"), None).folder.is_network


def test_a_fit_that_was_killed_passes_for_no_network(base, digits, tmp_path, monkeypatch):
    folder, card = tmp_path / "rt", {"name": "rt", "preset": "paper", "base": "tests"}
    note = tmp_path / "rt.fitting.json"

    rename = Path.rename

    def killed(path, to):
        if to.name == "defense.json":
            raise KeyboardInterrupt
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            defenses.fit_into(folder, few("rt"), base, digits, key=jax.random.key(0), card=card)
    assert note.is_file() and (folder / "recipe.json").is_file()
    with pytest.raises(DefenseError, match=r"not fitted to the end.*rt\.fitting\.json"):
        defenses.load(folder)
    defenses.fit_into(folder, few("rt"), base, digits, key=jax.random.key(0), card=card)
    assert not note.exists() and defenses.load(folder).defended.card["class"] == "RT"


def test_a_fit_that_is_refused_leaves_no_note(base, digits, tmp_path):
    bare = replace(base, recipe=None)
    with pytest.raises(DefenseError):
        defenses.fit_into(
            tmp_path / "rt", few("rt"), bare, digits, key=jax.random.key(0), card={"name": "rt"}
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["dd", "rt", "te", "fs", "nat"])
def test_what_hides_its_gradient_is_told_before_it_is_attacked(name, fitted, capsys):
    folder, made = fitted
    assert made[name]
    loaded = named.load(str(folder / name), None)
    loaded.warn()
    said = capsys.readouterr().err
    assert (said == "") == (name == "nat")
    if said:
        assert f"deepsec evaluate defenses tests --defenses {name}" in said
        assert ("has no gradient" in said) == (name == "te")
    assert json.dumps(loaded.about)  # goes into a cell's config as it is
