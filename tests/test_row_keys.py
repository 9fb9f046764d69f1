"""A randomised model declares itself: its class says which keys are one per row; a shape says nothing."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, Noisy, Scaled, make_images, make_linear
from flax import nnx
from jax.tree_util import Partial

from deepsec_jax import attacks
from deepsec_jax.evaluation import judge
from deepsec_jax.models.wrappers import EOT
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import is_key, is_randomised, reseed

KEY = jax.random.key(0)
LINEAR, X = make_linear(), make_images(8)
LABELS = jnp.arange(8) % 3


def keys(rows=8, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


def data(leaf):
    return np.asarray(jax.random.key_data(leaf))


def folds(keys, number):
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


# --- layers stacked by nnx, whose Dropout has one key per layer


class Block(nnx.Module):
    def __init__(self, rngs, dropout=True):
        self.linear = nnx.Linear(16, 16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if dropout else None

    def __call__(self, x):
        x = x + nnx.tanh(self.linear(x))
        return x if self.dropout is None else self.dropout(x)


class Stack(nnx.Module):
    """Five layers, made by ``nnx.vmap`` and called in one of three ways."""

    def __init__(self, how, dropout=True):
        rngs = nnx.Rngs(0)
        make = nnx.split_rngs(splits=5)(nnx.vmap(partial(Block, dropout=dropout), in_axes=0, out_axes=0))
        self.how = how
        self.blocks, self.out = make(rngs), nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), 16)
        if self.how == "nnx.scan":
            scan = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            return self.out(scan(self.blocks, x))
        if self.how == "nnx.vmap":
            return self.out(nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(self.blocks, x).mean(0))
        return self.out(jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)[0])


def stack(how, *, evaluating=True, **options):
    model = Stack(how, **options)
    if evaluating:
        model.eval()
    return model


HOW = ("nnx.scan", "nnx.vmap", "lax.scan")


@pytest.fixture(scope="module", params=HOW)
def stacks(request):
    """A stack with Dropout, and one of the same weights without."""
    return stack(request.param), stack(request.param, dropout=False)


@pytest.mark.parametrize(
    "attack",
    [attacks.FGSM(eps=0.1), attacks.PGD(eps=0.1, step_size=0.05, steps=2), attacks.DeepFool(steps=3)],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_on_a_stack(stacks, attack):
    dropout, plain = stacks
    assert any(is_key(leaf) and leaf.ndim == 1 for leaf in jax.tree.leaves(dropout)), "a key to be misled by"
    expected = attack(plain, X, LABELS, key=KEY)
    np.testing.assert_array_equal(attack(dropout, X, LABELS, key=KEY), expected)
    assert (expected != X).any()


def test_a_stack_is_not_randomised(stacks):
    dropout, plain = stacks
    assert not is_randomised(dropout) and reseed(dropout, keys()) is dropout
    attack = attacks.FGSM(eps=0.1)
    in_batches = attacks.run_in_batches(attack, dropout, np.asarray(X), np.asarray(LABELS), batch_size=3)
    np.testing.assert_array_equal(in_batches, attack(plain, X, LABELS))
    found, expected = (judge(model, X, X, LABELS) for model in stacks)
    np.testing.assert_array_equal(found.logits, expected.logits)
    # In wrappers: an expectation over draws of what does not draw, and a transfer.
    np.testing.assert_array_equal(attacks.Transfer(attack, EOT(dropout, 2))(LINEAR, X, LABELS), in_batches)


def test_a_randomised_model_around_a_stack(stacks):
    dropout, plain = (Noisy(model, keys()) for model in stacks)
    pgd = attacks.PGD(eps=0.1, step_size=0.05, steps=2)
    np.testing.assert_array_equal(pgd(dropout, X, LABELS, key=KEY), pgd(plain, X, LABELS, key=KEY))
    fresh = reseed(dropout, keys(3))
    assert fresh.keys.shape == (3,)
    layers = [model.base.blocks.dropout.rngs.key[...] for model in (fresh, dropout)]
    np.testing.assert_array_equal(*map(data, layers))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("wrap", [lambda model: model, Scaled, lambda model: Noisy(model, keys())])
def test_training_mode_is_found_in_a_stack(how, wrap):
    model, fgsm = wrap(stack(how, evaluating=False)), attacks.FGSM(eps=0.1)
    for attack in (fgsm, attacks.Transfer(fgsm, model)):
        with pytest.raises(ValueError, match=r"training mode \(blocks.dropout\): call model.eval\(\) first"):
            attack(model, X, LABELS, key=KEY)


class Drawing(nnx.Module):
    """Draws from its own stream in any mode."""

    def __init__(self):
        self.rngs, self.linear = nnx.Rngs(noise=0), nnx.Linear(16, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(x.reshape(len(x), 16)) + jax.random.normal(self.rngs.noise(), (len(x), 3))


@pytest.mark.parametrize("model", [Drawing(), stack("nnx.scan", evaluating=False)], ids=["noise", "dropout"])
def test_what_draws_from_its_own_streams_is_refused(model):
    """A copy of the module is called, so every call would draw the same numbers."""
    with pytest.raises(ValueError, match=r"draws from its own nnx streams|in training mode"):
        judge(model, X, X, LABELS)


# --- the declaration


class InModule(nnx.Module):
    """A randomised nnx module: its keys are a variable."""

    row_keys = ("keys",)

    def __init__(self, rows):
        self.keys = nnx.Variable(keys(rows))
        self.linear = nnx.Linear(16, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        noise = jax.vmap(lambda key: jax.random.normal(key, (16,)))(self.keys[...])
        return self.linear(x.reshape(len(x), 16) + noise)


class Holder(nnx.Module):
    def __init__(self, inner):
        self.inner = nnx.data(inner)

    def __call__(self, x):
        return self.inner(x)


@jax.tree_util.register_dataclass
@dataclass
class OfJax:
    keys: Any
    base: Any
    row_keys = ("keys",)

    def __call__(self, x):
        return Noisy(self.base, self.keys)(x)


def call(model, x):
    return model(x)


WRAPPED = {
    "itself": lambda rows: Noisy(LINEAR, keys(rows)),
    "partial": lambda rows: Partial(call, Noisy(LINEAR, keys(rows))),
    "wrapper": lambda rows: Scaled(Noisy(LINEAR, keys(rows))),
    "EOT": lambda rows: EOT(Noisy(LINEAR, keys(rows)), 2),
    "nnx": InModule,
    "in nnx": lambda rows: Holder(Noisy(LINEAR, keys(rows))),
    "dataclass of jax's": lambda rows: OfJax(keys(rows), LINEAR),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_declaration_is_found_anywhere(name):
    model, pgd = WRAPPED[name](1), attacks.PGD(eps=0.1, step_size=0.05, steps=2)
    assert is_randomised(model)
    fresh = reseed(model, keys(8, seed=3))
    (found,) = [leaf for leaf in jax.tree.leaves(fresh) if is_key(leaf)]
    np.testing.assert_array_equal(data(found), data(folds(keys(8, seed=3), 0)))
    with pytest.raises(ValueError, match="this model draws random numbers: pass key="):
        attacks.FGSM(eps=0.1)(model, X, LABELS)
    whole = pgd(model, X, LABELS, key=KEY)
    half = attacks.run_in_batches(pgd, model, np.asarray(X), np.asarray(LABELS), key=KEY, batch_size=4)
    np.testing.assert_array_equal(half, whole)
    assert (pgd(model, X, LABELS, key=jax.random.key(1)) != whole).any()


class Several(Struct):
    """Two fields of row keys, a third of its own, and a model inside that draws as well."""

    first: jax.Array
    inner: Noisy
    second: jax.Array
    fixed: Any

    row_keys: ClassVar[tuple[str, ...]] = ("second", "first")


def test_several_fields_have_different_numbers_and_others_stay():
    fixed = {"a": keys(3, seed=7), "b": [keys(8, seed=8)]}
    model = Several(keys(), Noisy(LINEAR, keys()), keys(), fixed)
    fresh, given = reseed(model, keys(4, seed=2)), keys(4, seed=2)
    for order, found in enumerate((fresh.first, fresh.inner.keys, fresh.second)):
        np.testing.assert_array_equal(data(found), data(folds(given, order)))
    assert fresh.fixed["a"] is fixed["a"] and fresh.fixed["b"][0] is fixed["b"][0]


class Undeclared(Struct):
    """What our pages told users to write before: a leaf of keys, and not a word about them."""

    base: Any
    keys: Any

    def __call__(self, x):
        return Noisy(self.base, self.keys)(x)


class Fixed(Undeclared):
    """Keys that are no rows': the same few draws for every image."""

    row_keys: ClassVar[tuple[str, ...]] = ()

    def __call__(self, x):
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(self.keys)
        return jnp.mean(jnp.stack([self.base(x + 0.1 * one[None]) for one in noise]), axis=0)


