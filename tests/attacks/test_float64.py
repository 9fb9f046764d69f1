"""Images of other dtypes: inside eps as float64 measures it, and unchanged entries bit-equal to the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FLOAT16, Linear, make_images, make_linear

from attacks.small import ready, small
from deepsec_jax.attacks import (
    ATTACKS,
    BIM,
    FGSM,
    FMN,
    PGD,
    RFGSM,
    UAP,
    AutoAttack,
    Cascade,
    Masked,
    MultiTarget,
    Restarts,
    SmallestEps,
    Square,
    Within,
    WorstCase,
    run_in_batches,
)
from deepsec_jax.attacks.float64 import narrowed
from deepsec_jax.attacks.geometry import towards

KEY = jax.random.key(0)
BUDGET = [name for name in ATTACKS if ATTACKS[name].card.kind == "budget"]
SEARCHING = [name for name in ATTACKS if ATTACKS[name].card.kind == "minimum-norm"]
ALWAYS = ("fgsm", "rfgsm", "pgd", "illc", "apgd", "fab", "fmn", "square", "uap", "jsma", "deepfool", "cw2")
"""One of each kind; the others run with ``--long``."""
EPS = 0.1  # the nearest float32 lies above it


def float64_images(rows=8):
    """Random entries that no float32 is equal to, and whole rows at either bound."""
    x = np.random.default_rng(0).random((rows, 4, 4, 1))
    x[:, 0, :2, 0] = [0.0, 1.0]
    x[0] = 0.6 + 1e-9  # constant: rounding errors of all entries add up in L2
    assert (x != x.astype(np.float32)).any(axis=(1, 2, 3)).all()
    return x


def farthest(x, x_adv, norm="linf"):
    change = (np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)).reshape(len(x), -1)
    return np.abs(change).max() if norm == "linf" else np.linalg.norm(change, axis=1).max()


def at_eps(attack, eps=EPS):
    attack = attack.replace(alpha=eps / 2) if hasattr(attack, "alpha") else attack
    return attack.replace(eps=eps)


def marked(names):
    return [pytest.param(name, marks=pytest.mark.long) if name not in ALWAYS else name for name in names]


@pytest.fixture
def in_float64():
    """jax as a user of ``jax_enable_x64`` has it; promotion as jax has it, since their models rely on it."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def model():
    return make_linear()


def goal(attack, model, x):
    labels = np.asarray(jnp.argmax(model(jnp.asarray(x)), axis=-1))
    return (labels + 1) % 3 if getattr(attack, "targeted", False) else labels


@pytest.mark.parametrize("name", marked(ATTACKS))
def test_jax_in_float64(name, model, in_float64):
    x = jnp.asarray(float64_images())
    assert x.dtype == jnp.float64
    attack = ready(small(name), model, x)
    attack = at_eps(attack) if hasattr(attack, "eps") else attack
    labels = goal(attack, model, x)
    x_adv = attack(model, x, labels, key=KEY)
    assert x_adv.dtype == x.dtype and x_adv.shape == x.shape
    changed = np.asarray(x_adv) != np.asarray(x)
    assert changed.any(axis=(1, 2, 3)).sum() >= 4
    values = np.asarray(x_adv)
    assert values.min() >= 0 and values.max() <= 1
    if name in BUDGET:
        assert 0.9 * EPS < farthest(x, x_adv) <= EPS
        assert (np.asarray(at_eps(attack, 0.0)(model, x, labels, key=KEY)) == np.asarray(x)).all()
    if name in SEARCHING:
        # What is returned is what was judged: a success, or the clean image itself.
        predicted = np.asarray(jnp.argmax(model(x_adv), axis=-1))
        succeeded = (predicted == labels) == getattr(attack, "targeted", False)
        assert (succeeded | ~changed.any(axis=(1, 2, 3))).all() and succeeded.sum() >= 4
        deaf = Linear(jnp.zeros((16, 3), jnp.float32), jnp.asarray([1.0, 0.0, 0.0], jnp.float32))
        still = attack(deaf, x, goal(attack, deaf, x), key=KEY)
        assert (np.asarray(still) == np.asarray(x)).all()
    if name == "jsma":
        assert changed.mean() < 0.5  # planted below: the round trip changes all
        rounded = np.asarray(x, np.float32).astype(np.float64)
        assert (rounded != np.asarray(x)).mean() > 0.8


@pytest.mark.parametrize("name", ["bim", "pgd", "apgd", "square"])
def test_l2_in_float64(name, model, in_float64):
    x = jnp.asarray(float64_images())
    attack = small(name).replace(norm="l2", eps=EPS)
    assert 0.99 * EPS < farthest(x, attack(model, x, goal(attack, model, x), key=KEY), "l2") <= EPS


HELD = {
    "restarts": Restarts(PGD(eps=EPS, steps=2), n=2),
    "worst case": WorstCase((FGSM(eps=EPS), PGD(eps=EPS, steps=2))),
    "cascade": Cascade((FGSM(eps=EPS / 10), PGD(eps=EPS, steps=2))),
    "multi-target": MultiTarget(BIM(eps=EPS, steps=2, targeted=True), k=2),
    "masked": Masked(BIM(eps=EPS, steps=2), np.arange(16).reshape(4, 4) < 9),
    "within": Within(FMN(norm="linf", steps=20), eps=EPS),
    "autoattack": AutoAttack(eps=EPS, steps=2, version="rand"),
    "smallest eps": SmallestEps(FGSM(), largest=EPS),
    "search": Square(eps=EPS, queries=4, guided=True, start=PGD(eps=EPS, steps=2)),
}


