"""The paper's tables as data."""

import pytest

from deepsec_jax.attacks import ATTACKS, BIM, FGSM, ROWS, Restarts, preset, preset_card
from deepsec_jax.catalog import UnknownName


def test_rows_of_the_tables():
    for dataset, rows in ROWS.items():
        assert len(rows) == len(set(rows)) == 19
        for row in rows:
            if row.partition("@")[0] in ATTACKS:
                preset(row, dataset)
        others = {
            "square", "apgd", "fab", "fmn", "ddn", "sigmazero", "rays", "apgdl1", "pdpgd", "superdeepfool",
            "cgba", "basinhopping", "vmifgsm", "simifgsm",
        }  # not in the paper  # fmt: skip
        assert [row for row in rows if "@" not in row] == [name for name in ATTACKS if name not in others]


def test_other_sets_take_values_by_channels():
    assert preset("fgsm", "fashion_mnist").eps == 0.3
    assert preset("fgsm", "svhn_cropped").eps == 0.1
    assert preset("fgsm", "mine", channels=1).eps == 0.3


def test_strong_presets():
    strong = preset("pgd", "cifar10", "strong")
    assert isinstance(strong, Restarts) and strong.n == 10
    assert strong.attack.steps == 100 and abs(strong.attack.eps - 8 / 255) < 1e-9
    assert strong.attack.step_size == pytest.approx(2.5 * strong.attack.eps / 100)


def test_a_field_of_a_row_can_be_changed():
    changed = preset("pgd", "cifar10", "strong", eps=0.5, norm="l2")
    row = preset("pgd", "cifar10", "strong")
    assert (changed.attack.eps, changed.attack.norm, changed.n) == (0.5, "l2", row.n)
    # The step keeps its ratio to eps: steps of the row's own length would not cross the larger ball.
    assert changed.attack.step_size / 0.5 == pytest.approx(row.attack.step_size / row.attack.eps)
    assert preset("bim", "mnist", eps=0.1, step_size=0.02) == BIM(eps=0.1, step_size=0.02, steps=15)
    assert preset("rfgsm", "mnist", eps=0.1).alpha == pytest.approx(0.05)
    assert preset("pgd", "mnist", "strong", restarts=2).n == 2
    assert preset("fgsm", "mnist", eps=0.1) == FGSM(eps=0.1)
    with pytest.raises(UnknownName, match="step_size"):
        preset("pgd", "mnist", stepsize=0.1)


def test_every_value_has_source_and_reason():
    for kind in ("paper", "strong"):
        for name in ATTACKS:
            card = preset_card(name, "mnist", kind)
            assert all(set(entry) == {"value", "source", "reason"} for entry in card.values())


def test_unknown_names_come_with_near_ones():
    with pytest.raises(UnknownName, match="pgd"):
        preset("pdg", "mnist")
    with pytest.raises(UnknownName, match=r"fgsm@0\.5"):
        preset("fgsm@0.6", "mnist")
    with pytest.raises(UnknownName, match="strong"):
        preset("pgd", "mnist", "stronk")
