"""What every attack of the table promises; a new row of ATTACKS is tested without another line here."""

import importlib
import inspect
import pkgutil
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.small import ready, small, traced_fields
from conftest import Linear, Noisy, make_images, make_linear
from flax import nnx

from deepsec_jax import attacks
from deepsec_jax.attacks import ATTACKS, functional, preset, run_in_batches
from deepsec_jax.evaluation import judge

NAMES = list(ATTACKS)
BUDGET = [name for name in NAMES if ATTACKS[name].card.kind == "budget"]
# Of the attacks that search a constant CW2 stands for all where a test compiles programs of its own, and
# that, like every search, in the long run only.
REPRESENTATIVE = [
    pytest.param(name, marks=[pytest.mark.long] if ATTACKS[name].card.kind == "minimum-norm" else [])
    for name in NAMES
    if name == "cw2" or not hasattr(ATTACKS[name](), "search_steps")
]
LONG = ("optmargin", "blb", "ead")  # with --long; CW2, DeepFool and JSMA go through everything always


def marked(names):
    """Return the names as parameters, the long ones marked."""
    return [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in names]


SEARCHING = [name for name in NAMES if ATTACKS[name].card.kind == "minimum-norm"]
KEY = jax.random.key(0)


def labels_of(model, x):
    return jnp.argmax(model(x), axis=-1).astype(jnp.int32)


def goal(attack, labels, classes=3):
    """The labels that an attack takes: targets if it is targeted, else the true ones."""
    return (labels + 1) % classes if getattr(attack, "targeted", False) else labels


@pytest.fixture(params=marked(NAMES))
def unfitted(request):
    """Each attack of the table, small."""
    return small(request.param)


@pytest.fixture
def attack(unfitted, linear, images):
    """Each attack of the table as it is called on the linear model: through prepare, like the runner."""
    return ready(unfitted, linear, images)


def searches(attack) -> bool:
    """Whether the attack looks for the smallest change, whose last digits hang on the batch size."""
    return getattr(attack, "card", None) is not None and attack.card.kind == "minimum-norm"


def test_table_is_complete():
    modules = {module.name for module in pkgutil.iter_modules(attacks.__path__)}
    with_card = {
        value
        for name in modules
        for value in vars(importlib.import_module(f"deepsec_jax.attacks.{name}")).values()
        if inspect.isclass(value) and hasattr(value, "card")
    }
    # AutoAttack is made of attacks of the table, and is run from Python.
    assert with_card - {attacks.AutoAttack} == set(ATTACKS.values())
    for name, cls in ATTACKS.items():
        assert hasattr(functional, name)
        card = cls.card
        assert card.name and card.title and "arXiv" in card.reference
        assert card.goal in ("untargeted", "targeted") and card.kind in (
            "budget",
            "minimum-norm",
            "universal",
        )


def test_shape_dtype_box_and_ball(attack, linear, images):
    labels = labels_of(linear, images)
    x_adv = attack(linear, images, goal(attack, labels), key=KEY)
    assert x_adv.shape == images.shape and x_adv.dtype == images.dtype
    values = np.asarray(x_adv, np.float64)
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    if hasattr(attack, "eps"):
        assert np.abs(values - np.asarray(images, np.float64)).max() <= attack.eps + 1e-6
    assert all(np.ptp(row) > 0 for row in values), "a constant image"


def test_wins_on_the_linear_model(attack, linear):
    # R+LLC spends half its eps on a coin: eight images would judge the coin.  A search meets its goal on all.
    images = make_images(rows=8 if searches(attack) else 64)
    labels = labels_of(linear, images)
    given = goal(attack, labels)
    targets = attack.targets(linear, images, given)
    outcome = judge(linear, images, attack(linear, images, given, key=KEY), labels, targets=targets)
    clean = judge(linear, images, images, labels, targets=targets)
    universal = isinstance(attack, attacks.Perturbation)  # one vector cannot leave three classes at once
    assert outcome.success.mean() > (0.3 if universal else 0.5)
    assert clean.success.mean() < 0.1  # the attack's doing, not the images'


def test_functional_shares_compiled_code(unfitted, linear, images, compiles):
    attack, name = unfitted, type(unfitted).__name__.lower()
    if name == "uap":
        with pytest.raises(ValueError, match="no perturbation yet"):
            functional.uap(linear, images, jnp.zeros(8, jnp.int32))
        return
    labels = goal(attack, labels_of(linear, images))
    expected = attack(linear, images, labels, key=KEY)
    with compiles() as count:
        values = {field.name: getattr(attack, field.name) for field in fields(attack)}
        result = getattr(functional, name)(linear, images, labels, key=KEY, **values)
        assert count(type(attack).__name__) == 0
    np.testing.assert_array_equal(result, expected)


