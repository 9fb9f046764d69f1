"""What logits say, by hand: an answer or none, the class it names, success, the least likely class."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FLOAT16

from deepsec_jax.answers import NO_CLASS, answered, least_likely, named, succeeded

NAN, INF = np.nan, np.inf
ROWS = [
    ([1.0, 3.0, 2.0], True, 1, 0),
    ([1.0, 1.0, -5.0], True, 0, 2),  # the lower class of equals
    ([-INF, 3.0, 2.0], True, 1, 2),  # a masked class is never named, and nothing leads there
    ([-INF, -INF, 2.0], True, 2, 2),
    ([-INF, -INF, -INF], False, NO_CLASS, 0),  # no class is left
    ([NAN, 3.0, 2.0], False, NO_CLASS, 2),  # argmax would name the NaN
    ([1.0, 3.0, NAN], False, NO_CLASS, 0),
    ([NAN, NAN, NAN], False, NO_CLASS, 0),
    ([INF, 3.0, 2.0], False, NO_CLASS, 2),
    ([1.0, -INF, INF], False, NO_CLASS, 0),
    ([NAN, -INF, 2.0], False, NO_CLASS, 2),
]
LOGITS = np.array([row[0] for row in ROWS], np.float32)
ANSWERED, NAMED, LEAST = (np.array([row[index] for row in ROWS]) for index in (1, 2, 3))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, FLOAT16])
def test_by_hand(dtype):
    logits = jnp.asarray(LOGITS, dtype)
    np.testing.assert_array_equal(answered(logits), ANSWERED)
    np.testing.assert_array_equal(named(logits), NAMED)
    np.testing.assert_array_equal(least_likely(logits), LEAST)
    for label in range(3):
        labels = jnp.full(len(ROWS), label)
        fooled, hit = (succeeded(logits, labels, targeted=targeted) for targeted in (False, True))
        np.testing.assert_array_equal(fooled, ANSWERED & (NAMED != label))
        np.testing.assert_array_equal(hit, ANSWERED & (NAMED == label))
        # Planted: the argmax alone calls a NaN in class 0 a success for every label but 0, and a hit for 0.
        assert np.any((np.asarray(logits, np.float32).argmax(axis=1) != label) & ~ANSWERED)


def test_no_answer_is_equal_to_no_label():
    logits = jnp.full((2, 3), NAN)
    for targeted in (False, True):
        assert not succeeded(logits, jnp.array([NO_CLASS, 0]), targeted=targeted).any()


def test_any_leading_axes_and_integers():
    logits = jnp.asarray(LOGITS[:10].reshape(2, 5, 3))
    np.testing.assert_array_equal(named(logits), NAMED[:10].reshape(2, 5))
    votes = jnp.array([[0, 7, 3], [2, 2, 1]])
    np.testing.assert_array_equal(named(votes), [1, 0])
    assert answered(votes).all()