def test_undeclared_keys_are_refused_with_the_remedy():
    model = Undeclared(LINEAR, keys())
    remedy = (
        r"array of PRNG keys \[8\] of which no class says what it is: .*row_keys = \('keys',\) if it is one"
    )
    for use in (
        lambda model: is_randomised(model), lambda model: reseed(model, keys()),
        lambda model: attacks.FGSM(eps=0.1)(model, X, LABELS), lambda model: judge(model, X, X, LABELS),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"leaf \.keys is an {remedy}"):
            use(model)
    with pytest.raises(ValueError, match=rf"leaf \.base\['deep'\]\[0\]\.keys is an {remedy}"):
        is_randomised(Noisy({"deep": [model]}, keys()))
    with pytest.raises(ValueError, match=r"is an array .*for a function: models\.wrappers\.Randomised"):
        is_randomised(Partial(call, keys()))


def test_a_class_says_that_its_keys_are_no_rows():
    model = Fixed(LINEAR, keys(5))
    assert not is_randomised(model) and reseed(model, keys()) is model
    assert judge(model, X, X, LABELS).logits.shape == (8, 3)
    assert attacks.FGSM(eps=0.1)(Scaled(model), X, LABELS).shape == X.shape


@pytest.mark.parametrize(
    ("leaf", "got"),
    [
        (KEY, r"key<fry>\[\]"), (keys().reshape(2, 4), r"key<fry>\[2, 4\]"), (None, "no leaves"),
        (jax.random.PRNGKey(0), r"uint32\[2\]"), ([keys(), keys()], "2 leaves"), (3, "int"),
    ],
)  # fmt: skip
def test_a_declared_field_must_hold_row_keys(leaf, got):
    with pytest.raises(
        ValueError, match=rf"Noisy.row_keys names 'keys', which must hold one PRNG key per row.*{got}"
    ):
        attacks.FGSM(eps=0.1)(Scaled(Noisy(LINEAR, leaf)), X, LABELS, key=KEY)