def test_one_compile_for_hyperparameters_keys_weights_and_last_batch(attack, compiles):
    model, other = make_linear(seed=11), make_linear(seed=12)
    x = np.asarray(make_images(rows=10, seed=5))
    labels = np.zeros(10, np.int32)
    name = type(attack).__name__
    field = next(iter(traced_fields(attack)), None)
    values = (0.4, np.float32(0.2), np.float64(0.25), 1) if field else (None,)
    with compiles() as count:
        for value in values:
            swept = attack if field is None else attack.replace(**{field: value})
            run_in_batches(swept, model, x, labels, key=KEY, batch_size=4)
        run_in_batches(attack, other, x, labels, key=jax.random.key(7), batch_size=4)
        assert count(name) == 1
    if searches(attack):  # each compile takes seconds, and the counter is the same for all
        return
    with compiles() as count:  # the counter sees a compile where there is one
        run_in_batches(attack, model, x, labels, key=KEY, batch_size=5)
        assert count(name) == 1


@pytest.mark.parametrize("unfitted", REPRESENTATIVE, indirect=True)
def test_vmap_over_every_traced_field(attack, linear, images):
    labels = goal(attack, labels_of(linear, images))
    every = traced_fields(attack)
    # A search compiles for seconds: its first field stands for all.
    for field in list(every)[: 1 if searches(attack) else None]:
        value = every[field]
        grid = jnp.asarray([0.5, 1.0]) * value
        swept = jax.vmap(
            lambda value, f=field: attack.replace(**{f: value})(linear, images, labels, key=KEY)
        )(grid)
        for number, x_adv in zip(grid, swept, strict=True):
            alone = attack.replace(**{field: number})(linear, images, labels, key=KEY)
            np.testing.assert_allclose(x_adv, alone, atol=1e-3 if searches(attack) else 1e-5)


@pytest.mark.parametrize("name", BUDGET)
def test_vmap_over_sixteen_eps_is_one_compile(name, linear, images, compiles):
    attack = small(name)
    labels = goal(attack, labels_of(linear, images))
    with compiles() as count:
        jax.jit(jax.vmap(lambda eps: attack.replace(eps=eps)(linear, images, labels, key=KEY)))(
            jnp.linspace(0.2, 0.5, 16)
        )
        assert count("lambda") == 1


@pytest.mark.parametrize("unfitted", REPRESENTATIVE, indirect=True)
def test_vmap_over_two_models_is_one_compile(attack, linear, images, compiles):
    labels = goal(attack, labels_of(linear, images))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), linear, make_linear(seed=9))
    with compiles() as count:
        both = jax.jit(jax.vmap(lambda model: attack(model, images, labels, key=KEY)))(stacked)
        assert count("lambda") == 1
    alone = attack(linear, images, labels, key=KEY)
    np.testing.assert_allclose(both[0], alone, atol=1e-3 if searches(attack) else 1e-5)


@pytest.mark.parametrize(
    ("unfitted", "network", "batch_sizes"),
    [
        pytest.param(
            name,
            "linear",
            (7,) if name in SEARCHING else (1, 7, 64),
            marks=[pytest.mark.long] if name in LONG else [],
        )
        for name in NAMES
    ]
    + [
        pytest.param(name, "cnn", (7,), marks=[] if name in REPRESENTATIVE else pytest.mark.long)
        for name in NAMES
        if name not in SEARCHING
    ],
    indirect=["unfitted"],
)
def test_rows_do_not_see_each_other(unfitted, network, batch_sizes, tiny_cnn, linear):
    model, shape, classes = (tiny_cnn, (8, 8, 1), 10) if network == "cnn" else (linear, (4, 4, 1), 3)
    x = make_images(rows=9, shape=shape)
    attack = ready(unfitted, model, x)
    labels = goal(attack, labels_of(model, x), classes=classes)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(KEY, jnp.arange(9))
    whole = np.asarray(attack(model, x, labels, key=keys))
    order = np.array([4, 0, 8, 2, 6, 1, 3, 7, 5])
    others = [np.asarray(attack(model, x[order], labels[order], key=keys[order]))[np.argsort(order)]]
    for batch_size in batch_sizes:
        others.append(
            run_in_batches(attack, model, np.asarray(x), np.asarray(labels), key=KEY, batch_size=batch_size)
        )
    mixing = 0.9 * whole + 0.1 * np.roll(whole, 1, axis=0)
    if searches(attack):
        for other in others:
            assert same_distances(x, whole, other)
        # Planted: an attack that keeps its neighbour's constant, or a share of its change.
        assert not same_distances(x, whole, mixing)
        return
    for other in others:
        assert np.mean(np.abs(other - whole) > 1e-5) <= 0.01
    assert np.mean(np.abs(mixing - whole) > 1e-5) > 0.01  # planted


