"""Every gate of the security evaluation on cells made by hand, with planted faults and without."""

import numpy as np
import pytest

from deepsec_jax.attacks import INDICATORS
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security import gates as g
from deepsec_jax.studies.security import indicated as signs
from deepsec_jax.studies.security import invariants as inv
from deepsec_jax.studies.security.worst import Threat

N, EPS = 200, 0.3
THREATS = (Threat("linf", EPS),)


def cell(
    name, left, *, eps=EPS, knowledge=WHITE_BOX, far=None, left_8bit=None, images=None, norm="linf", **used
):
    """A cell in which the first ``left`` of N images survive, and the others are moved by ``far``."""
    holds = (np.arange(N) < left).astype(np.float32)
    moved = np.where(holds > 0, 0.0, eps if far is None else far).astype(np.float32)
    rounded = holds if left_8bit is None else (np.arange(N) < left_8bit).astype(np.float32)
    x = np.random.default_rng(0).uniform(size=(N, 2, 2, 1)).astype(np.float32)
    hyper = {"norm": norm, "steps": 10, **used} | ({} if eps is None else {"eps": eps})
    return Cell(
        f"{knowledge} {name}",
        {"attack": {"name": name, "class": name, "hyperparameters": hyper}, "knowledge": knowledge},
        {},
        {
            "clean": np.ones(N, np.float32), "right_or_rejected": holds, "right_or_rejected_8bit": rounded,
            "labels": np.zeros(N, np.int32), "linf": moved, "l2": moved, "l1": moved, "l0": moved,
            "x_adv": x if images is None else images(x),
        },
    )  # fmt: skip


def honest():
    """An undefended network: weak attacks below strong ones, nothing left by the strongest."""
    made = [
        cell("fgsm", 60), cell("pgd", 2), cell("apgd@linf:0.3", 0), cell("square", 3),
        cell("apgd@linf:0.3:more", 0), cell("fgsm@0.5", 30, eps=0.5),
        cell("deepfool", 0, eps=None, far=0.1),
    ]  # fmt: skip
    return {(WHITE_BOX, each.config["attack"]["name"]): each for each in made}


def closed(changes, threats=THREATS, n=N, indicators=None):
    """The labels of all gates after some cells are replaced."""
    cells = honest() | {
        (each.config["knowledge"], each.config["attack"]["name"]): each for each in changes
    }  # fmt: skip
    found = g.gates(cells, threats, n, 10, indicators)
    assert all(gate.remedy for gate in found if gate.closed)  # each says what to do next
    return {gate.finding.label for gate in found}


def test_an_honest_model_closes_none():
    assert closed([]) == set()


def beyond(x):
    return x + 2.0


def grey(x):
    return np.full_like(x, 0.5)


PLANTED = {
    g.MASKED: [cell("pgd", 150), cell("pgd", 50, knowledge=REPLAYED)],
    g.WEAK: [cell("pgd", 120, knowledge=ADAPTIVE)],
    g.BLACK_BOX: [cell("fgsm", 200), cell("pgd", 90), cell("apgd@linf:0.3", 80), cell("square", 40),
                  cell("apgd@linf:0.3:more", 80), cell("deepfool", 80, eps=None, far=0.1)],
    g.GAINING: [cell("fgsm", 200), cell("pgd", 90), cell("apgd@linf:0.3", 80), cell("square", 90),
                cell("apgd@linf:0.3:more", 60), cell("deepfool", 80, eps=None, far=0.1)],
    g.GREY: [cell("pgd@0.5", 100, eps=0.5)],
    g.ROUNDING: [cell("pgd", 2, left_8bit=60)],
    inv.ORDER: [cell("pgd", 120)],
    inv.RADIUS: [cell("fgsm@0.5", 150, eps=0.5) ,
                 cell("fgsm", 60)],
    inv.UNBOUNDED: [cell("deepfool", 50, eps=None, far=0.1)],
    inv.BEYOND: [cell("pgd", 2, far=0.4)],
    inv.INVALID: [cell("pgd", 2, images=beyond)],
}  # fmt: skip


@pytest.mark.parametrize("label", PLANTED)
def test_a_planted_fault_closes_its_gate(label):
    changes = PLANTED[label]
    if label == inv.RADIUS:  # the same class with a larger eps
        for each in changes:
            each.config["attack"]["class"] = "FGSM"
    assert label in closed(changes)


def test_rays_ahead_of_the_white_box():
    ahead = [each for each in PLANTED[g.BLACK_BOX] if each.config["attack"]["name"] != "square"]
    assert g.BLACK_BOX not in closed([*ahead, cell("square", 90)])
    assert g.BLACK_BOX in closed([*ahead, cell("square", 90), cell("rays", 40)])


def test_grey_images_are_invalid_at_small_radii():
    assert inv.INVALID in closed([cell("pgd", 2, images=grey)])
    assert inv.INVALID not in closed([cell("pgd@0.5", 2, eps=0.5, images=grey)])


def test_radius_without_an_attack_and_few_images():
    assert g.UNTRIED in closed([], threats=(Threat("linf", 0.01),))
    assert g.SMALL in closed([], n=50)


LABELS = {
    "unavailable_gradients": signs.UNAVAILABLE, "unstable_predictions": signs.UNSTABLE,
    "silent_success": signs.SILENT, "incomplete_optimisation": signs.INCOMPLETE,
    "transfer_failure": signs.TRANSFER, "unconstrained_failure": signs.UNCONSTRAINED,
}  # fmt: skip


def sign(**values):
    arrays = {"rows": np.arange(100), "survived": np.ones(100, np.float32)}
    for name in INDICATORS:
        arrays[name] = np.full(100, values.get(name, 0.0), np.float32)
    return Cell("signs", {}, {"surrogate": False}, arrays)


def test_indicators_close_their_gates():
    assert set(LABELS) == set(INDICATORS)
    assert closed([], indicators=sign()) == set()
    for name, label in LABELS.items():
        assert closed([], indicators=sign(**{name: 0.9})) == {label}
    harmless = sign(unstable_predictions=0.3, incomplete_optimisation=0.04)
    assert closed([], indicators=harmless) == set()
