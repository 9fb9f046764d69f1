"""Which iterate is kept, row by row; and on a model where the loss rises while a success is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax.attacks import BIM, losses
from deepsec_jax.attacks.ascent import Best, better

# (success, loss) of the iterate that is kept so far and of the new one, and whether the new one is taken.
PAIRS = [
    ((False, 1.0), (False, 2.0), True),  # neither succeeds: the higher loss
    ((False, 2.0), (False, 1.0), False),
    ((True, 1.0), (True, 2.0), True),  # both succeed: the higher loss
    ((True, 2.0), (True, 1.0), False),
    ((True, 1.0), (False, 9.0), False),  # a success is not lost, whatever the loss
    ((False, 9.0), (True, 1.0), True),
    ((False, 1.0), (False, 1.0), False),  # ties: the earlier one
    ((True, 1.0), (True, 1.0), False),
    ((False, 1.0), (True, np.nan), False),  # never one with a NaN loss
    ((False, -np.inf), (False, np.nan), False),
]


def taken(keep=better):
    """Whether the new one is taken, for each pair; all that is kept must come from the same iterate."""
    (success, loss), (new_success, new_loss) = (
        (jnp.asarray([pair[side][0] for pair in PAIRS]), jnp.asarray([pair[side][1] for pair in PAIRS]))
        for side in (0, 1)
    )
    rows = len(PAIRS)
    found = keep(
        Best(jnp.zeros((rows, 1, 1, 1)), success, loss), jnp.ones((rows, 1, 1, 1)), new_success, new_loss
    )
    takes = np.asarray(found.x).ravel() == 1
    np.testing.assert_array_equal(found.success, np.where(takes, new_success, success))
    np.testing.assert_array_equal(found.loss, np.where(takes, new_loss, loss))
    return takes.tolist()


def test_success_comes_first_then_the_loss_and_the_earlier_of_equals():
    assert taken() == [wanted for _, _, wanted in PAIRS]


def by_loss_alone(best, x, success, loss):
    takes = loss > best.loss
    return Best(*(jnp.where(takes.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
                  for new, old in zip((x, success, loss), best, strict=True)))  # fmt: skip


def test_planted_the_loss_alone_is_seen():
    assert taken(by_loss_alone) != [wanted for _, _, wanted in PAIRS]


def crowd(heights, x):
    """Logits of three rivals, lines through ``heights`` at 0.05, 0.15, ... of the pixel; the label's is 0."""
    at = jnp.clip(10.0 * x[:, 0, 0, 0] - 0.5, min=0.0, max=heights.shape[1] - 1.0)
    rivals = [jnp.interp(at, jnp.arange(heights.shape[1], dtype=jnp.float32), row) for row in heights]
    return jnp.stack([jnp.zeros_like(at), *rivals], axis=1)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_success_is_kept_where_the_loss_goes_on_rising_without_it(steps):
    """One rival is ahead after the first step; then three come near, whose sum is more, and none is ahead."""
    alone, others = (
        [-0.5, 0.1, -0.05, -0.04, -0.03, -0.02, -0.01],
        [-3.0, -1.5, -0.05, -0.04, -0.03, -0.02, -0.01],
    )
    model = jax.tree_util.Partial(crowd, jnp.asarray([alone, others, others]))
    x, labels = jnp.full((1, 1, 1, 1), 0.1), jnp.zeros(1, jnp.int32)
    x_adv = BIM(eps=0.6, step_size=0.1, steps=steps)(model, x, labels)
    np.testing.assert_allclose(x_adv, 0.2, atol=1e-6)
    assert losses.succeeded(model(x_adv), labels, targeted=False).all()
    later = [x_adv + 0.1 * step for step in range(4)]  # planted: where the ascent goes on to
    assert (np.diff([float(losses.logit_gap(model(at), labels)[0]) for at in later]) > 0).all()
    assert not any(losses.succeeded(model(at), labels, targeted=False).any() for at in later[1:])
