"""Row i depends on image i and its key, whatever implementation of random numbers the keys are of."""

import ast
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear

import deepsec_jax
from deepsec_jax import attacks, models
from deepsec_jax.attacks.least_likely import least_likely_class
from deepsec_jax.data import Split
from deepsec_jax.defenses import EIT
from deepsec_jax.defenses.rc import RegionVotes
from deepsec_jax.defenses.rt import ResizePad
from deepsec_jax.defenses.transformed import Transformed
from deepsec_jax.evaluation import judge
from deepsec_jax.models.wrappers import EOT
from deepsec_jax.randomness import example_keys, reseed, typed_key
from deepsec_jax.training import accuracy
from deepsec_jax.transforms import crop_resize, kept_pixels, point_in_cube, resize_pad

ROWS, FEW = 64, 16
OTHERS = ("rbg", "unsafe_rbg")
LINEAR, X = make_linear(), make_images(ROWS)
LABELS = np.arange(ROWS) % 3
DRAWING = {
    "pgd": attacks.PGD(eps=0.2, step_size=0.1, steps=2),
    "rfgsm": attacks.RFGSM(eps=0.2, alpha=0.1),
    "square": attacks.Square(eps=0.2, queries=4),
}


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def same_in_batches(run) -> bool:
    """``run(rows)`` of all rows at once, and of 16 at a time."""
    whole = np.asarray(run(slice(0, ROWS)))
    parts = [np.asarray(run(slice(first, first + FEW))) for first in range(0, ROWS, FEW)]
    return np.array_equal(whole, np.concatenate(parts))


def by_key(attack, model, key, *, batch_size=FEW):
    return attacks.run_in_batches(attack, model, np.asarray(X), LABELS, key=key, batch_size=batch_size)


# --- what a key becomes


@pytest.mark.parametrize("made", [lambda key: key, jax.random.split, lambda key: jax.random.fold_in(key, 5)])
def test_an_rbg_key_is_the_threefry_key_of_the_same_seed(made):
    key = typed_key(made(jax.random.key(7, impl="rbg")))
    assert jax.random.key_impl(key) == "threefry2x32"
    np.testing.assert_array_equal(data(key), data(made(jax.random.key(7))))
    raw = typed_key(jax.random.key_data(made(jax.random.key(7, impl="rbg"))))  # PRNGKey's form, [..., 4]
    np.testing.assert_array_equal(data(raw), data(key))


def test_every_word_of_another_key_counts():
    words = np.concatenate([np.zeros((1, 4)), np.eye(4), 2 * np.eye(4), np.ones((1, 4))]).astype(np.uint32)
    keys = typed_key(jax.random.wrap_key_data(words, impl="rbg"))
    assert keys.shape == (10,) and len(np.unique(data(keys), axis=0)) == 10
    many = typed_key(jax.random.split(jax.random.key(0, impl="unsafe_rbg"), (4, 500)))
    assert many.shape == (4, 500) and len(np.unique(data(many).reshape(2000, 2), axis=0)) == 2000
    np.testing.assert_array_equal(data(jax.jit(jax.vmap(typed_key))(many)), data(many))
    assert typed_key(many[:, :0]).shape == (4, 0)


def test_raw_keys_under_another_default():
    with jax.default_prng_impl("rbg"):
        raw = jax.random.PRNGKey(3)
        assert raw.shape == (4,)
        two_words = jnp.array([0, 3], jnp.uint32)  # threefry's, whatever the default is
        for given in (raw, np.asarray(raw), two_words):
            np.testing.assert_array_equal(data(typed_key(given)), [0, 3])
        assert example_keys(jnp.stack([raw] * 5), 5).shape == (5,)
        with pytest.raises(TypeError, match="must be made by"):
            typed_key(jnp.zeros(3, jnp.uint32))


# --- attacks


def test_planted_keys_of_rbg_depend_on_the_batch():
    """What the other tests must notice: a draw under the keys as they come."""

    def noise(keys, rows):
        return jax.vmap(lambda key: jax.random.normal(key, (16,)))(keys[rows])

    keys = jax.random.split(jax.random.key(0, impl="rbg"), ROWS)
    assert not same_in_batches(partial(noise, keys))
    assert same_in_batches(partial(noise, typed_key(keys)))


@pytest.mark.parametrize(("name", "impl"), [*((name, "rbg") for name in DRAWING), ("pgd", "unsafe_rbg")])
def test_attacks(name, impl):
    attack, key = DRAWING[name], jax.random.key(3, impl=impl)
    found = by_key(attack, LINEAR, key)
    np.testing.assert_array_equal(by_key(attack, LINEAR, key, batch_size=ROWS), found)
    keys = jax.random.split(key, ROWS)
    assert same_in_batches(lambda rows: attack(LINEAR, X[rows], LABELS[rows], key=keys[rows]))
    if impl == "rbg":
        np.testing.assert_array_equal(by_key(attack, LINEAR, jax.random.key(3)), found)


@pytest.mark.parametrize("name", DRAWING)
def test_attacks_where_rbg_is_the_default(name):
    attack, model = DRAWING[name], Noisy(LINEAR, jax.random.split(jax.random.key(0), FEW), 0.1)
    found = by_key(attack, model, jax.random.key(3))
    with jax.default_prng_impl("rbg"):
        for key in (jax.random.key(3), jax.random.PRNGKey(3)):
            np.testing.assert_array_equal(by_key(attack, model, key), found)


