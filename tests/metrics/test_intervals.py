"""The intervals of a bounded mean and of a paired difference: others' numbers, and how often they hold."""

import math

import numpy as np
import pytest
from scipy import stats

from deepsec_jax.metrics import DEFENSE_METRICS, DETECTION_METRICS, METRICS, summarise
from deepsec_jax.metrics.bounded_mean import bounded_mean_interval, chance_below
from deepsec_jax.metrics.paired import paired_interval

# --- a bounded mean


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (1, 200), (990, 1000), (9999, 10000)]
)
def test_of_yes_and_no_it_is_clopper_and_pearsons(hits, n):
    exact = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    values = np.repeat([1.0, 0.0], [hits, n - hits])
    assert bounded_mean_interval(values, 0, 1) == pytest.approx((exact.low, exact.high), abs=2e-7)
    low, high = bounded_mean_interval(6 * values - 4, -4, 2)  # other bounds, the same interval
    assert (low, high) == pytest.approx((6 * exact.low - 4, 6 * exact.high - 4), abs=2e-6)


RNG = np.random.default_rng(7)
SAMPLES = {
    "one": np.array([0.7]),
    "two": np.array([0.1, 0.9]),
    "beta": RNG.beta(5, 1, 30),
    "many": RNG.beta(5, 1, 400),
    "near one, but for one": np.append(0.99 + 1e-3 * RNG.random(150), 0.2),
    "close together": 0.999 + 1e-6 * RNG.random(200),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_it_is_the_quantile_of_randomly_weighted_means(name):
    """Against draws of NumPy's own Dirichlet weights."""
    values = SAMPLES[name]
    rows = 200_000 if len(values) < 50 else 20_000
    weights = np.random.default_rng(1).dirichlet(np.ones(len(values) + 1), rows)
    drawn = [np.sort(weights @ np.append(values, bound)) for bound in (0.0, 1.0)]
    low, high = bounded_mean_interval(values, 0, 1)
    for end, sample, wanted in ((low, drawn[0], 0.025), (high, drawn[1], 0.975)):
        share = np.searchsorted(sample, end) / len(sample)
        assert share == pytest.approx(wanted, abs=4 * math.sqrt(0.025 * 0.975 / len(sample)))
    assert bounded_mean_interval(values[::-1], 0, 1) == (low, high)  # no order
    assert bounded_mean_interval(1 - values, 0, 1) == pytest.approx((1 - high, 1 - low), abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 1.0])
def test_equal_values_leave_room_for_one_that_was_not_seen(value, n):
    low, high = bounded_mean_interval(np.full(n, value), 0, 1)
    assert 0 <= low <= value <= high <= 1 and high - low > 1e-3
    beyond = bounded_mean_interval(np.full(n, value) + 1e-7, 0, 1)  # float32 may round beyond a bound
    assert beyond == pytest.approx((low, high), abs=1e-6) and beyond[1] <= 1


def holds(values, mean):
    """Whether the 95 % interval holds the mean: both of its p-values are large enough."""
    below, above = chance_below(values, 0.0, mean), chance_below(-values, -1.0, -mean)
    return below >= 0.025 and above >= 0.025


LAWS = {
    "beta(5, 1)": (lambda rng, n: rng.beta(5, 1, n), 5 / 6),
    "beta(1/2, 1/2)": (lambda rng, n: rng.beta(0.5, 0.5, n), 0.5),
    "beta(50, 1/2), near one": (lambda rng, n: rng.beta(50, 0.5, n), 50 / 50.5),
    "beta(1/20, 2), near zero": (lambda rng, n: rng.beta(0.05, 2, n), 0.05 / 2.05),
    "shares of ten draws": (lambda rng, n: rng.binomial(10, 0.97, n) / 10, 0.97),
    "0.98, rarely 0.1": (lambda rng, n: np.where(rng.random(n) < 0.01, 0.1, 0.98), 0.9712),
    "near one, often 0.5": (lambda rng, n: np.where(rng.random(n) < 0.2, 0.5, 0.999), 0.8992),
}


@pytest.mark.parametrize("n", [10, 50, 200])
@pytest.mark.parametrize("law", LAWS)
def test_it_holds_the_mean_as_often_as_it_says(law, n):
    draw, mean = LAWS[law]
    rng = np.random.default_rng(n)
    found = np.mean([holds(draw(rng, n), mean) for _ in range(250)])
    assert found >= 0.93