@pytest.mark.parametrize("held", HELD)
def test_combinators_in_float64(held, model, in_float64):
    x = jnp.asarray(float64_images())
    x_adv = HELD[held](model, x, goal(None, model, x), key=KEY)
    assert x_adv.dtype == x.dtype and 0 < farthest(x, x_adv) <= EPS


def run(attack, model, x, **options):
    labels = goal(attack, model, x.astype(np.float32))
    return run_in_batches(attack, model, x, labels, key=KEY, batch_size=5, **options)


@pytest.mark.parametrize("name", marked(ATTACKS))
def test_numpys_float64_beside_a_jax_in_float32(name, model):
    x = float64_images()
    attack = at_eps(small(name)) if hasattr(small(name), "eps") else small(name)
    attack = ready(attack, model, x)
    x_adv = run(attack, model, x)
    assert x_adv.dtype == np.float64 and (x_adv != x).any(axis=(1, 2, 3)).sum() >= 4
    if name in BUDGET or name == "uap":
        assert 0.9 * EPS < farthest(x, x_adv) <= EPS
    if name in BUDGET:
        assert (run(at_eps(attack, 0.0), model, x) == x).all()
    else:
        # The model is shown the float32 images that the attack has seen succeed.
        seen = run(attack, model, x.astype(np.float32).astype(np.float64))
        np.testing.assert_array_equal(x_adv.astype(np.float32), seen)
        assert ((x_adv == x) == (seen == x.astype(np.float32))).all()


@pytest.mark.parametrize("held", HELD)
def test_combinators_of_numpys_float64(held, model):
    x = float64_images()
    assert 0 < farthest(x, run(HELD[held], model, x)) <= EPS


def test_l2_of_numpys_float64(model):
    x = float64_images()
    attack = PGD(eps=EPS, step_size=EPS, steps=2, norm="l2")
    assert 0.99 * EPS < farthest(x, run(attack, model, x), "l2") <= EPS
    # Planted: without the narrower ball an image may come back a hair outside.
    assert farthest(x, run(attack.replace(eps=EPS + 1e-6), model, x), "l2") > EPS


def test_one_eps_per_image_of_float64_images(model):
    x, eps = float64_images(), np.linspace(0.0, 0.2, 8)
    x_adv = run(PGD(eps=eps, steps=2), model, x)
    assert (np.abs(x_adv - x).max(axis=(1, 2, 3)) <= eps).all() and (x_adv[0] == x[0]).all()


def test_narrowed_reaches_every_budget():
    attack = Restarts(WorstCase((RFGSM(eps=0.3, alpha=0.15), Square(eps=0.2, start=PGD(eps=0.2, norm="l2")))))
    inside = narrowed(attack, (28, 28, 1)).attack.attacks
    assert 0.3 - 2e-7 < inside[0].eps < 0.3 and inside[0].alpha == inside[0].eps / 2
    assert 0.2 - 2e-7 < inside[1].eps < 0.2 and 0.2 - 3e-6 < inside[1].start.eps < 0.2 - 1e-6
    assert narrowed(FGSM(eps=0.0), (28, 28, 1)).eps == 0.0


@pytest.mark.parametrize("dtype", [FLOAT16, jnp.bfloat16])
@pytest.mark.parametrize("name", ["fgsm", "rfgsm", "pgd", "square", "jsma"])
def test_half_precision(name, dtype, model, images):
    x = images.astype(dtype)
    attack = at_eps(small(name)) if name in BUDGET else small(name)
    labels = goal(attack, model, x)
    x_adv = attack(model, x, labels, key=KEY)
    assert x_adv.dtype == dtype
    if name in BUDGET:  # an ulp of float32, not of the coarse dtype
        assert 0.9 * EPS < farthest(x, x_adv) <= EPS + 2.0**-23
        assert (at_eps(attack, 0.0)(model, x, labels, key=KEY) == x).all()
    else:
        assert 0 < (np.asarray(x_adv) != np.asarray(x)).mean() < 0.5


def test_towards_gives_unchanged_entries_back(in_float64):
    x = jnp.asarray(float64_images())
    moved = x.astype(jnp.float32).at[:, 1].set(0.25)
    back = np.asarray(towards(moved, x))
    assert (back[:, 1] == 0.25).all() and (np.delete(back, 1, 1) == np.delete(np.asarray(x), 1, 1)).all()
    assert (np.asarray(moved.astype(jnp.float64)) != np.asarray(x)).mean() > 0.8  # planted: what a cast does


def test_fitted_to_float64_images_a_uap_stays_inside(model):
    x = float64_images()
    attack = UAP(eps=EPS, passes=2).fit(model, x, key=KEY)
    assert np.abs(np.asarray(attack.delta, np.float64)).max() <= EPS


def test_an_out_that_would_round_is_refused(model):
    x = make_images(rows=5)
    with pytest.raises(ValueError, match="out is float16, images are float32"):
        run(FGSM(), model, np.asarray(x), out=np.zeros(x.shape, np.float16))
    made = run(FGSM(), model, np.asarray(x), out=np.zeros(x.shape, np.float64))
    np.testing.assert_array_equal(made.astype(np.float32), run(FGSM(), model, np.asarray(x)))