def test_a_declaration_must_name_fields():
    class Text(Struct):
        keys: Any
        row_keys: ClassVar[Any] = "keys"

    class Static(Struct):
        keys: Any = static(())
        weights: Any = 1.0
        row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    with pytest.raises(
        ValueError, match=r"Text.row_keys must be a tuple of names of fields, \('keys',\), got 'keys'"
    ):
        is_randomised(Text(keys()))
    with pytest.raises(ValueError, match=r"Static\.row_keys names 'keys', which jax does not see as a field"):
        is_randomised(Static())


# --- a function that draws


def smoothed(weights, x, keys):
    return Noisy(Linear(weights, jnp.zeros(3)), keys)(x)


def test_randomised_makes_a_model_of_a_function():
    from deepsec_jax.models.wrappers import Randomised

    plain = Linear(LINEAR.weights, jnp.zeros(3))
    model = Randomised(Partial(smoothed, LINEAR.weights))
    assert is_randomised(model) and model(X).shape == (8, 3)  # also before it is reseeded
    np.testing.assert_array_equal(model(X)[:5], model(X[:5]))
    pgd = attacks.PGD(eps=0.1, step_size=0.05, steps=2)
    np.testing.assert_array_equal(
        pgd(model, X, LABELS, key=KEY), pgd(Noisy(plain, keys()), X, LABELS, key=KEY)
    )
    with pytest.raises(ValueError, match="keys for 3 rows and was given 8"):
        model.replace(keys=keys(3))(X)