def same_distances(x, x_adv, other) -> bool:
    """Whether L2 distances agree: the median to 0.5 %, and nine rows of ten to 2 %."""

    def lengths(images):
        return np.linalg.norm((np.asarray(images) - np.asarray(x)).reshape(len(x), -1), axis=1)

    first, second = lengths(x_adv), lengths(other)
    close = np.abs(second - first) <= 0.02 * first + 1e-4
    medians = np.median(first), np.median(second)
    return abs(medians[1] - medians[0]) <= 0.005 * medians[0] + 1e-5 and close.mean() >= 0.88


def test_same_key_same_bytes_other_key_other_bytes(attack, linear, images):
    labels = goal(attack, labels_of(linear, images))
    first = attack(linear, images, labels, key=KEY)
    np.testing.assert_array_equal(first, attack(linear, images, labels, key=KEY))
    if getattr(attack, "needs_key", False):
        assert (first != attack(linear, images, labels, key=jax.random.key(1))).any()
        with pytest.raises(ValueError, match="pass key="):
            attack(linear, images, labels)
    else:
        np.testing.assert_array_equal(first, attack(linear, images, labels))


@pytest.mark.parametrize("unfitted", REPRESENTATIVE, indirect=True)
def test_jit_equals_eager(attack, linear, images):
    attack = attack.replace(steps=2) if hasattr(attack, "steps") else attack
    attack = attack.replace(search_steps=2) if hasattr(attack, "search_steps") else attack
    attack = attack.replace(queries=4) if hasattr(attack, "queries") else attack
    labels = goal(attack, labels_of(linear, images))
    compiled = attack(linear, images, labels, key=KEY)
    with jax.disable_jit():
        eager = attack(linear, images, labels, key=KEY)
    np.testing.assert_allclose(compiled, eager, atol=1e-5)


def apply_linear(params, x):
    return Linear(*params)(x)


@pytest.mark.parametrize("unfitted", REPRESENTATIVE, indirect=True)
def test_runs_on_partial_and_nnx_models(attack, unfitted, linear, images, tiny_cnn):
    labels = goal(attack, labels_of(linear, images))
    as_partial = jax.tree_util.Partial(apply_linear, (linear.weights, linear.bias))
    np.testing.assert_allclose(
        attack(as_partial, images, labels, key=KEY), attack(linear, images, labels, key=KEY), atol=1e-5
    )
    if hasattr(attack, "search_steps"):  # DeepFool and JSMA stand for the searches
        return
    x = make_images(shape=(8, 8, 1))
    on_cnn = ready(unfitted, tiny_cnn, x)
    assert on_cnn(tiny_cnn, x, jnp.zeros(8, jnp.int32), key=KEY).shape == x.shape


def test_randomised_model_gets_fresh_keys(attack, linear, images):
    labels = goal(attack, labels_of(linear, images))
    model = Noisy(linear, jax.random.split(jax.random.key(5), 1))
    x_adv = attack(model, images, labels, key=KEY)
    assert x_adv.shape == images.shape
    np.testing.assert_array_equal(x_adv, attack(model, images, labels, key=KEY))
    stale = Noisy(linear, jax.random.split(jax.random.key(6), 1))  # the keys it comes with do not matter
    np.testing.assert_array_equal(x_adv, attack(stale, images, labels, key=KEY))
    with pytest.raises(ValueError, match="pass key="):
        attack(model, images, labels)


@pytest.mark.parametrize("name", NAMES)
def test_presets_exist_and_explain_themselves(name):
    for dataset in ("mnist", "cifar10", "digits", "svhn_cropped"):
        for kind in ("paper", "strong"):
            assert callable(preset(name, dataset, kind))
            for entry in attacks.preset_card(name, dataset, kind).values():
                assert entry["source"] and entry["reason"]


