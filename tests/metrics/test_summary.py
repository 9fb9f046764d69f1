"""The one place that averages."""

import math

import numpy as np
import pytest
from scipy import stats

from deepsec_jax.metrics import DEFENSE_METRICS, METRICS, Summary, average, summarise
from deepsec_jax.tables.numbers import interval

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


def test_a_share_has_the_exact_interval():
    found = summarise(METRICS["mr"], SUCCESS, SUCCESS)
    assert found.mean == pytest.approx(0.6) and found.n == 5
    ends = stats.beta.ppf([0.025, 0.975], [3, 4], [3, 2])  # Clopper and Pearson 1934
    assert (found.low, found.high) == pytest.approx(tuple(ends))
    everything = summarise(METRICS["mr"], np.ones(1000), np.ones(1000))
    assert everything.mean == 1 and 0.99 < everything.low < 1 and everything.high == 1


def test_the_interval_of_shares_of_draws_ends_at_0_and_1():
    draws = np.array([0.0] * 9 + [0.5])
    low, high = stats.t.interval(0.95, 9, loc=0.05, scale=stats.sem(draws))
    assert low < 0  # what a rate must not show
    found = summarise(METRICS["mr"], draws, np.ones(10))
    assert 0 <= found.low < 0.05 and high < found.high < 1
    other = summarise(METRICS["mr"], 1.0 - draws, np.ones(10))
    assert (other.low, other.high) == pytest.approx((1 - found.high, 1 - found.low))
    assert summarise(DEFENSE_METRICS["cav"], draws, np.ones(10)).low < 0  # may be negative
    assert summarise(METRICS["mr"], np.full(10, 0.5), np.ones(10)).high > 0.6  # of equal shares, too


def test_a_difference_of_yes_and_no_has_tangos_interval():
    values = np.repeat([1.0, -1.0, 0.0], [6, 16, 139])
    found = summarise(DEFENSE_METRICS["cav"], values, np.ones(161))
    assert (found.mean, found.n) == (pytest.approx(-10 / 161), 161)
    assert (found.low, found.high) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    nothing = summarise(DEFENSE_METRICS["cav"], np.zeros(10), np.ones(10))
    assert nothing.low == pytest.approx(-0.2775, abs=5e-5) and nothing.high == -nothing.low


@pytest.mark.parametrize(("values", "success"), [([], []), ([1.0, 2.0], [0, 0]), ([math.nan], [1])])
def test_nothing_to_average_is_no_crash(values, success):
    found = summarise(METRICS["l2"], np.array(values), np.array(success))
    assert found.n == 0 and math.isnan(found.mean) and math.isnan(found.low)


def test_without_an_upper_bound_one_value_or_equal_ones_have_no_interval():
    one = summarise(METRICS["l2"], np.array([2.0]), np.ones(1))
    assert (one.mean, one.n) == (2.0, 1) and math.isnan(one.low)
    equal = summarise(METRICS["l2"], np.full(4, 0.1), np.ones(4))
    assert equal.mean == pytest.approx(0.1) and math.isnan(equal.low) and math.isnan(equal.high)
    assert interval(METRICS["l2"], one) == "n/a, n = 1" and interval(METRICS["l2"], equal) == "n/a, all equal"
    far = summarise(METRICS["l2"], np.array([0.0, 0.0, 0.0, 4.0]), np.ones(4))
    assert far.low == 0 and far.high > 4  # a distance is never below 0


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


def test_an_average_of_means_is_as_uncertain_as_means_that_err_together():
    parts = [Summary(0.2, 10, 0.1, 0.4), Summary(0.6, 30, 0.5, 0.7)]
    assert average(parts) == Summary(pytest.approx(0.4), 2, pytest.approx(0.3), pytest.approx(0.55))
    without = average([*parts, Summary(0.5, 1, math.nan, math.nan)])
    assert without.n == 3 and math.isnan(without.low) and without.mean == pytest.approx(1.3 / 3)
    assert average([]).n == 0 and math.isnan(average([]).mean)