@pytest.mark.parametrize("partitionable", [True, False])
def test_rows_are_independent_under_either_threefry(partitionable):
    model = Noisy(LINEAR, jax.random.split(jax.random.key(0), ROWS), 0.1)
    with jax.threefry_partitionable(partitionable):
        found = [by_key(DRAWING["pgd"], model, jax.random.key(3), batch_size=rows) for rows in (ROWS, FEW)]
    np.testing.assert_array_equal(*found)


# --- judge, defenses, transforms


@pytest.mark.parametrize("impl", OTHERS)
def test_judge(impl):
    model = Noisy(LINEAR, jax.random.split(jax.random.key(0, impl=impl), 1), 0.3)

    def logits(rows, key=None):
        return judge(model, X[rows], X[rows], LABELS[rows], key=key, first=rows.start).logits

    assert same_in_batches(partial(logits, key=jax.random.key(5, impl=impl)))
    by_default = logits(slice(0, ROWS))
    with jax.default_prng_impl(impl):
        np.testing.assert_array_equal(logits(slice(0, ROWS)), by_default)
        assert same_in_batches(logits)


def randomised(keys):
    """RT, EIT, RC and an expectation, around networks in closed form."""
    codes = EIT(crop=3, sweeps=2).transforms()
    return {
        "rt": Transformed(make_linear((5, 5, 1)), ResizePad(0.0, 4, 5), keys),
        "eit": Transformed(LINEAR, codes, keys),
        "rc": RegionVotes(LINEAR, 0.3, keys, 7),
        "eot": EOT(Noisy(LINEAR, keys, 0.3), 2),
    }


@pytest.mark.parametrize("name", ["rt", "eit", "rc", "eot"])
def test_randomised_defenses(name):
    keys = jax.random.split(jax.random.key(0, impl="rbg"), ROWS)
    call = jax.jit(lambda model, x: model(x))
    assert same_in_batches(lambda rows: call(reseed(randomised(keys)[name], keys[rows]), X[rows]))
    assert same_in_batches(lambda rows: call(randomised(keys[rows])[name], X[rows]))  # not reseeded


@pytest.mark.parametrize(
    "transform",
    [
        lambda x, keys: crop_resize(x, keys, 3), lambda x, keys: resize_pad(x, keys, 4, 6),
        lambda x, keys: point_in_cube(x, keys, 0.3), lambda x, keys: kept_pixels(keys, (4, 4), 0.5),
    ],
)  # fmt: skip
def test_transforms(transform):
    keys = jax.random.split(jax.random.key(1, impl="rbg"), ROWS)
    assert same_in_batches(lambda rows: transform(X[rows], keys[rows]))


def test_draws_are_the_same_under_64_bits():
    keys = jax.random.split(jax.random.key(1), FEW)
    x, labels = np.asarray(X[:FEW]), LABELS[:FEW]
    drivers = (
        attacks.PGD(eps=0.5, norm="l2", step_size=0.1, steps=1), DRAWING["square"],
        attacks.RandomTarget(attacks.FGSM(eps=0.1, targeted=True)),
    )  # fmt: skip

    def drawn():
        return [
            crop_resize(x, keys, 3), resize_pad(x, keys, 4, 6), point_in_cube(x, keys, 0.3),
            kept_pixels(keys, (4, 4), 0.5), RegionVotes(LINEAR, 0.3, keys, 7)(x),
            *(attack(LINEAR, x, labels, key=keys) for attack in drivers),
        ]  # fmt: skip

    expected = drawn()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        jax.tree.map(np.testing.assert_array_equal, drawn(), expected)


# --- the house's own roots


def test_own_roots_do_not_follow_the_default():
    noisy = Noisy(LINEAR, jax.random.split(jax.random.key(0), ROWS), 0.5)
    split = Split(np.asarray(X), LABELS)

    def everything():
        model = models.build("small_cnn", (8, 8, 1), 3, seed=3)
        fitted = attacks.UAP(eps=0.2, passes=1).fit(noisy, X, key=jax.random.key(0))
        return [
            least_likely_class(noisy, X), accuracy(noisy, split, batch_size=ROWS), fitted.delta,
            *(leaf for leaf in jax.tree.leaves(model) if leaf.ndim > 1),
        ]  # fmt: skip

    expected = everything()
    with jax.default_prng_impl("rbg"):
        jax.tree.map(np.testing.assert_array_equal, everything(), expected)


def roots(source: str) -> list[int]:
    """Lines of a module that make a key by jax's default implementation, or let flax do so."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).split(".")[-1]
        given = [ast.unparse(value) for value in (*node.args, *(word.value for word in node.keywords))]
        says = any(word.arg == "impl" for word in node.keywords)
        unsaid = ast.unparse(node.func).endswith("random.key") or name in ("PRNGKey", "wrap_key_data")
        seeded = any(text.isdigit() or ("seed" in text and "root_key" not in text) for text in given)
        if (unsaid and not says) or (name == "Rngs" and seeded):
            found.append(node.lineno)
    return found


def test_every_root_says_its_implementation():
    folder = Path(deepsec_jax.__file__).parent
    assert [path for path in folder.rglob("*.py") if roots(path.read_text())] == []
    for planted in ("random.key(0)", "random.PRNGKey(seed)", "nnx.Rngs(0)", "nnx.Rngs(params=recipe.seed)"):
        assert roots(f"x = {planted}") == [1], planted
    assert roots("x = nnx.Rngs(root_key(seed)), nnx.Rngs(dropout=key), random.key(0, impl='rbg')") == []
