"""Every gate of the security evaluation on cells made by hand, with planted faults and without."""

import numpy as np
import pytest

from deepsec_jax.attacks import INDICATORS
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating import gates as g
from deepsec_jax.studies.security.gating import indicated as signs
from deepsec_jax.studies.security.gating import invariants as inv
from deepsec_jax.studies.security.gating.noise import NOISE
from deepsec_jax.studies.security.gating.tried import tried
from deepsec_jax.studies.security.worst import Threat, worst_case

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


def closed(changes, threats=THREATS, n=N, indicators=None, noise=None):
    """The labels of all gates after some cells are replaced."""
    cells = honest() | {
        (each.config["knowledge"], each.config["attack"]["name"]): each for each in changes
    }  # fmt: skip
    found = g.gates(cells, threats, n, 10, indicators, noise)
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
    inv.FARTHER: [cell("deepfool", 0, eps=None, far=0.4), cell("fgsm", 60)],
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


def gates_of(changes, label, **named):
    """The gates of one label after some cells are replaced."""
    cells = honest() | {(each.config["knowledge"], each.config["attack"]["name"]): each for each in changes}
    return [gate for gate in g.gates(cells, THREATS, N, 10, **named) if gate.finding.label == label]


def test_images_that_fall_only_as_floats_strike_the_figure():
    names = [name for _, name in honest() if name not in ("deepfool", "fgsm@0.5")]
    (gate,) = (
        gate for gate in gates_of([cell(name, 0, left_8bit=60) for name in names], g.ROUNDING) if gate.closed
    )
    assert "of 200 images that fall, 60 survive every attack" in gate.finding.text
    assert "attacks.Rounded" in gate.remedy
    some = [cell(name, 0, left_8bit=30) for name in names]  # 15 % of them
    assert not any(gate.closed for gate in gates_of(some, g.ROUNDING))
    others = [
        cell("pgd", 0, left_8bit=100),
        cell("fgsm", 0, left_8bit=100),
    ]  # the others take the same images
    assert not any(gate.closed for gate in gates_of(others, g.ROUNDING))
    # The images of a minimum-norm attack lie at the boundary on every model.
    closest = [cell("deepfool", 0, eps=None, far=0.1, left_8bit=180)]
    assert not gates_of(closest, g.ROUNDING)
    # Half a grey level is a quarter of a radius of 2/255.
    small = {(WHITE_BOX, name): cell(name, 0, eps=2 / 255, left_8bit=60) for name in names}
    found = g.gates(small, (Threat("linf", 2 / 255),), N, 10)
    assert not any(gate.closed for gate in found if gate.finding.label == g.ROUNDING)


def test_replayed_images_ahead_of_the_models_own():
    own = [cell(name, 80) for name in ("fgsm", "pgd", "apgd@linf:0.3", "square", "apgd@linf:0.3:more")]
    own.append(cell("deepfool", 80, eps=None, far=0.4))
    assert g.BLACK_BOX not in closed([*own, cell("pgd", 79, knowledge=REPLAYED)])
    (gate,) = gates_of([*own, cell("bim", 60, knowledge=REPLAYED)], g.BLACK_BOX)
    assert "20 of n = 200 images" in gate.finding.text and gate.closed


def shorter(whole, n):
    """The same cell with its first n images."""
    arrays = {name: values[:n] for name, values in whole.arrays.items()}
    return Cell(whole.name, whole.config, {}, arrays)


