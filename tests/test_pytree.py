"""Keys per example, reseeding of randomised models, static fields."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_linear
from flax import nnx, struct

from deepsec_jax.jit import jit_per_class, kind_of
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import example_keys, is_key, is_randomised, reseed, typed_key

KEY = jax.random.key(0)


def numbers(keys):
    return np.asarray(jax.vmap(jax.random.uniform)(keys))


class Two(Struct):
    """Two leaves of keys, one inside another model."""

    first: jax.Array
    inner: Noisy

    row_keys: ClassVar[tuple[str, ...]] = ("first",)

    def __call__(self, x):
        return self.inner(x) + jax.vmap(jax.random.uniform)(self.first)[:, None]


def two(rows=5):
    return Two(jax.random.split(KEY, rows), Noisy(make_linear(), jax.random.split(KEY, rows)))


def test_one_key_gives_row_i_its_fold_in():
    keys = example_keys(KEY, 5)
    assert keys.shape == (5,) and is_key(keys)
    expected = [jax.random.uniform(jax.random.fold_in(KEY, row)) for row in range(5)]
    np.testing.assert_array_equal(numbers(keys), expected)


def test_keys_are_a_prefix_and_go_on_from_first():
    everything = numbers(example_keys(KEY, 12))
    np.testing.assert_array_equal(numbers(example_keys(KEY, 4)), everything[:4])
    np.testing.assert_array_equal(numbers(example_keys(KEY, 5, first=7)), everything[7:])
    assert len(set(everything.tolist())) == 12
    # what a loop over batches without ``first`` would do: the second batch repeats the first
    assert not np.array_equal(numbers(example_keys(KEY, 5)), everything[7:])


def test_no_rows():
    assert example_keys(KEY, 0).shape == (0,)


def test_keys_per_example_stay_as_they_are():
    keys = jax.random.split(KEY, 6)
    assert example_keys(keys, 6) is keys
    with pytest.raises(ValueError, match=r"one key or 5 keys, one per image, got shape \(6,\)"):
        example_keys(keys, 5)
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        example_keys(keys.reshape(2, 3), 6)


def test_typed_key():
    assert typed_key(KEY) is KEY
    raw = jax.random.PRNGKey(0)
    assert is_key(typed_key(raw)) and typed_key(raw).shape == ()
    np.testing.assert_array_equal(jax.random.uniform(typed_key(raw)), jax.random.uniform(KEY))
    assert typed_key(jnp.stack([raw, raw, raw])).shape == (3,)
    for wrong in (0, 1.5, None, "key", np.zeros(2), jnp.zeros(3, jnp.uint32)):
        with pytest.raises(TypeError, match=r"key must be made by jax\.random\.key\(seed\)"):
            typed_key(wrong)


def test_reseed_returns_a_deterministic_model_itself(linear, tiny_cnn):
    keys = jax.random.split(KEY, 3)
    assert reseed(linear, keys) is linear
    assert reseed(tiny_cnn, keys) is tiny_cnn
    assert reseed(two(), keys) is not two()


def test_reseed_gives_several_leaves_different_numbers():
    keys = jax.random.split(jax.random.key(9), 5)
    fresh = reseed(two(), keys)
    draws = np.concatenate([numbers(fresh.first), numbers(fresh.inner.keys), numbers(keys)])
    assert len(set(draws.tolist())) == 15
    # the planted violation, the same keys in every leaf, has the same numbers twice
    same = two()
    assert len(set(np.concatenate([numbers(same.first), numbers(same.inner.keys)]).tolist())) == 5


def test_reseed_depends_on_the_given_keys_only():
    keys = jax.random.split(jax.random.key(9), 5)
    once, twice = reseed(two(), keys), reseed(reseed(two(), jax.random.split(KEY, 5)), keys)
    for one, other in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        assert np.array_equal(*(np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in (one, other)))
    # row by row: permuted keys are permuted draws
    order = np.array([3, 1, 4, 0, 2])
    np.testing.assert_array_equal(numbers(reseed(two(), keys[order]).first), numbers(once.first)[order])


def test_reseed_leaves_weights_and_may_change_the_number_of_rows():
    model, keys = two(5), jax.random.split(KEY, 3)
    fresh = reseed(model, keys)
    assert fresh.inner.base is not None and fresh.first.shape == fresh.inner.keys.shape == (3,)
    np.testing.assert_array_equal(fresh.inner.base.weights, model.inner.base.weights)


def test_reseed_under_jit_is_one_trace():
    traces = []

    @jax.jit
    def call(model, keys, x):
        traces.append(1)
        return reseed(model, keys)(x)

    x = jnp.full((5, 4, 4, 1), 0.5)
    one, other = (call(two(), jax.random.split(jax.random.key(seed), 5), x) for seed in (1, 2))
    assert len(traces) == 1 and not np.array_equal(one, other)


def test_is_randomised(linear):
    assert is_randomised(two()) and not is_randomised(linear)
    assert is_randomised(Noisy(linear, jax.random.split(KEY, 3)))
    with pytest.raises(ValueError, match=r"one PRNG key per row, \[B\], got key<fry>\[\]: make it by"):
        is_randomised(Noisy(linear, KEY))


def test_an_nnx_model_with_a_scalar_key_is_not_randomised():
    """Dropout with a stream of its own holds a scalar key, which evaluation mode never reads."""

    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.out = nnx.Linear(3, 2, rngs=rngs)

    model = Dropped(nnx.Rngs(0))
    model.eval()
    assert any(is_key(leaf) for leaf in jax.tree.leaves(model)), "there is a key to be misled by"
    assert not is_randomised(model)
    assert reseed(model, jax.random.split(KEY, 3)) is model


def test_static_fields_decide_the_program():
    class Settings(Struct):
        eps: float = 0.3
        steps: int = static(15)

    assert jax.tree.leaves(Settings()) == [0.3]
    assert jax.tree.structure(Settings(eps=0.1)) == jax.tree.structure(Settings())
    assert jax.tree.structure(Settings(steps=3)) != jax.tree.structure(Settings())


# --- one class is never taken for another


class Plus(Struct):
    value: jax.Array
    note: str = static("")

    def __call__(self, x):
        return x + self.value


class Minus(Struct):
    value: jax.Array
    note: str = static("")

    def __call__(self, x):
        return x - self.value


class FlaxPlus(struct.PyTreeNode):  # noqa: TID251
    value: jax.Array

    def __call__(self, x):
        return x + self.value


class FlaxMinus(struct.PyTreeNode):  # noqa: TID251
    value: jax.Array

    def __call__(self, x):
        return x - self.value


def same_structure(*nodes):
    first, second = map(jax.tree.structure, nodes)
    return first == second


def test_classes_of_like_fields_differ():
    one = jnp.ones(())
    assert not same_structure(Plus(one), Minus(one)) and not same_structure(Plus(one), Plus(one, "other"))
    assert same_structure(Plus(one), Plus(one))
    # Planted: what flax registers is one structure to jax.  Should this fail, jax has mended it.
    assert same_structure(FlaxPlus(one), FlaxMinus(one))


def test_a_node_is_what_flax_makes_of_it():
    node = Plus(jnp.ones(()), note="a")
    ((path, leaf),) = jax.tree_util.tree_flatten_with_path(node)[0]
    assert jax.tree_util.keystr(path) == ".value" and leaf is node.value
    doubled = jax.tree.map(lambda leaf: 2 * leaf, node)
    assert type(doubled) is Plus and float(doubled.value) == 2 and doubled.note == "a"
    assert float(node.replace(value=jnp.zeros(())).value) == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        node.note = "b"
    with pytest.raises(TypeError, match="colour"):
        node.replace(colour=1)


def test_jit_per_class_tells_foreign_classes_apart():
    traced = []

    @jit_per_class
    def apply(model, x):
        traced.append(type(model))
        return model(x)

    one = jnp.ones(())
    for _ in range(2):
        assert float(apply(FlaxPlus(one), one)) == 2 and float(apply(FlaxMinus(one), one)) == 0
        assert float(apply(FlaxPlus(2 * one), one)) == 3
    assert traced == [FlaxPlus, FlaxMinus]
    assert kind_of(FlaxPlus(one)) != kind_of(FlaxMinus(one))
    assert kind_of(FlaxPlus(one)) == kind_of(FlaxPlus(2 * one))


def served_by_another(register, classes=200):
    """Return how many of many classes of like fields were run by another's program in one jitted function."""
    apply = jax.jit(lambda model, x: model(x))
    wrong = 0
    for number in range(classes):
        model = register(f"C{number}", lambda self, x, number=number: x + number)(jnp.float32(1))
        wrong += float(apply(model, jnp.float32(0))) != number
    return wrong


def ours(name, call):
    return type(
        name, (Struct,), {"__annotations__": {"w": jax.Array}, "__call__": call, "__module__": __name__}
    )


def jaxs(name, call):
    made = dataclasses.make_dataclass(name, ["w"], namespace={"__call__": call})
    return jax.tree_util.register_dataclass(made, data_fields=["w"], meta_fields=[])


def test_no_class_runs_anothers_program():
    assert served_by_another(ours) == 0
    assert served_by_another(jaxs) > 0  # planted: 55 to 74 of 400 in three processes
