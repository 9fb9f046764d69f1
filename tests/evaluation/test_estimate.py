"""Time estimates: from recorded cells where there are any, else from one bare gradient; and it says which."""

import pytest

from deepsec_jax.evaluation.estimate import duration, estimate


def config(name, n=100, **hyperparameters):
    attack = {"name": name, "class": name.upper(), "preset": "paper", "hyperparameters": hyperparameters}
    return {"attack": attack, "n": n, "seed": 0, "model": {"name": "m"}, "data": "d"}


def never():
    pytest.fail("measured though nothing needed it")


def test_a_recorded_attack_counts_for_any_n_and_seed():
    finished = [(config("pgd", n=50, eps=0.3), {"seconds": 5.0, "gradient_seconds": 0.01})]
    wanted = [({**config("pgd", n=200, eps=0.3), "seed": 4}, 15)]
    found = estimate(wanted, finished, never)
    assert found.seconds == pytest.approx(20.0) and (found.recorded, found.counted) == (1, 0)
    assert str(found) == (
        "about 20 s of attack for 1 cell; 1 cell as recorded before; compilation and metrics come on top"
    )


def test_other_hyperparameters_are_counted_in_gradients():
    finished = [(config("pgd", n=50, eps=0.3), {"seconds": 5.0, "gradient_seconds": 0.01})]
    found = estimate([(config("pgd", eps=0.1), 15)], finished, never)
    assert found.seconds == pytest.approx(100 * 15 * 0.01) and not found.measured
    assert "15 s of attack" in str(found) and "10 ms per image, from a recorded cell" in str(found)


def test_without_records_a_gradient_is_measured():
    found = estimate([(config("pgd"), 15), (config("cw2"), None)], [], lambda: 0.002)
    assert found.seconds == pytest.approx(3.0) and found.measured and found.unknown == ("cw2",)
    assert "2 ms per image, measured now" in str(found) and "unknown for cw2" in str(found)


def test_nothing_missing_measures_nothing():
    assert str(estimate([], [], never)) == "nothing to attack"
    assert "unknown for cw2" in str(estimate([(config("cw2"), None)], [], never))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.41, "0.4 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words
