"""RT: a random size and place before the base's network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from behaviour import call, check_attacks, check_expectation, check_rows
from conftest import make_linear
from few import RECIPE, base, digits, weights  # noqa: F401

from deepsec_jax import defenses
from deepsec_jax.cli.defend import _show
from deepsec_jax.defenses import RT, Base, DefenseError
from deepsec_jax.randomness import one_per_row
from deepsec_jax.training import accuracy
from deepsec_jax.transforms import resize_pad

SMALL = RT(smallest=8, largest=9)


def bare(seed=0, side=9):
    return Base(None, None, make_linear((side, side, 1), 10, seed=seed))


@pytest.fixture(scope="module")
def x(digits):
    return jnp.asarray(digits.test.images[:6])


def test_one_size_without_room_is_the_raw_model(base, digits, x):
    same = RT(smallest=8, largest=8).fit(base, digits, key=jax.random.key(0))
    assert np.array_equal(call(same, x), call(base.trained, x))
    room = SMALL.fit(base, digits, key=jax.random.key(0))
    assert not np.array_equal(call(room, x), call(base.trained, x))  # planted


def test_the_network_sees_the_resized_images(digits, x):
    rt, network = SMALL.replace(pad=0.5), bare().trained
    defended = rt.fit(bare(), digits, key=jax.random.key(0))
    seen = resize_pad(x, one_per_row(defended.keys, 6), 8, 9, 0.5)
    assert np.allclose(call(defended, x), call(network, seen), atol=1e-4)


def test_rows(digits, x):
    check_rows(SMALL.fit(bare(), digits, key=jax.random.key(0)), x, exact=False)


def test_under_attack(digits, x, compiles):
    classifiers = [SMALL.fit(bare(seed), digits, key=jax.random.key(0)) for seed in (0, 1)]
    labels = jnp.asarray(digits.test.labels[:6])
    check_attacks(classifiers, [SMALL.surrogate(each) for each in classifiers], x, labels, compiles)


def test_the_surrogate_is_the_expectation(digits, x):
    defended = SMALL.fit(bare(), digits, key=jax.random.key(0))
    check_expectation(defended, SMALL.surrogate(defended), x)
    with pytest.raises(AssertionError):
        check_expectation(defended, defended, x)  # planted: one draw


@pytest.mark.long  # in parts in test_protocol
def test_a_folder_keeps_the_network_and_the_accuracy_of_the_defended_model(base, digits, tmp_path, x):
    card = {"name": "rt", "preset": "paper", "base": "tests"}
    made = defenses.fit_into(tmp_path / "rt", SMALL, base, digits, key=jax.random.key(0), card=card)
    assert made.saved.figures["test_accuracy"] == accuracy(made.classifier, digits.test)
    assert all(map(np.array_equal, weights(made.classifier), weights(base.trained)))
    again = defenses.load_defended(tmp_path / "rt")
    assert again.defense == SMALL and np.array_equal(call(again.classifier, x), call(made.classifier, x))


def test_a_network_that_does_not_take_the_canvas_is_refused(digits):
    with pytest.raises(DefenseError, match=r"RT gives its network images of 9 x 9") as refused:
        SMALL.fit(bare(side=8), digits, key=jax.random.key(0))
    assert len(str(refused.value).splitlines()) == 1
    SMALL.fit(bare(side=9), digits, key=jax.random.key(0))  # planted: one that takes it is not


@pytest.mark.parametrize(("smallest", "largest"), [(7, 9), (9, 8)])
def test_sides_that_shrink_are_refused(smallest, largest, base, digits):
    with pytest.raises(DefenseError, match=f"RT resizes to sides from {smallest} to {largest}"):
        RT(smallest=smallest, largest=largest).fit(base, digits, key=jax.random.key(0))


def test_a_folder_needs_a_base_that_can_be_rebuilt(digits, tmp_path):
    with pytest.raises(DefenseError, match="no network that a folder could rebuild"):
        SMALL.fit(bare(), digits, key=jax.random.key(0), folder=tmp_path / "rt")


def test_a_dry_run_says_that_nothing_is_trained(digits, tmp_path, capsys):
    _show(SMALL, RECIPE, digits, tmp_path / "rt")
    assert "RT of small_cnn on digits trains nothing" in capsys.readouterr().out
    assert not (tmp_path / "rt").exists()