@pytest.mark.parametrize("n", [10, 50])
def test_of_two_values_it_holds_the_mean_exactly_as_often_as_it_says(n):
    """Summed over all counts, nothing drawn: shares, and mixtures whose one value is no bound."""
    worst = {}
    for lower, upper in ((0.0, 1.0), (0.1, 0.95)):
        ends = [bounded_mean_interval(np.repeat([upper, lower], [k, n - k]), 0, 1) for k in range(n + 1)]
        for p in (0.002, 0.01, 0.0175, 0.05, 0.3, 0.5, 0.9, 0.99, 0.999):
            chances, mean = stats.binom.pmf(np.arange(n + 1), n, p), lower + p * (upper - lower)
            inside = np.array([low <= mean <= high for low, high in ends])
            worst[lower, p] = chances[inside].sum()
    assert min(worst.values()) >= 0.95


def test_what_stood_here_before_does_not():
    """Planted: Student's interval, and Wilson's of few images, miss what ours holds."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(400):
        values = LAWS["0.98, rarely 0.1"][0](rng, 50)
        low, high = stats.t.interval(0.95, 49, loc=values.mean(), scale=max(stats.sem(values), 1e-12))
        missed += not low <= 0.9712 <= high
    assert missed > 0.5 * 400
    wilson = [stats.binomtest(k, 10).proportion_ci(0.95, method="wilson") for k in range(11)]
    inside = np.array([interval.low <= 0.0175 <= interval.high for interval in wilson])
    assert stats.binom.pmf(np.arange(11), 10, 0.0175)[inside].sum() < 0.85


# --- a difference of pairs


@pytest.mark.parametrize(
    ("gained", "lost", "n", "level", "ends"),
    [
        # Cavo et al. (2012) and two small tables: printed by R's contingencytables 3.0 (Fagerland et al.,
        # "Statistical Analysis of Contingency Tables", 2017, chapter 8).
        (6, 16, 161, 0.95, (-0.1240, -0.0054)),
        (3, 0, 3, 0.95, (-0.1230, 1.0)),
        (0, 3, 3, 0.95, (-1.0, 0.1230)),
        (28, 25, 618, 0.90, (-0.0148, 0.0247)),  # R's PropCIs 0.3, scoreci.mp(25, 28, 618, 0.9)
    ],
)
def test_tangos_interval_is_the_published_one(gained, lost, n, level, ends):
    assert paired_interval(gained, lost, n, level=level) == pytest.approx(ends, abs=5e-5)


def test_tangos_interval_by_hand():
    z = float(stats.norm.ppf(0.975))
    half = z**2 / (50 + z**2)
    assert paired_interval(0, 0, 50) == pytest.approx((-half, half))  # q = 0: n d = z sqrt(n d (1 - d))
    assert paired_interval(50, 0, 50) == pytest.approx(((50 - z**2) / (50 + z**2), 1.0))
    for gained, lost in ((7, 2), (1, 0), (20, 20)):
        low, high = paired_interval(gained, lost, 60)
        assert -1 < low < (gained - lost) / 60 < high < 1
        assert paired_interval(lost, gained, 60) == pytest.approx((-high, -low))


@pytest.mark.parametrize("n", [10, 50, 200])
@pytest.mark.parametrize("chances", [(0.001, 0.0), (0.01, 0.03), (0.05, 0.05), (0.1, 0.02), (0.3, 0.2)])
def test_tangos_interval_holds_the_difference_as_often_as_it_says(n, chances):
    """Summed over all pairs of counts that have a chance."""
    covered = seen = 0.0
    for gained in range(n + 1):
        first = stats.binom.pmf(gained, n, chances[0])
        for lost in range(n + 1 - gained if first > 1e-5 else 0):
            chance = first * stats.binom.pmf(lost, n - gained, chances[1] / (1 - chances[0]))
            if chance > 1e-5:
                low, high = paired_interval(gained, lost, n)
                seen += chance
                covered += chance * (low <= chances[0] - chances[1] <= high)
    assert seen > 0.99 and covered / seen >= 0.93


# --- what the tables print


EVERY = {**METRICS, **DEFENSE_METRICS, **DETECTION_METRICS}


@pytest.mark.parametrize("n", [2, 1000])
@pytest.mark.parametrize("name", EVERY)
def test_no_column_has_an_interval_of_width_zero_or_beyond_its_bounds(name, n):
    column = EVERY[name]
    low, high = column.limits
    assert low in (0.0, -1.0), f"{name} says no bounds"
    top = min(high, 5.0)
    rng = np.random.default_rng(n)
    for values in (
        np.full(n, low), np.full(n, top), np.full(n, 0.3 * top), rng.uniform(low, top, n),
        np.append(np.full(n - 1, top), low), np.append(np.full(n - 1, low), top),
        np.float32(top) + 1e-7 * rng.random(n),
    ):  # fmt: skip
        found = summarise(column, values, np.ones(n))
        if math.isnan(found.low):
            assert math.isinf(high) and (column.measured_once or np.ptp(values) == 0)
            continue
        assert low <= found.low < found.high <= high
        assert found.low <= found.mean + 1e-6 and found.mean - 1e-6 <= found.high
