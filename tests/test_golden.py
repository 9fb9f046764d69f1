"""Results move only where a version moves with them: golden figures, and planted changes."""

from dataclasses import replace

import golden
import jax.numpy as jnp
import pytest
from golden import Line, complaint, may_be_rewritten, read, write

from deepsec_jax import attacks
from deepsec_jax.attacks import ATTACKS, ascent, parse
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.parts import Steepest, at_input
from deepsec_jax.catalog import Card, versions
from deepsec_jax.metrics import METRICS
from deepsec_jax.pytree import Struct, static

CASES = golden.cases()
EVERY = [(section, name) for section, lines in CASES.items() for name in lines]


@pytest.mark.parametrize(("section", "name"), EVERY)
def test_results_move_only_with_a_version(section, name, request):
    found, table = CASES[section][name](), read()
    kept = table.setdefault(section, {}).get(name, Line({}))
    if request.config.getoption("--golden") and may_be_rewritten(kept, found):
        table[section][name] = kept = found
        write(table)
    assert complaint(name, kept, found) == ""


def test_every_algorithm_has_a_line():
    table = read()
    there = {type(parse(text)) for text in table["attacks"]}
    exported = [getattr(attacks, name) for name in attacks.__all__]
    combined = [kind for kind in exported if isinstance(getattr(kind, "version", None), int)]
    without_text = {attacks.Masked, attacks.Transfer}  # they hold arrays, or a model
    assert {*ATTACKS.values(), attacks.AutoAttack, *combined} - without_text <= there
    for section in ("defenses", "detectors", "metrics"):
        assert set(table[section]) == set(CASES[section])


# --- Planted: BIM as it is, and with one thing changed


class Planted(Struct):
    """BIM whose step, radius or sign is changed."""

    step: float = 1.0
    radius: float = 1.0
    at_zero: float = 0.0
    targeted: bool = static(False)

    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        x_adv = ascent.ascend(
            model, x, labels, keys, eps=0.15 * self.radius, step_size=0.04 * self.step, steps=6, norm="linf",
            targeted=False, loss=attacks.losses.logit_gap, start=at_input, rule=Steepest(),
        )  # fmt: skip
        return jnp.where(x == 0, x + self.at_zero * (x_adv - x), x_adv)


BIM = "BIM(eps=0.15, step_size=0.04, steps=6)"


def planted(**changes) -> tuple[Line, Line]:
    """Return the golden line of BIM, and what a changed one gives."""
    kept = read()["attacks"][BIM]
    changed = Planted(**{"at_zero": 1.0, **changes})
    return kept, golden.attack_line(changed, kept.versions, *golden.images())


def test_the_same_attack_in_other_words_passes():
    assert complaint(BIM, *planted()) == ""


@pytest.mark.parametrize(
    "change", [{"step": 0.9}, {"radius": 1.01}, {"radius": 0.99}, {"at_zero": 0.5}], ids=str
)
def test_a_changed_attack_is_seen_and_the_remedy_is_said(change):
    kept, found = planted(**change)
    said = complaint(BIM, kept, found)
    assert said.startswith(f"{BIM}: results moved and no version did")
    assert "raise the version" in said and "pytest tests/test_golden.py --golden" in said
    assert not may_be_rewritten(kept, found)


def test_a_raised_version_asks_for_the_line_to_be_written_again(tmp_path):
    kept, found = planted(step=0.9)
    raised = replace(found, versions={"BIM": 2})
    assert "written with versions {'BIM': 1}, the code has {'BIM': 2}" in complaint(BIM, kept, raised)
    assert may_be_rewritten(kept, raised)
    path = tmp_path / "golden.toml"
    write({"attacks": {BIM: raised}}, path)
    assert complaint(BIM, read(path)["attacks"][BIM], raised) == ""
    assert "no figures yet" in complaint(BIM, Line({}), found) and may_be_rewritten(Line({}), found)


def test_rounding_and_one_image_at_the_boundary_pass():
    kept = read()["attacks"][BIM]
    near = replace(kept, figures=tuple(0.9995 * figure for figure in kept.figures))
    assert complaint(BIM, kept, replace(near, success="0" + kept.success[1:])) == ""
    assert complaint(BIM, kept, replace(near, success="00" + kept.success[2:])) != ""
    assert complaint(BIM, kept, replace(kept, figures=(*kept.figures[:-1], 0.9))) != ""


def test_a_changed_metric_is_seen(monkeypatch):
    name = "attack ass"
    kept, column = read()["metrics"][name], METRICS["ass"]
    monkeypatch.setitem(METRICS, "ass", replace(column, values=lambda record: 0.99 * column.values(record)))
    assert "results moved" in complaint(name, kept, CASES["metrics"][name]())


# --- Versions


def test_versions_are_of_an_attack_and_of_all_that_it_holds():
    nested = attacks.Restarts(attacks.WorstCase((attacks.FGSM(), attacks.JSMA())), n=2)
    assert versions(nested) == {"FGSM": 1, "JSMA": 1, "Restarts": 1, "WorstCase": 1}
    assert versions(attacks.AutoAttack()).keys() >= {"AutoAttack", "APGD", "FAB", "Square"}
    assert versions([attacks.FGSM, attacks.JSMA]) == {"FGSM": 1, "JSMA": 1}
    start = attacks.Square(start=attacks.PGD())
    assert versions(start).keys() >= {"Square", "PGD"}
    assert versions(golden.net()) == {} == versions(None)


def test_a_raised_version_of_a_nested_attack_is_seen(monkeypatch):
    raised = replace(attacks.PGD.card, version=2)
    monkeypatch.setattr(attacks.PGD, "card", raised)
    assert versions(attacks.Restarts(attacks.PGD())) == {"PGD": 2, "Restarts": 1, "Steepest": 1}
    assert Card("A", "t", "r", "untargeted", "budget").version == 1
