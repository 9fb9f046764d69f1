"""Detection metrics against scikit-learn, scipy, simulation: AUC, ROC, rates, intervals; no crash on none."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from deepsec_jax.defenses.detector import is_flagged
from deepsec_jax.metrics import DETECTION_METRICS, DetectionRecord, fpr_limits, roc, summarise_detection
from deepsec_jax.metrics.auc import auc_interval, delong_interval, placements, score_interval
from deepsec_jax.metrics.detection_record import flagged


def record_of(attacked, clean, *, success=None, correct=None, threshold=1.0):
    attacked, clean = np.asarray(attacked, np.float32), np.asarray(clean, np.float32)
    success = np.ones(len(attacked)) if success is None else np.asarray(success)
    correct = np.ones(len(clean)) if correct is None else np.asarray(correct)
    return DetectionRecord(attacked, success, clean, correct, threshold)


def found(name, record):
    return summarise_detection(DETECTION_METRICS[name], record)


def samples(seed, *, attacked=60, clean=90, shift=0.8, ties=False):
    rng = np.random.default_rng(seed)
    one, other = rng.normal(shift, 1.3, attacked), rng.normal(size=clean)
    return (np.round(one, 1), np.round(other, 1)) if ties else (one, other)


def sklearn_auc(attacked, clean):
    truth = np.concatenate((np.ones(len(attacked)), np.zeros(len(clean))))
    return sklearn_metrics.roc_auc_score(truth, np.concatenate((attacked, clean)))


# --- AUC and ROC


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.8, 9.0])
def test_auc_and_roc_are_those_of_scikit_learn(shift, ties):
    attacked, clean = samples(0, shift=shift, ties=ties)
    attacked, clean = attacked.astype(np.float32), clean.astype(np.float32)
    assert found("auc", record_of(attacked, clean)).mean == pytest.approx(
        sklearn_auc(attacked, clean), abs=1e-12
    )
    truth = np.concatenate((np.ones(len(attacked)), np.zeros(len(clean))))
    theirs = sklearn_metrics.roc_curve(truth, np.concatenate((attacked, clean)), drop_intermediate=False)
    ours = roc(attacked, clean)
    assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])
    assert sklearn_metrics.auc(*ours) == pytest.approx(sklearn_auc(attacked, clean), abs=1e-12)


def test_planted_ties_that_count_as_wins_are_seen():
    attacked, clean = samples(0, ties=True)
    greedy = (placements(attacked, clean) * 2 - (attacked[:, None] > clean[None]).mean(axis=1)).mean()
    assert greedy != pytest.approx(sklearn_auc(attacked, clean), abs=1e-3)


def test_the_threshold_of_a_detector_lies_on_the_curve():
    attacked, clean = samples(1)
    record = record_of(attacked, clean, threshold=float(np.float32(clean[3])))
    rates = (found("fpr", record).mean, found("tpr", record).mean)
    assert rates in list(zip(*roc(record.scores, record.clean), strict=True))


def test_delongs_variance_is_the_jackknifes_on_scikit_learns_auc():
    """Each sample's part is the variance of its leave-one-out pseudo-values, whatever computes the AUC."""
    attacked, clean = samples(2, attacked=25, clean=40)
    area, variance = sklearn_auc(attacked, clean), 0.0
    for left_out in (
        [sklearn_auc(np.delete(attacked, index), clean) for index in range(len(attacked))],
        [sklearn_auc(attacked, np.delete(clean, index)) for index in range(len(clean))],
    ):
        n = len(left_out)
        variance += np.var(n * area - (n - 1) * np.array(left_out), ddof=1) / n
    half = stats.norm.ppf(0.975) * math.sqrt(variance) / (area * (1 - area))
    logit = math.log(area / (1 - area))
    expected = [1 / (1 + math.exp(-logit - side)) for side in (-half, half)]
    assert delong_interval(attacked, clean) == pytest.approx(expected, abs=1e-9)


def coverage(interval, *, attacked, clean, shift, spread=1.0, runs=300):
    truth = stats.norm.cdf(shift / math.sqrt(1 + spread**2))
    rng, inside = np.random.default_rng(3), 0
    for _ in range(runs):
        low, high = interval(rng.normal(shift, spread, attacked), rng.normal(size=clean))
        inside += low <= truth <= high
    return inside / runs


def newcombe(attacked, clean):
    return score_interval(float(placements(attacked, clean).mean()), len(attacked), len(clean))


FEW_AND_HIGH = {"attacked": 12, "clean": 200, "shift": 2.5}
WIDE = {"attacked": 300, "clean": 600, "shift": 3.0, "spread": 3.0}


@pytest.mark.parametrize(
    "case", [{"attacked": 40, "clean": 100, "shift": 0.0}, {"attacked": 40, "clean": 100, "shift": 1.2},
             FEW_AND_HIGH, WIDE]
)  # fmt: skip
def test_intervals_hold_the_true_area_at_least_as_often_as_they_say(case):
    assert coverage(auc_interval, **case) >= 0.93


def test_planted_each_of_the_two_intervals_alone_is_too_short_somewhere():
    assert coverage(lambda *samples: delong_interval(*samples) or newcombe(*samples), **FEW_AND_HIGH) < 0.9
    assert coverage(newcombe, **WIDE) < 0.91


def test_planted_an_interval_that_forgets_the_clean_sample_is_too_short():
    def forgetful(attacked, clean):
        values = placements(attacked, clean)
        half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
        return values.mean() - half, values.mean() + half

    assert coverage(forgetful, attacked=100, clean=20, shift=1.2) < 0.8


