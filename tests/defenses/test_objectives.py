"""The losses of NAT, EAT, PAT, DD and IGR against something worked out elsewhere."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_images, make_linear
from few import asked_of_training, base, digits, few, fitted, weights  # noqa: F401
from flax import nnx
from scipy import special, stats

from deepsec_jax import attacks, data, training
from deepsec_jax.defenses import DEFENSES, eat
from deepsec_jax.defenses.adversarial import PerImageEps, RobustAccuracy, mixed_loss, warmed
from deepsec_jax.defenses.dd import AtTemperature, Distilled, soft_labels
from deepsec_jax.defenses.eat import Ensemble, draw_source
from deepsec_jax.defenses.igr import Penalised
from deepsec_jax.defenses.nat import _Objective as NatLoss
from deepsec_jax.training import frozen


def law_of_eps(draw):
    """p-value of a Kolmogorov-Smirnov test of what lies below the upper end, and the share at it."""
    eps = np.asarray(draw(jax.random.key(0), 4000), np.float64)
    inside = eps[eps < 0.3 - 1e-6]
    half_normal = stats.halfnorm(scale=50 / 255)
    below = half_normal.cdf(0.3)
    return (
        stats.kstest(inside, lambda e: half_normal.cdf(e) / below).pvalue,
        (eps >= 0.3 - 1e-6).mean(),
        below,
    )


def test_nats_eps_is_half_normal():
    law = PerImageEps(sigma=50.0, largest=0.3)
    p, at_end, below = law_of_eps(law.draw)
    assert p > 0.01 and abs(at_end - (1 - below)) < 0.025

    def without_absolute_value(key, rows):  # as the paper's text has it: half of them are 0
        return jnp.clip(50.0 / 255.0 * jax.random.normal(key, (rows,)), min=0.0, max=0.3)

    assert law_of_eps(without_absolute_value)[0] < 1e-6


def test_mixed_loss_by_hand():
    class Sum:
        def __call__(self, x, *, rngs):
            del rngs
            s = x.sum(axis=(1, 2, 3))
            return jnp.stack([s, jnp.zeros_like(s)], axis=-1)

    x, x_adv = jnp.full((1, 1, 1, 1), 0.5), jnp.full((1, 1, 1, 1), 0.25)
    labels = jnp.array([0])
    loss = mixed_loss(Sum(), x, x_adv, labels, jax.random.key(0), 1.0, 0.3)
    by_hand = (np.log1p(np.exp(-0.5)) + 0.3 * np.log1p(np.exp(-0.25))) / 1.3
    assert np.isclose(float(loss), by_hand, rtol=1e-6)


def test_nats_loss_is_the_clean_one_and_weight_times_that_of_llc_under_each_images_own_eps(tiny_cnn):
    x, labels, key = make_images(6, (8, 8, 1)), jnp.arange(6), jax.random.key(5)
    law = PerImageEps(sigma=50.0, largest=0.3)
    ours = float(NatLoss(law, 0.3)(tiny_cnn, x, labels, key))
    eps = np.asarray(law.draw(jax.random.split(key)[0], 6))
    assert len(np.unique(eps)) > 3
    x_adv = np.concatenate(
        [attacks.LLC(eps=float(eps[i]))(tiny_cnn, x[i : i + 1], labels[i : i + 1]) for i in range(6)]
    )
    clean, attacked = (
        -special.log_softmax(np.asarray(tiny_cnn(images), np.float64), axis=1)[
            np.arange(6), np.arange(6)
        ].mean()
        for images in (x, jnp.asarray(x_adv))
    )
    assert ours == pytest.approx((clean + 0.3 * attacked) / 1.3, rel=1e-5)
    assert ours != pytest.approx((0.3 * clean + attacked) / 1.3, rel=1e-3)  # planted: the weight turned round


# --- EAT


def test_eats_sources_are_drawn_uniformly():
    numbers = np.asarray(jax.vmap(lambda key: draw_source(key, 5))(jax.random.split(jax.random.key(1), 5000)))
    counts = np.bincount(numbers, minlength=5)
    assert len(counts) == 5 and stats.chisquare(counts).pvalue > 0.01
    assert stats.chisquare(counts + np.array([300, -300, 0, 0, 0])).pvalue < 1e-6  # planted


def test_eat_draws_among_the_network_itself_and_all_static_ones(tiny_cnn, monkeypatch):
    counts = []
    monkeypatch.setattr(eat, "draw_source", lambda key, count: counts.append(count) or jnp.array(count - 1))
    ensemble = Ensemble(attacks.RFGSM(eps=0.2, alpha=0.05), (tiny_cnn, tiny_cnn))
    ensemble(tiny_cnn, make_images(6, (8, 8, 1)), jnp.arange(6), jax.random.key(7))
    assert counts == [3]


def test_eats_examples_are_those_of_the_source_that_was_drawn():
    networks = [make_linear(seed=seed) for seed in range(3)]
    attack = attacks.RFGSM(eps=0.2, alpha=0.05)
    ensemble = Ensemble(attack, tuple(networks[1:]))
    x, key = make_images(), jax.random.key(7)
    for number, network in enumerate(networks):
        ours = ensemble.examples(networks[0], x, jnp.array(number), key)
        alone = attack(network, x, network(x).argmax(-1), key=key)
        assert np.allclose(ours, alone, atol=1e-6)
        assert not np.allclose(
            ours, attack(networks[number - 1], x, network(x).argmax(-1), key=key), atol=1e-6
        )


# --- PAT


def test_eps_warms_up_linearly():
    pat = DEFENSES["pat"](eps=0.3, step_size=0.1, warmup=0.5)
    objective = pat.objective()
    for done, eps in ((0.0, 0.0), (0.25, 0.15), (0.5, 0.3), (1.0, 0.3)):
        now = objective.at(jnp.array(done))
        assert np.isclose(float(now.attack.eps), eps) and np.isclose(float(now.attack.step_size), eps / 3)
    assert float(warmed(0.3, 0.0, jnp.array(0.0))) == pytest.approx(0.3)  # none asked for: at once


def test_pat_learns_from_adversarial_examples_only(tiny_cnn):
    x, labels, key = jnp.zeros((4, 8, 8, 1)) + 0.5, jnp.arange(4), jax.random.key(2)
    only = DEFENSES["pat"](eps=0.2, step_size=0.1, steps=2).objective()
    half = DEFENSES["pat"](eps=0.2, step_size=0.1, steps=2, natural=1.0).objective()
    clean = training.cross_entropy(tiny_cnn, x, labels, key)
    adversarial, mixed = only(tiny_cnn, x, labels, key), half(tiny_cnn, x, labels, key)
    assert float(adversarial) > float(clean)
    assert np.isclose(float(mixed), (float(clean) + float(adversarial)) / 2, rtol=1e-5)


class TurnedInTraining(nnx.Module):
    """A linear network of two classes whose logits change their sign in training."""

    def __init__(self):
        self.deterministic = False
        self.weights = nnx.Param(jnp.outer(jnp.arange(1.0, 5.0), jnp.array([1.0, -1.0])))

    def set_view(self, deterministic: bool):
        self.deterministic = deterministic

    def __call__(self, x, *, rngs=None):
        sign = 1.0 if self.deterministic else -1.0
        return sign * x.reshape(len(x), -1) @ self.weights[...]


def test_pat_attacks_the_network_as_it_answers_when_training_is_over():
    network, x, labels = TurnedInTraining(), jnp.full((3, 2, 2, 1), 0.5), jnp.array([0, 0, 1])
    pat = DEFENSES["pat"](eps=0.2, step_size=0.4, steps=2).objective()
    ours = float(pat(network, x, labels, jax.random.key(0)))
    way = np.where(np.asarray(labels) == 0, -0.2, 0.2)  # every pixel lowers or raises the margin
    margin = 2 * (0.5 + way) * 10 * np.where(np.asarray(labels) == 0, 1, -1)
    # What is learned from is the answer in training, whose margin is the negative one.
    assert ours == pytest.approx(np.log1p(np.exp(margin)).mean(), rel=1e-5)


def test_no_gradient_flows_through_the_attack(tiny_cnn):
    graph, params = nnx.split(tiny_cnn)
    x, labels = jnp.zeros((2, 8, 8, 1)) + 0.5, jnp.arange(2)
    attack = attacks.FGSM(eps=0.1)

    def moved(params, hold):
        model = nnx.merge(graph, params)
        return (attack(frozen(model), x, labels) if hold else frozen(model)(x)).sum()

    for hold in (True, False):
        gradient = jax.grad(moved)(params, hold)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    unfrozen = jax.grad(lambda params: nnx.merge(graph, params)(x).sum())(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(unfrozen))


def test_free_training_carries_the_perturbation():
    free = DEFENSES["pat"](eps=0.2, step_size=0.15, replays=3).objective()
    carried = jnp.zeros((2, 2, 2, 1))
    gradient = jnp.array([1.0, -1.0]).reshape(2, 1, 1, 1) * jnp.ones_like(carried)
    once = free.moved(carried, gradient)
    twice = free.moved(once, gradient)
    assert np.allclose(np.abs(once), 0.15) and np.allclose(np.abs(twice), 0.2)  # at most eps
    assert float(free.perturbed(jnp.ones_like(carried), twice).max()) == 1.0  # in the box


def test_free_training_updates_the_network_at_every_replay(base, digits):
    def after(replays):
        pat = DEFENSES["pat"](eps=0.1, step_size=0.1, replays=replays, judge_steps=2)
        with jax.numpy_dtype_promotion("standard"):
            return weights(pat.fit(base, digits, key=jax.random.key(0)))[0]

    assert not np.array_equal(after(1), after(2))


def test_robust_accuracy_is_accuracy_under_the_attack(digits_model):
    model, x, labels = digits_model
    split = data.Split(np.asarray(x[:50]), np.asarray(labels[:50]))
    unmoved = RobustAccuracy(attacks.FGSM(eps=0.0), batch_size=16)(model, split)
    attacked = RobustAccuracy(attacks.FGSM(eps=0.3), batch_size=16)(model, split)
    x_adv = attacks.FGSM(eps=0.3)(model, x[:50], labels[:50])
    assert unmoved == 1.0
    assert attacked == pytest.approx(float((model(x_adv).argmax(-1) == labels[:50]).mean()))


def test_pats_epoch_is_the_most_robust_one(base, digits, digits_model, monkeypatch):
    pat = DEFENSES["pat"](eps=0.2, steps=2, judge_steps=4)
    (asked,) = asked_of_training(pat, base, digits, monkeypatch)
    model, x, labels = digits_model
    right = data.Split(np.asarray(x), np.asarray(labels))
    judges = attacks.PGD(eps=0.2, step_size=2.5 * 0.2 / 4, steps=4)
    assert asked["score"](model, right) == RobustAccuracy(judges)(model, right) < 0.5
    assert training.accuracy(model, right) == 1.0  # planted: on clean images it is another figure
    assert asked["watch"]["clean"](model, right) == 1.0
    assert asked["score"](model, right) < asked["watch"]["one_step"](model, right) < 1.0


# --- DD


def test_soft_labels_and_both_losses_by_scipy():
    teacher, student = make_linear(seed=0), make_linear(seed=1)
    x, labels = make_images(rows=5), jnp.array([0, 1, 2, 0, 1])
    t = 50.0
    soft = special.softmax(np.asarray(teacher(x), np.float64) / t, axis=1)
    assert np.allclose(soft_labels(teacher, x, t), soft, atol=1e-6)

    class WithRngs:
        def __call__(self, x, *, rngs):
            return student(x)

    log_p = special.log_softmax(np.asarray(student(x), np.float64) / t, axis=1)
    ours = Distilled(teacher, t)(WithRngs(), x, labels, jax.random.key(0))
    assert np.isclose(float(ours), -(soft * log_p).sum(1).mean(), rtol=1e-5)
    ours = AtTemperature(t)(WithRngs(), x, labels, jax.random.key(0))
    assert np.isclose(float(ours), -log_p[np.arange(5), np.asarray(labels)].mean(), rtol=1e-5)


def test_no_validation_image_is_in_the_students_training(fitted):
    folder = fitted[0]
    assert fitted[1]["dd"]
    teacher, student = (training.load_network(folder / name).recipe for name in ("dd-teacher", "dd"))
    assert (teacher.seed, teacher.validation) == (
        student.seed,
        student.validation,
    )  # the same images held out
    other = replace(teacher, seed=teacher.seed + 1)  # planted: another split would share images
    ours, theirs = (
        training.loop.split_validation(data.load("digits").train, recipe) for recipe in (student, other)
    )
    assert not np.array_equal(ours[1].images, theirs[1].images)


def test_dds_surrogate_takes_the_temperature_out(fitted, digits):
    defended, x = fitted[1]["dd"], jnp.asarray(digits.test.images[:4])
    assert np.allclose(defended.surrogate(x) * 50.0, defended.classifier(x), rtol=1e-5)


# --- IGR


def smooth_network(x, params):
    return jnp.tanh(x.reshape(x.shape[0], -1) @ params["a"]) @ params["b"]


class Smooth(nnx.Module):
    def __init__(self, params):
        self.a, self.b = nnx.Param(params["a"]), nnx.Param(params["b"])

    def __call__(self, x, *, rngs):
        return smooth_network(x, {"a": self.a[...], "b": self.b[...]})


def penalty_at(params, x, labels, lam):
    return Penalised(lam)(Smooth(params), x, labels, jax.random.key(0))


def test_igrs_gradient_by_finite_differences():
    with jax.enable_x64(True):
        a, b, x = (
            jax.random.normal(jax.random.key(i), shape, jnp.float64)
            for i, shape in enumerate([(4, 5), (5, 3), (6, 2, 2, 1)])
        )
        params, labels, lam = {"a": a, "b": b}, jnp.array([0, 1, 2, 0, 1, 2]), 1.234
        gradient = jax.grad(penalty_at)(params, x, labels, lam)
        without = jax.grad(penalty_at)(params, x, labels, 0.0)
        step = 1e-6
        for name, place in (("a", (0, 0)), ("a", (3, 4)), ("b", (2, 1))):
            up, down = (
                penalty_at(params | {name: params[name].at[place].add(s)}, x, labels, lam)
                for s in (step, -step)
            )
            numeric = float(up - down) / (2 * step)
            assert np.isclose(float(gradient[name][place]), numeric, rtol=1e-6)
            assert not np.isclose(float(without[name][place]), numeric, rtol=1e-3)  # planted: no penalty


class Normalised(nnx.Module):
    """Two layers with batch statistics between them, in training mode."""

    def __init__(self):
        self.first, self.last = (nnx.Linear(4, 5, rngs=nnx.Rngs(0)), nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs(2))

    def __call__(self, x, *, rngs):
        return self.last(jnp.tanh(self.norm(self.first(x.reshape(x.shape[0], -1)))))


def test_igrs_gradient_is_that_of_double_backpropagation_with_batch_statistics():
    x, labels = make_images(rows=6, shape=(2, 2, 1)), jnp.array([0, 1, 2, 0, 1, 2])
    graph, params, statistics = nnx.split(Normalised(), nnx.Param, ...)

    def ours(params):
        model = nnx.merge(graph, params, statistics, copy=True)
        return Penalised(0.7)(model, x, labels, jax.random.key(0)), nnx.state(model, nnx.BatchStat)

    def by_two_backward_passes(params):
        def total(x):
            model = nnx.merge(graph, params, statistics, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(model(x, rngs=None), labels)
            return losses.sum(), nnx.state(model, nnx.BatchStat)

        (loss, written), gradient = jax.value_and_grad(total, has_aux=True)(x)
        return loss / 6 + 0.7 * jnp.sum(gradient**2) / 6, written

    (value, written), gradient = jax.value_and_grad(ours, has_aux=True)(params)
    (wanted, statistics_once), wanted_gradient = jax.value_and_grad(by_two_backward_passes, has_aux=True)(
        params
    )
    assert np.isclose(value, wanted, rtol=1e-6)
    for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    for got, want in zip(jax.tree.leaves(written), jax.tree.leaves(statistics_once), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_igrs_penalty_by_hand_whatever_the_batch():
    linear = make_linear(classes=3)
    x, labels = make_images(rows=6), jnp.array([0, 1, 2, 2, 1, 0])

    class WithRngs(nnx.Module):
        def __call__(self, x, *, rngs):
            return linear(x)

    def penalty(rows):
        whole = Penalised(2.0)(WithRngs(), x[rows], labels[rows], jax.random.key(0))
        return float(whole - Penalised(0.0)(WithRngs(), x[rows], labels[rows], jax.random.key(0)))

    p = special.softmax(np.asarray(linear(x), np.float64), axis=1)
    gradients = (p - np.eye(3)[np.asarray(labels)]) @ np.asarray(linear.weights, np.float64).T
    assert np.isclose(penalty(np.arange(6)), 2.0 * (gradients**2).sum(1).mean(), rtol=1e-4)
    twice = np.concatenate([np.arange(6), np.arange(6)])
    assert np.isclose(penalty(twice), penalty(np.arange(6)), rtol=1e-4)
