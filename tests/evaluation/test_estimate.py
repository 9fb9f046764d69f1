"""Time estimates: from recorded cells where there are any, else from one bare gradient; and it says which."""

import pytest

from deepsec_jax.runs.estimate import duration, estimate
from deepsec_jax.runs.runner import Job


def config(name, n=100, **hyperparameters):
    attack = {"name": name, "class": name.upper(), "preset": "paper", "hyperparameters": hyperparameters}
    return {"attack": attack, "n": n, "seed": 0, "model": {"name": "m"}, "data": "d"}


def never():
    pytest.fail("measured though nothing needed it")


def job(name, gradients=15, n=100, seconds=None, at_most=False, **hyperparameters):
    """A job that is never computed."""
    made = config(name, n, **hyperparameters)
    return Job(made, never, images=n, gradients=gradients, seconds=seconds, at_most=at_most)


FINISHED = [(config("pgd", n=50, eps=0.3), {"seconds": 5.0, "gradient_seconds": 0.01})]


def test_a_recorded_attack_counts_for_any_n_and_seed():
    found = estimate([job("pgd", n=200, eps=0.3)], FINISHED, never)
    assert found.seconds == pytest.approx(20.0) and (found.recorded, found.counted) == (1, 0)
    assert str(found) == ("about 20 s for 1 cell; 1 cell as recorded before; plus compilation and metrics")


def test_other_hyperparameters_are_counted_in_gradients():
    found = estimate([job("pgd", eps=0.1)], FINISHED, never)
    assert found.seconds == pytest.approx(100 * 15 * 0.01) and not found.measured
    assert "about 15 s" in str(found) and "10 ms per image, from a recorded cell" in str(found)


def test_without_records_a_gradient_is_measured():
    found = estimate([job("pgd"), job("cw2", None)], [], lambda: 0.002)
    assert found.seconds == pytest.approx(3.0) and found.measured and found.unknown == ("cw2",)
    assert "2 ms per image, measured now" in str(found) and "unknown for cw2" in str(found)


def test_what_stops_early_is_an_upper_bound():
    found = estimate([job("pgd"), job("cascade", 1000, at_most=True)], [], lambda: 0.002)
    assert found.seconds == pytest.approx(3.0) and found.most_seconds == pytest.approx(200.0)
    assert "at most 3 min 20 s for 1 cell, less if images are fooled early" in str(found)


def test_what_brings_its_own_clock_is_timed_once_per_name():
    times = iter([0.01, 0.02])
    found = estimate([job(name, None, seconds=lambda: next(times)) for name in ("a", "a", "b")], [], never)
    assert found.seconds == pytest.approx(100 * (0.01 + 0.01 + 0.02)) and found.timed == 3


def test_nothing_missing_measures_nothing():
    assert str(estimate([], [], never)) == "nothing to compute"
    assert "unknown for cw2" in str(estimate([job("cw2", None)], [], never))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.41, "0.4 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words
