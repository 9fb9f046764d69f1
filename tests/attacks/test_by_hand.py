"""Steps worked out by hand on a linear model, and against an independent NumPy transcription."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conftest import Linear, make_images, make_linear
from jax.tree_util import Partial

from deepsec_jax.attacks import BIM, FGSM, PGD, RFGSM, RLLC, UMIFGSM, losses, parts
from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.rfgsm import fair_signs
from deepsec_jax.randomness import example_keys

# One image of three pixels, two classes: z0 - z1 = 2 a - b + 0 c - 0.2.
MODEL = Linear(jnp.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), jnp.array([0.0, 0.2]))
X = jnp.array([0.5, 0.1, 0.9]).reshape(1, 1, 3, 1)
Y = jnp.array([0])


def test_fgsm_moves_each_pixel_against_its_weight():
    # grad (z1 - z0) = (-2, +1, 0): down, up, not at all.
    x_adv = FGSM(eps=0.2)(MODEL, X, Y)
    np.testing.assert_allclose(np.ravel(x_adv), [0.3, 0.3, 0.9], atol=1e-7)
    to_zero = FGSM(eps=0.2, targeted=True)(MODEL, X, Y)
    np.testing.assert_allclose(np.ravel(to_zero), [0.7, 0.0, 0.9], atol=1e-7)  # 0.1 - 0.2 stops at the box


def test_rfgsm_goes_alpha_at_random_and_the_rest_of_eps_along_the_gradient():
    """Where both steps agree a pixel moves by eps, where they do not by eps - 2 alpha."""
    eps, alpha, key = 0.3, 0.1, jax.random.key(0)
    model, x = make_linear((8, 8, 1), seed=2), 0.4 + 0.2 * make_images(20, (8, 8, 1))
    labels = jnp.argmax(model(x), axis=-1)
    weights, rows = np.asarray(model.weights, np.float64), np.arange(20)
    signs = np.asarray(fair_signs(split_keys(example_keys(key, 20)).attack, x.shape[1:]))
    for attack, goal, up in (
        (RFGSM(eps=eps, alpha=alpha, loss=losses.max_margin), labels, 1.0),
        (RLLC(eps=eps, alpha=alpha, loss=losses.max_margin), jnp.argmin(model(x), axis=-1), -1.0),
    ):
        halfway = np.asarray(x, np.float64) + alpha * signs
        logits = halfway.reshape(20, -1) @ weights + np.asarray(model.bias, np.float64)
        goal = np.asarray(goal)
        logits[rows, goal] = -np.inf
        gradient = (weights[:, logits.argmax(1)] - weights[:, goal]).T.reshape(x.shape)
        expected = halfway + (eps - alpha) * up * np.sign(gradient)
        x_adv = attack(model, x, labels, key=key)
        np.testing.assert_allclose(x_adv, expected, atol=1e-6)
        moved = np.round(np.abs(np.asarray(x_adv - x, np.float64)), 5)
        assert set(np.unique(moved)) == {0.1, 0.3} and 0.4 < (moved == 0.3).mean() < 0.6


def test_bim_l2_walks_along_the_normal():
    # Each step is 0.1 g / ||g|| with g = (-2, 1, 0); two steps stay inside the ball of 0.15 by projection.
    x_adv = BIM(eps=0.15, step_size=0.1, steps=2, norm="l2")(MODEL, X, Y)
    expected = np.ravel(X) + 0.15 * np.array([-2.0, 1.0, 0.0]) / np.sqrt(5.0)
    np.testing.assert_allclose(np.ravel(x_adv), expected, atol=1e-6)


def test_shrinking_steps_come_to_rest_where_equal_ones_circle():
    # The gap falls with each pixel's distance to the image within 0.03, whose gap is 0: the best there is.
    x = 0.1 + 0.8 * make_images(4, (5, 5, 1))
    best = x + jax.random.uniform(jax.random.key(2), x.shape, minval=-0.03, maxval=0.03)

    def gap(x):
        return -jnp.sum(jnp.abs(x - best), axis=(1, 2, 3))

    def model(x):
        return jnp.stack([jnp.zeros(len(x)), gap(x)], axis=1)

    def left(rule):
        pgd = PGD(eps=0.1, step_size=0.02, steps=50, start=parts.at_input, rule=rule)
        return -float(gap(pgd(Partial(model), x, jnp.zeros(4, jnp.int32))).mean()) / 25

    assert left(parts.Cosine(50.0)) < 0.001 < 0.003 < left(parts.Steepest())


def test_cosine_by_hand():
    rule, gradient = parts.Cosine(4.0), jnp.full((1, 1, 1, 1), -3.0)
    state, steps = rule.init(gradient), []
    for _ in range(6):
        step, state = rule.update(gradient, state, 0.2, "linf")
        steps.append(float(step[0, 0, 0, 0]))
    expected = -0.2 * np.array([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0, 0.0])
    np.testing.assert_allclose(steps, expected, atol=1e-7)


def test_cosine_shortens_the_steps_of_any_rule():
    # Along g / ||g||_1 = 1, -1, -1 the momentum is 1, -0.5, -1.25 by 0.5, and 1, 0.5, -0.25 by 1.5.
    for decay, signs in ((0.5, [1.0, -1.0, -1.0]), (1.5, [1.0, 1.0, -1.0])):
        rule, steps = parts.Cosine(4.0, parts.Momentum(decay)), []
        state = rule.init(jnp.zeros((1, 1, 1, 1)))
        for gradient in (3.0, -0.1, -7.0):
            step, state = rule.update(jnp.full((1, 1, 1, 1), gradient), state, 0.2, "linf")
            steps.append(float(step[0, 0, 0, 0]))
        expected = 0.2 * np.array(signs) * np.array([1.0, 0.5 + 0.5**1.5, 0.5])
        np.testing.assert_allclose(steps, expected, atol=1e-7)


def test_momentum_by_hand_row_by_row():
    """Each row's gradient counts by its own L1 norm, whatever the others' are."""
    rule = parts.Momentum(0.5)
    first, second = (
        jnp.asarray(rows).reshape(2, 1, 2, 1)
        for rows in ([[1.0, -3.0], [100.0, 300.0]], [[2.0, 2.0], [0.0, -5.0]])
    )
    _, state = rule.update(first, rule.init(first), 0.1, "linf")
    np.testing.assert_allclose(np.asarray(state).reshape(2, 2), [[0.25, -0.75], [0.25, 0.75]], rtol=1e-6)
    step, state = rule.update(second, state, 0.1, "linf")
    np.testing.assert_allclose(np.asarray(state).reshape(2, 2), [[0.625, 0.125], [0.125, -0.625]], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(step).reshape(2, 2), [[0.1, 0.1], [0.1, -0.1]], rtol=1e-6)


def test_an_optax_rule_climbs():
    model, x = make_linear(classes=2, seed=4), 0.4 + 0.2 * make_images(6)
    labels = jnp.argmax(model(x), axis=-1)
    rule = parts.Optax(optax.scale_by_adam())
    x_adv = PGD(eps=0.1, step_size=0.02, steps=10, start=parts.at_input, rule=rule)(model, x, labels)
    normal = (model.weights @ jnp.array([1.0, -1.0])).reshape(1, 4, 4, 1)  # of z_0 - z_1
    best = x + 0.1 * jnp.sign(normal) * jnp.where(labels == 0, -1.0, 1.0)[:, None, None, None]
    np.testing.assert_allclose(x_adv, best, atol=1e-5)


def numpy_momentum(weights, bias, x, labels, eps, step_size, steps, decay):
    """Dong et al.'s update in float64 on a linear model with the max-margin loss; keep-best included."""
    rows = np.arange(len(x))
    flat = x.reshape(len(x), -1).astype(np.float64)
    point, momentum = flat.copy(), np.zeros_like(flat)
    best, best_rank = flat.copy(), np.full((len(x), 2), -np.inf)
    for step in range(steps + 1):
        logits = point @ weights + bias
        others = logits.copy()
        others[rows, labels] = -np.inf
        rival = others.argmax(1)
        margin = others.max(1) - logits[rows, labels]
        rank = np.stack([logits.argmax(1) != labels, margin], axis=1)
        takes = (rank[:, 0] > best_rank[:, 0]) | (
            (rank[:, 0] == best_rank[:, 0]) & (rank[:, 1] > best_rank[:, 1])
        )
        best[takes], best_rank[takes] = point[takes], rank[takes]
        if step == steps:
            break
        gradient = (weights[:, rival] - weights[:, labels]).T
        momentum = decay * momentum + gradient / np.abs(gradient).sum(1, keepdims=True)
        point = np.clip(np.clip(point + step_size * np.sign(momentum), flat - eps, flat + eps), 0, 1)
    return best.reshape(x.shape)


