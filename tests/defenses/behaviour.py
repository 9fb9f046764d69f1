"""What every randomised defended model and its surrogate must do, as functions that the tests call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax import attacks
from deepsec_jax.randomness import is_randomised, reseed


def keys(rows, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


@jax.jit
def call(model, x):
    return model(x)


def check_rows(model, x, *, exact=True):
    """Rows and keys permuted together change nothing; keys decide everything."""
    rows, order = len(x), np.roll(np.arange(len(x))[::-1], 1)
    assert is_randomised(model)
    same = np.array_equal if exact else (lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-4))
    first = call(reseed(model, keys(rows)), x)
    assert same(call(reseed(model, keys(rows)[order]), x[order]), first[order])
    assert not same(call(reseed(model, keys(rows)), x[order]), first[order])  # planted: keys left behind
    assert np.array_equal(call(reseed(model, keys(rows)), x), first)
    assert not same(call(reseed(model, keys(rows, 1)), x), first)
    assert call(model, x).shape == first.shape  # one key serves a batch
    with pytest.raises(ValueError, match=f"keys for {rows} rows and was given 2: randomness.reseed"):
        reseed(model, keys(rows))(x[:2])


def check_attacks(classifiers, surrogates, x, labels, compiles):
    """FGSM runs on the model, PGD on the surrogate, one compile for all weights; it has gradients."""
    pgd = attacks.PGD(eps=0.1, step_size=0.05, steps=2)
    fgsm = attacks.FGSM(eps=0.1)(classifiers[0], x, labels, key=jax.random.key(0))
    with pytest.raises(ValueError, match="draws random numbers: pass key"):
        attacks.FGSM(eps=0.1)(classifiers[0], x, labels)
    with compiles() as count:
        made = [pgd(model, x, labels, key=jax.random.key(n)) for n, model in enumerate(surrogates)]
        assert count("PGD") == 1
    assert all(float(jnp.abs(x_adv - x).max()) <= 0.1 + 1e-6 for x_adv in (fgsm, *made))
    assert not np.array_equal(*made)
    gradient = gradient_of(surrogates[0], x, labels)
    assert np.isfinite(gradient).all() and (np.abs(gradient).sum((1, 2, 3)) > 0).all()


def gradient_of(model, x, labels):
    """The gradient of every row's logit of its label."""
    at_label = jax.nn.one_hot(labels, 10)
    return np.asarray(jax.jit(jax.grad(lambda x, model: (at_label * model(x)).sum()))(x, model))


def check_expectation(classifier, surrogate, x):
    """The surrogate is the mean over some 30 draws: it varies a fifth as much, around the same value."""
    many, few = (
        np.stack([call(reseed(model, keys(len(x), seed)), x) for seed in range(draws)])
        for model, draws in ((classifier, 120), (surrogate, 8))
    )
    one = many.std(axis=0)
    assert few.std(axis=0).mean() < one.mean() / 3
    assert np.abs(few.mean(axis=0) - many.mean(axis=0)).mean() < one.mean() / 5
