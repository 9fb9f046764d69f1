"""Orders that cannot be, image by image: McNemar's test by hand, and no alarm from noise."""

import numpy as np
import pytest
from scipy import stats

from deepsec_jax.studies.defenses.inconsistencies import MASKING, UNFINISHED, inconsistencies, paired


def ones(*shares, n=100):
    """Columns of 1 and 0: correct on the first so many images."""
    return [(np.arange(n) < share).astype(float) for share in shares]


def test_pairs_are_counted_and_tested_as_mcnemar_does():
    first, second = np.array([1, 1, 1, 0, 1, 0.0]), np.array([0, 0, 1, 1, 1, 0.0])
    pair = paired(first, second)
    assert (pair.higher, pair.lower) == (2, 1) and pair.gap == pytest.approx(1 / 6)
    assert pair.p == pytest.approx(4 / 8)  # P(at least 2 of 3 fair coins)
    assert not pair.above
    assert paired(first, first).p == 1.0 and not paired(first, first).above
    assert paired(np.zeros(0), np.zeros(0)).p == 1.0


def test_one_more_image_decides():
    """Six images for it and none against are 1 in 64: flagged; five are 1 in 32: not yet."""
    for more, flagged in ((5, False), (6, True)):
        white_box, replayed = ones(50 + more, 50)
        assert [flag.label for flag in inconsistencies({"white_box": white_box, "replayed": replayed})] == (
            [MASKING] if flagged else []
        )


def test_order_as_it_should_be_has_no_flag():
    replayed, white_box, adaptive = ones(90, 60, 40)
    assert inconsistencies({"replayed": replayed, "white_box": white_box, "adaptive": adaptive}) == []
    assert inconsistencies({"replayed": replayed}) == [] and inconsistencies({}) == []


def test_adaptive_above_either_is_unfinished_and_says_above_which():
    replayed, white_box, adaptive = ones(90, 40, 60)
    (flag,) = inconsistencies({"replayed": replayed, "white_box": white_box, "adaptive": adaptive})
    assert flag.label == UNFINISHED
    assert "adaptive 60.0 % is above white-box 40.0 % of n = 100 (20 images for, 0 against" in flag.text
    both = inconsistencies({"replayed": white_box, "white_box": white_box, "adaptive": adaptive})
    assert [flag.label for flag in both] == [UNFINISHED] * 2


def test_noise_is_not_flagged_more_often_than_it_says():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        first, second = rng.uniform(size=(2, 200)) < 0.5
        alarms += paired(first.astype(float), second.astype(float)).above
    assert stats.binomtest(alarms, 400, 0.025, alternative="greater").pvalue > 0.01


def test_shares_of_draws_are_compared_by_their_sign():
    rng = np.random.default_rng(1)
    shares = rng.integers(0, 8, size=50) / 10
    pair = paired(shares + 0.1, shares)
    assert (pair.higher, pair.lower) == (50, 0) and pair.above and not paired(shares, shares + 0.1).above
