"""The one place that averages."""

import math

import numpy as np
import pytest
from scipy import stats

from deepsec_jax.metrics import DEFENSE_METRICS, METRICS, summarise

SUCCESS = np.array([1, 0, 1, 1, 0], np.float32)


def test_over_successes_or_over_all():
    values = np.array([1.0, 100.0, 2.0, 6.0, 100.0])
    found = summarise(METRICS["l2"], values, SUCCESS)
    assert (found.mean, found.n) == (3.0, 3)
    low, high = stats.bootstrap(
        (values[SUCCESS == 1],), np.mean, method="percentile", random_state=0
    ).confidence_interval
    assert found.low < low and high < found.high  # Student's t is wider on three values
    assert summarise(METRICS["cc"], values, SUCCESS).n == 5


def test_a_share_has_wilsons_interval():
    found = summarise(METRICS["mr"], SUCCESS, SUCCESS)
    assert found.mean == pytest.approx(0.6) and found.n == 5
    z = stats.norm.ppf(0.975)  # Wilson 1927, by hand
    middle = (0.6 + z**2 / 10) / (1 + z**2 / 5)
    half = z / (1 + z**2 / 5) * math.sqrt(0.6 * 0.4 / 5 + z**2 / 100)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))
    everything = summarise(METRICS["mr"], np.ones(1000), np.ones(1000))
    assert everything.mean == 1 and 0.99 < everything.low < 1 and everything.high == 1


def test_shares_of_draws_have_students_interval():
    found = summarise(METRICS["mr"], np.array([0.5, 0.7, 0.9]), np.ones(3))
    assert found.mean == pytest.approx(0.7) and found.low < 0.7 < found.high


def test_the_interval_of_shares_ends_at_0_and_1():
    draws = np.array([0.0] * 9 + [0.5])
    low, high = stats.t.interval(0.95, 9, loc=0.05, scale=stats.sem(draws))
    assert low < 0  # what a rate must not show
    found = summarise(METRICS["mr"], draws, np.ones(10))
    assert (found.low, found.high) == (0.0, pytest.approx(high))
    found = summarise(METRICS["mr"], 1.0 - draws, np.ones(10))
    assert (found.low, found.high) == (pytest.approx(1.0 - high), 1.0)
    assert summarise(DEFENSE_METRICS["cav"], draws, np.ones(10)).low == pytest.approx(low)  # may be negative


@pytest.mark.parametrize(("values", "success"), [([], []), ([1.0, 2.0], [0, 0]), ([math.nan], [1])])
def test_nothing_to_average_is_no_crash(values, success):
    found = summarise(METRICS["l2"], np.array(values), np.array(success))
    assert found.n == 0 and math.isnan(found.mean) and math.isnan(found.low)


def test_one_value_has_no_interval_and_equal_ones_have_a_point():
    one = summarise(METRICS["l2"], np.array([2.0]), np.ones(1))
    assert (one.mean, one.n) == (2.0, 1) and math.isnan(one.low)
    equal = summarise(METRICS["l2"], np.full(4, 0.1), np.ones(4))
    assert (equal.low, equal.high) == (equal.mean, equal.mean)


def test_one_measurement_for_all_has_no_interval():
    found = summarise(METRICS["cc"], np.full(4, 0.1), np.ones(4))
    assert found.mean == pytest.approx(0.1) and math.isnan(found.low) and math.isnan(found.high)


def test_values_that_do_not_exist_are_left_out():
    found = summarise(METRICS["l2_relative"], np.array([math.nan, 1.0, 3.0]), np.ones(3))
    assert (found.mean, found.n) == (2.0, 2)


def test_half_of_the_draws_is_enough_to_count_as_a_success():
    values, success = np.array([1.0, 2.0, 4.0]), np.array([0.4, 0.5, 0.6], np.float32)
    found = summarise(METRICS["l2"], values, success)
    assert (found.mean, found.n) == (3.0, 2)
