"""APGD against closed forms, the authors' schedule, and its own bookkeeping of work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear

from deepsec_jax.attacks import APGD, BIM, count_calls, losses, parts
from deepsec_jax.attacks.apgd import checkpoints
from deepsec_jax.evaluation import judge
from deepsec_jax.pytree import Struct

KEY = jax.random.key(3)


class Bowl(Struct):
    """Two classes: z_1 - z_0 is largest, and still below 0, at one point of the ball."""

    peak: jax.Array  # [H, W, C]

    def __call__(self, x):
        gap = -1.0 - jnp.sum((x - self.peak[None]) ** 2, axis=(1, 2, 3))
        return jnp.stack([jnp.zeros_like(gap), gap], axis=1)


def test_checkpoints_are_the_authors():
    assert checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert all(at <= 10 for at in checkpoints(10)) and checkpoints(1) == {1: 1}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_unreachable_goal_ends_at_the_best_point_of_the_ball(norm):
    """On a linear model: x + eps sign(w), clipped, or, far from the edges of the box, x + eps w / ||w||_2."""
    weights = jax.random.normal(jax.random.key(0), (12, 2))
    model = Linear(weights, jnp.array([100.0, 0.0]))  # no change within eps reaches class 1
    x = make_images(3, (3, 4, 1)) if norm == "linf" else 0.4 + 0.2 * make_images(3, (3, 4, 1))
    x_adv = APGD(eps=0.2, steps=60, norm=norm)(model, x, jnp.zeros(3, jnp.int32), key=KEY)
    up = np.asarray(weights[:, 1] - weights[:, 0]).reshape(1, 3, 4, 1)
    step = np.sign(up) if norm == "linf" else up / np.linalg.norm(up)
    np.testing.assert_allclose(x_adv, np.clip(np.asarray(x) + 0.2 * step, 0, 1), atol=5e-4)


def test_steps_shrink_until_a_peak_inside_the_ball_is_met():
    x = 0.4 + 0.2 * make_images(4, (4, 4, 1))
    peak = x[0] + 0.1 * jax.random.uniform(KEY, (4, 4, 1), minval=-1.0, maxval=1.0)
    labels = jnp.zeros(4, jnp.int32)

    def missed(attack):
        return float(jnp.max(jnp.abs(attack(Bowl(peak), x[:1], labels[:1], key=KEY)[0] - peak)))

    assert missed(APGD(eps=0.2)) < 0.01
    assert missed(BIM(eps=0.2, step_size=0.4, steps=100)) > 0.05  # planted: steps that do not shrink


def test_no_work_for_rows_that_have_fallen(linear):
    x = make_images(12)
    right = jnp.argmax(linear(x), axis=-1).astype(jnp.int32)
    labels = right.at[:6].set((right[:6] + 1) % 3)  # wrong already
    attack = APGD(eps=1e-4, steps=5, restarts=3, start=parts.at_input)
    spent = count_calls(attack, linear, x, labels)
    np.testing.assert_array_equal(spent.gradients, [1] * 6 + [18] * 6)
    aimed = count_calls(attack.replace(aims=9), linear, x, labels)
    np.testing.assert_array_equal(aimed.gradients, [1] * 6 + [36] * 6)  # of three classes two are wrong
    np.testing.assert_array_equal(aimed.forwards, np.ones(12))


def test_an_aim_that_is_not_the_nearest_is_tried_too():
    """Class 1 is ahead of class 2 on the clean image, but nothing moves it; class 2 is in reach."""
    weights = jnp.zeros((16, 3)).at[:, 2].set(1.0)
    model = Linear(weights, jnp.array([12.0, 11.0, 0.0]))
    x, labels = jnp.full((2, 4, 4, 1), 0.5), jnp.zeros(2, jnp.int32)

    def success(attack):
        return np.asarray(judge(model, x, attack(model, x, labels, key=KEY), labels).success)

    assert success(APGD(eps=0.4, steps=10, aims=2)).all()
    assert not success(APGD(eps=0.4, steps=10, aims=1)).any()


def test_without_stops_the_success_of_highest_loss_comes_back():
    model = make_linear(seed=2)
    x = make_images(8)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)

    def reached(attack):
        x_adv = attack(model, x, labels, key=KEY)
        return np.asarray(losses.logit_gap(model(x_adv), labels)), model(x_adv).argmax(-1) != labels

    first, fooled = reached(APGD(eps=0.3, steps=20))
    best, still = reached(APGD(eps=0.3, steps=20, stops=False))
    assert bool(fooled.all()) and bool(still.all())
    assert (best >= first - 1e-6).all() and best.mean() > first.mean() + 0.1


def test_dlr_to_by_hand():
    logits = jnp.array([[5.0, 1.0, 3.0, 2.0]])
    label, aim = jnp.array([0]), jnp.array([2])
    assert float(losses.dlr_to(logits, label, aim)[0]) == pytest.approx((3 - 5) / (5 - (2 + 1) / 2))
    assert float(losses.dlr_to(7.0 * logits, label, aim)[0]) == pytest.approx(-2 / 3.5)
    assert float(losses.dlr_to(logits[:, :3], label, aim)[0]) == -2.0  # too few classes for a ratio
    assert float(losses.margin_to(logits, label, aim)[0]) == -2.0


def test_aims_and_targets_exclude_each_other():
    with pytest.raises(ValueError, match="aims must be 0"):
        APGD(targeted=True, aims=3)