def test_signs_are_fair_and_independent():
    """Against the binomial law: each pixel's, each row's and each pair of neighbours' sum of signs."""
    keys = jax.random.split(jax.random.key(0), 4000)
    signs = np.asarray(fair_signs(keys, (3, 5, 3)), np.float64).reshape(4000, 45)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    pairs = signs[:, 1:] * signs[:, :-1]
    for sums in (signs.sum(axis=0), pairs.sum(axis=0)):
        assert np.abs(sums).max() <= 4.5 * np.sqrt(4000)
    assert abs(signs.sum(axis=1).var() / 45 - 1) < 0.15
    repeated = np.repeat(signs[:, :1], 44, axis=1) * signs[:, :44]  # planted: a pixel against itself
    assert np.abs(repeated.sum(axis=0)).max() > 4.5 * np.sqrt(4000)


def test_momentum_against_numpy():
    model, x = make_linear(seed=4), make_images(rows=16, seed=8)
    labels = jnp.argmax(model(x), axis=-1)
    expected = numpy_momentum(
        np.asarray(model.weights, np.float64), np.asarray(model.bias, np.float64), np.asarray(x),
        np.asarray(labels), 0.2, 0.05, 6, 0.8,
    )  # fmt: skip
    x_adv = UMIFGSM(eps=0.2, step_size=0.05, steps=6, decay=0.8, loss=losses.max_margin)(model, x, labels)
    np.testing.assert_allclose(x_adv, expected, atol=1e-5)


def test_pgd_reaches_the_optimum_of_a_linear_model():
    """With the box out of reach the best L-inf and L2 points are known in closed form."""
    weights = 0.1 * jax.random.normal(jax.random.key(0), (16, 2))
    model = Linear(weights, jnp.zeros(2))
    x = jnp.full((1, 4, 4, 1), 0.5)
    labels = jnp.argmax(model(x), axis=-1)
    normal = np.asarray(weights[:, 1 - labels[0]] - weights[:, labels[0]])
    start = float(losses.max_margin(model(x), labels)[0])
    for norm, gain in (("linf", np.abs(normal).sum()), ("l2", np.linalg.norm(normal))):
        attack = PGD(eps=0.3, step_size=0.1, steps=20, norm=norm)
        reached = losses.max_margin(model(attack(model, x, labels, key=jax.random.key(1))), labels)[0]
        np.testing.assert_allclose(float(reached), start + 0.3 * gain, rtol=1e-4)