@pytest.mark.parametrize(("attacked", "clean"), [(1, 50), (5, 5), (200, 1000)])
def test_where_no_pair_is_out_of_order_the_interval_is_still_one(attacked, clean):
    low, high = auc_interval(np.ones(attacked), np.zeros(clean))
    assert high == 1.0 and 0.0 < low < 1.0
    assert auc_interval(np.zeros(attacked), np.ones(clean)) == pytest.approx((0.0, 1.0 - low), abs=1e-9)
    assert low == pytest.approx(score_interval(1.0, attacked, clean)[0])
    q1, q2 = low / (2 - low), 2 * low**2 / (1 + low)  # Hanley and McNeil (1982)
    mean = (attacked + clean) / 2 - 1
    variance = (low * (1 - low) + mean * (q1 - low**2) + mean * (q2 - low**2)) / (attacked * clean)
    assert (1 - low) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(variance), rel=1e-6)


def test_random_clean_images_as_adversarial_examples_give_one_half():
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(100):
        scores = rng.gamma(2.0, size=700)
        chosen = np.isin(np.arange(700), rng.choice(700, 200, replace=False))
        summary = found("auc", record_of(scores[chosen], scores[~chosen]))
        inside += summary.low <= 0.5 <= summary.high
    assert inside >= 0.92 * 100


# --- rates at the one threshold


def test_rates_are_over_the_images_they_are_meant_for():
    record = record_of(
        [2.0, 0.5, 2.0, 0.5, 3.0], [0.0, 2.0, 0.5, 1.0], success=[1, 1, 1, 0, 0], correct=[1, 0, 1, 1]
    )
    expected = {"tpr": (2 / 3, 3), "fpr": (1 / 4, 4), "fpr_correct": (0.0, 3), "tpr_all": (3 / 5, 5),
                "evasion": (1 / 5, 5), "auc_all": (14 / 20, 5)}  # fmt: skip
    for name, (mean, n) in expected.items():
        summary = found(name, record)
        assert (summary.mean, summary.n) == (pytest.approx(mean), n), name
    wilson = stats.binomtest(2, 3).proportion_ci(method="wilson")
    assert (found("tpr", record).low, found("tpr", record).high) == pytest.approx((wilson.low, wilson.high))


def test_a_score_that_is_no_number_is_flagged_and_ranks_highest():
    scores = np.array([math.nan, 0.5, 1.0, 1.5], np.float32)
    assert (
        flagged(scores, 1.0).tolist()
        == np.asarray(is_flagged(scores, 1.0)).tolist()
        == [True, False, False, True]
    )
    record = record_of([math.nan], [0.0, 5.0])
    assert found("auc", record).mean == 1.0 and found("tpr", record).mean == 1.0
    assert roc(record.scores, record.clean)[1].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "record",
    [record_of([], []), record_of([], [0.5]), record_of([2.0], []), record_of([2.0], [0.5], success=[0])],
)  # fmt: skip
def test_nothing_to_average_is_no_crash(record):
    for name, column in DETECTION_METRICS.items():
        summary = summarise_detection(column, record)
        if not summary.n:
            assert math.isnan(summary.mean) and math.isnan(summary.low) and math.isnan(summary.high), name
    assert all(len(part) for part in roc(record.scores, record.clean))
    assert len(record.scores) == 0 or found("evasion", record).n == len(record.scores)


def test_the_table_says_what_each_column_is():
    assert tuple(DETECTION_METRICS)[:4] == ("tpr", "fpr", "auc", "evasion")
    for name, column in DETECTION_METRICS.items():
        assert column.name == name and column.formula and column.host and column.unit == "share"
        assert column.better in ("higher", "lower") and column.over in ("successful", "all", "clean")


# --- how far the false positive rate may lie from what was asked for


def simulated(fpr, validation, tests, runs=20000):
    """Set a threshold on one sample and count on another, scores without ties."""
    rng = np.random.default_rng(5)
    above = math.floor(round(fpr * validation, 9))
    scores = np.sort(rng.random((runs, validation)), axis=1)
    thresholds = scores[:, validation - 1 - above]
    return (rng.random((runs, tests)) > thresholds[:, None]).mean(axis=1)


@pytest.mark.parametrize(("fpr", "validation", "tests"), [(0.04, 135, 450), (0.04, 100, 100), (0.1, 20, 300)])
def test_the_interval_counts_both_samples(fpr, validation, tests):
    rates = simulated(fpr, validation, tests)
    low, high = fpr_limits(fpr, validation, tests)
    assert low < fpr < high
    assert 0.988 <= ((low <= rates) & (rates <= high)).mean() <= 0.999


def test_planted_an_interval_of_the_test_sample_alone_is_too_short():
    rates = simulated(0.04, 135, 450)
    low, high = stats.binom(450, 0.04).ppf((0.005, 0.995)) / 450
    assert ((low <= rates) & (rates <= high)).mean() < 0.97
    assert fpr_limits(0.04, 0, 450) == fpr_limits(0.04, 135, 0) == (0.0, 1.0)


def test_half_of_the_draws_is_enough_to_count():
    """As a success of the attack, and as an image that the classifier gets right."""
    attacked, clean = [3.0, 0.5, 2.0, 0.2], [0.1, 2.0, 0.3, 0.4]
    half = record_of(attacked, clean, success=[0.4, 0.5, 0.6, 1.0], correct=[0.5, 0.5, 0.4, 1.0])
    without = record_of(attacked[1:], clean, success=[1, 1, 1])
    assert found("tpr", half) == found("tpr", without) and found("tpr", half).n == 3
    assert found("auc", half) == found("auc", without)  # the interval, too
    assert (found("fpr_correct", half).n, found("fpr_correct", half).mean) == (3, pytest.approx(1 / 3))