def test_images_that_the_strongest_attack_has_not_tried_accuse_nobody():
    """Replays of many images and own attacks on few are no sign of masking, and no robust accuracy."""
    cells = [shorter(each, 50) for each in honest().values()] + [cell("pgd", 100, knowledge=REPLAYED)]
    assert tried(cells, THREATS[0]) == 50
    here = {(each.config["knowledge"], each.config["attack"]["name"]): each for each in cells}
    labels = {gate.finding.label for gate in g.gates(here, THREATS, N, 10) if gate.closed}
    assert not labels & {g.BLACK_BOX, g.GAINING, g.MASKED}
    cut = worst_case(cells, THREATS[0], first=50)
    assert len(cut.robust) == 50 and cut.robust.mean() == 0
    assert worst_case(cells, THREATS[0]).robust.mean() == 0.25  # planted: 50 of 200 were only replayed
    assert tried([cell("pgd", 9, knowledge=REPLAYED)], THREATS[0]) == N
    replay = shorter(cell("apgd@linf:0.3", 9, knowledge=REPLAYED), 20)
    assert tried([*cells, replay], THREATS[0]) == 50  # the model's own attack decides
    assert tried([], THREATS[0]) == 0


def test_searches_are_compared_only_if_they_have_one_goal():
    far = cell("cw2", 0, eps=None, far=0.4, targeted=True)
    assert inv.FARTHER not in closed([far])  # DeepFool has another goal
    near, wide = (
        cell(name, 0, eps=None, far=d, targeted=True) for name, d in (("cw2", 0.2), ("cw2@k20", 0.3))
    )
    assert inv.FARTHER not in closed([near, wide])
    assert inv.FARTHER in closed([cell("cw2@k20", 0, eps=None, far=0.1, targeted=True), near])


def test_what_is_known_of_undefended_networks():
    def found(*changes, data="mnist"):
        cells = {(WHITE_BOX, each.config["attack"]["name"]): each for each in changes}
        return inv.known_success(cells, data)

    assert found(cell("pgd", 2), cell("bim", 3), cell("fgsm", 70), cell("apgd", 0)) == []
    (weak,) = found(cell("pgd", 36))  # the paper's 82.4 %
    assert weak.closed and "fools 82 % of n = 200" in weak.finding.text and "apgd" in weak.remedy
    (one_step,) = found(cell("fgsm", 139))  # the paper's 30.4 %
    assert not one_step.closed and one_step.finding.label == inv.KNOWN
    assert found(cell("pgd", 36, eps=0.1)) == [] == found(cell("pgd", 36), data="digits")
    assert found(cell("pgd", 36, eps=8 / 255), data="cifar10")[0].closed


def noise(fools, steps):
    arrays = {"rows": np.arange(100, dtype=np.int32)}
    for name, count in (("noise", fools), ("one_step", steps)):
        arrays[name] = (np.arange(100) < count).astype(np.float32)
    return Cell("noise", {"attack": {"eps": EPS}}, {}, arrays)


def test_noise_ahead_of_the_gradient():
    assert not gates_of([], NOISE, noise=noise(5, 60))
    (note,) = gates_of([], NOISE, noise=noise(60, 20))  # other attacks find these images
    assert not note.closed and "40 points more" in note.finding.text
    strong = [cell(name, 200) for _, name in honest()]
    (gate,) = gates_of(strong, NOISE, noise=noise(30, 60))
    assert gate.closed and "30 of n = 100 images fall to random noise only" in gate.finding.text
    assert gate.remedy


def test_grey_images_are_invalid_at_small_radii():
    assert inv.INVALID in closed([cell("pgd", 2, images=grey)])
    assert inv.INVALID not in closed([cell("pgd@0.5", 2, eps=0.5, images=grey)])


def test_radius_without_an_attack_and_few_images():
    assert g.UNTRIED in closed([], threats=(Threat("linf", 0.01),))
    assert g.SMALL in closed([], n=50)
    # Replays are no attack on the model itself, and one image that was changed little is no attack either.
    only = {(REPLAYED, "pgd"): cell("pgd", 100, knowledge=REPLAYED)}
    assert g.UNTRIED in {gate.finding.label for gate in g.gates(only, THREATS, N, 10) if gate.closed}
    wide = cell("pgd", 100, eps=0.5)
    wide.arrays["linf"][-1] = 0.1
    only = {(WHITE_BOX, "pgd"): wide}
    assert g.UNTRIED in {gate.finding.label for gate in g.gates(only, THREATS, N, 10) if gate.closed}


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