def test_clear_errors(attack, unfitted, linear, images, tiny_cnn):
    field = next(iter(traced_fields(unfitted)))
    labels = jnp.zeros(8, jnp.int32)
    training = nnx.clone(tiny_cnn)
    training.bn = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
    cases = [
        (lambda: attack(lambda x: x, images, labels, key=KEY), "Partial"),
        (lambda: attack("model", images, labels, key=KEY), "pytree callable"),
        (lambda: attack(linear, images[0], labels, key=KEY), r"\[B, H, W, C\]"),
        (lambda: attack(linear, (images * 255).astype(jnp.uint8), labels, key=KEY), "divide uint8 by 255"),
        (lambda: attack(linear, images, jnp.zeros((8, 3), jnp.int32), key=KEY), "argmax"),
        (lambda: attack(linear, images, labels.astype(jnp.float32), key=KEY), "integers"),
        (lambda: attack(linear, images, labels[:4], key=KEY), "integers"),
        (lambda: attack(training, make_images(shape=(8, 8, 1)), labels, key=KEY), "eval"),
        (lambda: attack(linear, images, labels, key=jax.random.split(KEY, 3)), "8 keys"),
        (lambda: attack(linear, images, labels, key=3), "jax.random.key"),
        (lambda: type(unfitted)(**{field: float("nan")}), field),
        (lambda: type(unfitted)(**{field: "0.3"}), "number"),
    ]
    if getattr(unfitted, "needs_key", False):
        cases.append((lambda: attack(linear, images, labels), r"draws random numbers: pass key=jax\.random"))
    for call, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@pytest.mark.parametrize("name", BUDGET)
def test_success_and_margin_grow_with_eps(name, tiny_cnn):
    """G.3, by carry-over: the best of all smaller budgets is never lost in a larger one."""
    attack = ATTACKS[name]()
    x = make_images(rows=16, shape=(8, 8, 1))
    labels = goal(attack, labels_of(tiny_cnn, x), classes=10)
    targets = attack.targets(tiny_cnn, x, labels)
    # At eps 0 every attack returns the clean image.
    still = attack.replace(eps=0.0, **({"alpha": 0.0} if hasattr(attack, "alpha") else {}))
    np.testing.assert_array_equal(still(tiny_cnn, x, labels, key=KEY), x)
    small = attack.replace(eps=0.05, **({"alpha": 0.025} if hasattr(attack, "alpha") else {}))
    large = attack.replace(eps=0.5, **({"alpha": 0.25} if hasattr(attack, "alpha") else {}))
    rate = [
        float(judge(tiny_cnn, x, a(tiny_cnn, x, labels, key=KEY), labels, targets=targets).success.mean())
        for a in (small, large)
    ]
    assert rate[0] <= rate[1]


@pytest.mark.parametrize("name", marked(SEARCHING))
def test_a_failed_row_is_the_clean_image(name):
    """Nothing changes this model's mind; the original returned black images here."""
    deaf = Linear(jnp.zeros((16, 3)), jnp.asarray([1.0, 0.0, 0.0]))
    x, attack = make_images(), small(name)
    labels = goal(attack, jnp.zeros(8, jnp.int32))
    x_adv = attack(deaf, x, labels, key=KEY)
    np.testing.assert_array_equal(x_adv, x)
    assert not np.array_equal(jnp.zeros_like(x), x)  # planted: what the original would have returned


@pytest.mark.parametrize("name", marked(SEARCHING))
def test_what_meets_the_goal_already_comes_back_untouched(name, linear, images):
    attack, labels = small(name), labels_of(linear, images)
    met = labels if getattr(attack, "targeted", False) else (labels + 1) % 3
    if name == "optmargin":
        attack = attack.replace(noise=0.0)  # else its copies may not meet the goal yet
    np.testing.assert_array_equal(attack(linear, images, met, key=KEY), images)


@pytest.mark.parametrize("name", marked(SEARCHING))
def test_counts_the_calls_of_every_row(name, linear, images):
    attack, labels = small(name), labels_of(linear, images)
    counted = attacks.count_calls(attack, linear, images, goal(attack, labels), key=KEY)
    np.testing.assert_array_equal(counted.x, attack(linear, images, goal(attack, labels), key=KEY))
    met = labels if getattr(attack, "targeted", False) else (labels + 1) % 3
    idle = attacks.count_calls(attack, linear, images, met, key=KEY)
    calls, fewer = (np.asarray(each.gradients + each.forwards) for each in (counted, idle))
    assert calls.min() >= 1 and fewer.mean() < calls.mean()
    assert (np.asarray(counted.gradients).min() >= 1) != (
        name in ("rays", "cgba")
    )  # which take decisions alone


def test_attacks_of_fixed_cost_do_not_count(linear, images):
    assert attacks.count_calls(attacks.FGSM(), linear, images, jnp.zeros(8, jnp.int32)) is None
