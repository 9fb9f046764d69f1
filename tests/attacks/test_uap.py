"""UAP: one vector for all, fitted once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images

from deepsec_jax import attacks
from deepsec_jax.attacks import PGD, UAP, DeepFool, Perturbation, prepare
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def fitted(digits_model):
    model, x, _ = digits_model
    return UAP(eps=0.3, passes=6, fooling_rate=0.9).fit(model, x, key=KEY)


def test_adds_one_vector_inside_the_ball_and_the_box(fitted, digits_model):
    model, x, labels = digits_model
    x_adv = np.asarray(fitted(model, x, labels), np.float64)
    delta = np.asarray(fitted.delta, np.float64)
    np.testing.assert_allclose(x_adv, np.clip(np.asarray(x, np.float64) + delta, 0, 1), atol=1e-6)
    assert np.abs(delta).max() <= 0.3 + 1e-7


def test_fools_more_than_noise_and_less_than_pgd(fitted, digits_model):
    """G.11; and a random sign pattern of the same size is weaker."""
    model, x, labels = digits_model

    def rate(x_adv):
        return float(judge(model, x, x_adv, labels).success.mean())

    signs = jax.random.rademacher(KEY, x.shape[1:], jnp.float32)
    noise = Perturbation(0.3 * signs, jnp.zeros(0))
    assert rate(noise(model, x, labels)) < rate(fitted(model, x, labels))
    assert rate(fitted(model, x, labels)) <= rate(PGD(eps=0.3, steps=15)(model, x, labels, key=KEY))


def test_the_curve_says_what_the_kept_vector_does(fitted, digits_model):
    model, x, _ = digits_model
    before = jnp.argmax(model(x), axis=-1)
    after = jnp.argmax(model(fitted(model, x, before)), axis=-1)
    assert float(fitted.fooling_rates.max()) == pytest.approx(float((before != after).mean()), abs=1e-6)
    assert 1 <= len(fitted.fooling_rates) <= 6


def test_fitting_stops_at_the_wanted_rate(digits_model):
    model, x, _ = digits_model
    seen = []
    UAP(eps=0.5, fooling_rate=0.05).fit(model, x, key=KEY, on_pass=lambda *told: seen.append(told))
    assert seen[-1][1] >= 0.05 and all(rate < 0.05 for _, rate in seen[:-1])


def test_same_key_same_vector(linear, images):
    fits = [UAP(passes=2, fooling_rate=1.0).fit(linear, images, key=key) for key in (KEY, KEY)]
    np.testing.assert_array_equal(fits[0].delta, fits[1].delta)


def test_unfitted_is_an_error_that_says_so(linear, images):
    with pytest.raises(ValueError, match=r"fit\(model, train_images"):
        UAP()(linear, images, jnp.zeros(8, jnp.int32))
    with pytest.raises(ValueError, match="N >= 1"):
        UAP().fit(linear, images[:0], key=KEY)


def test_prepare_fits_what_must_be_fitted_only(linear):
    train = make_images(rows=20)
    assert isinstance(prepare(UAP(passes=1), linear, train, key=KEY), Perturbation)
    fgsm = attacks.FGSM()
    assert prepare(fgsm, linear, None, key=KEY) is fgsm


def test_all_passes_share_one_compile(digits_model, compiles):
    model, x, _ = digits_model  # loaded from a checkpoint: its weights are bound to a device
    with compiles() as count:
        fitted = UAP(eps=0.01, passes=3, inner_steps=2).fit(model, x[:40], key=KEY)
        assert len(fitted.fooling_rates) == 3 and count("_one_pass") == 1


def in_turn(model, batches, eps):
    """v after one pass over these batches: the sum of what DeepFool finds that each image lacks at v."""
    v = np.zeros(batches[0].shape[1:], np.float32)
    for batch in batches:
        clean = jnp.argmax(model(batch), axis=-1)
        at_v = jnp.clip(batch + v[None], min=0.0, max=1.0)
        lacking = np.asarray(DeepFool(steps=10)(model, at_v, clean) - at_v)
        v = np.clip(v + lacking.sum(axis=0), -eps, eps)
    return v


def test_a_pass_adds_up_what_the_images_of_a_batch_lack(linear, images):
    images = 0.3 + 0.4 * images  # far from the ends of the box
    uap = UAP(eps=1.0, passes=1)
    whole = uap.fit(linear, images, key=KEY, batch_size=8).delta
    np.testing.assert_allclose(whole, in_turn(linear, [images], 1.0), atol=1e-5)
    assert not np.allclose(whole, in_turn(linear, [images], 1.0) / 8, atol=1e-3)  # planted: their mean
    two = images[:2]
    one_by_one = uap.fit(linear, two, key=KEY, batch_size=1).delta
    orders = [in_turn(linear, [two[a : a + 1], two[b : b + 1]], 1.0) for a, b in ((0, 1), (1, 0))]
    assert any(np.allclose(one_by_one, v, atol=1e-5) for v in orders)
    alone = sum(in_turn(linear, [two[a : a + 1]], 1.0) for a in (0, 1))
    assert not np.allclose(one_by_one, alone, atol=1e-3)  # planted: what the clean images lack


def test_the_best_pass_is_kept_and_not_the_last(linear):
    """Of a few keys there is one whose last pass fools fewer than one before it."""
    x = make_images(rows=24, seed=3)
    before = jnp.argmax(linear(x), axis=-1)
    for seed in range(20):
        fitted = UAP(eps=0.1, passes=5, fooling_rate=1.0).fit(
            linear, x, key=jax.random.key(seed), batch_size=4
        )
        rates = np.asarray(fitted.fooling_rates)
        if rates[-1] < rates.max():
            break
    assert rates[-1] < rates.max(), "none of the keys shows it"
    now = float((jnp.argmax(linear(fitted(linear, x, before)), axis=-1) != before).mean())
    assert now == pytest.approx(rates.max(), abs=1e-6)


def test_images_come_in_another_order_in_every_pass(linear, images):
    one, other = (
        UAP(passes=1).fit(linear, images, key=key, batch_size=1).delta for key in jax.random.split(KEY)
    )
    assert not np.allclose(one, other, atol=1e-4)
