"""No output outside budget or box, whatever is thrown at an attack (original invariant G.1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_linear
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attacks.checkers import violations
from attacks.small import small
from deepsec_jax.attacks import ATTACKS, BIM, PGD
from deepsec_jax.attacks.geometry import steepest
from deepsec_jax.evaluation import judge

ITERATIVE = ("bim", "pgd", "umifgsm", "illc", "tmifgsm")
# A few kinds only: each is a compile per attack; hypothesis varies what is in them.
KINDS = (
    ((3, 4, 3, 2), 5, jnp.float32),
    ((3, 4, 3, 2), 2, jnp.bfloat16),
    ((0, 3, 3, 1), 2, jnp.float32),
)


def adversary(name, eps, norm):
    cls = ATTACKS[name]
    if name in ("rfgsm", "rllc"):
        return cls(eps=eps, alpha=eps / 2)
    if name in ITERATIVE:
        return cls(eps=eps, step_size=eps / 2, steps=3, norm=norm)
    return cls(eps=eps)


def drawn(kind, seed, pixels, wrong, scale):
    """Return a linear model, images and labels."""
    shape, classes, dtype = kind
    key = jax.random.key(seed)
    model = make_linear(shape[1:], classes, seed % 97, scale=scale)
    x = {
        "uniform": jax.random.uniform(key, shape),
        "zeros and ones": jax.random.bernoulli(key, 0.5, shape).astype(jnp.float32),
        "constant": jnp.full(shape, 0.5),
    }[pixels].astype(dtype)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    return model, x, (labels + 1) % classes if wrong else labels


BUDGET = [name for name in ATTACKS if ATTACKS[name].card.kind == "budget"]
SEARCHING = [name for name in ATTACKS if ATTACKS[name].card.kind == "minimum-norm"]


@pytest.mark.parametrize(
    ("name", "norm"), [(name, "linf") for name in BUDGET] + [(name, "l2") for name in ITERATIVE]
)
@settings(max_examples=15)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31 - 1),
    eps=st.floats(0.0, 1.0, width=32),
    pixels=st.sampled_from(["uniform", "zeros and ones", "constant"]),
    wrong=st.booleans(),
    scale=st.sampled_from([1.0, 1e4]),
)
@example(  # once 1.4e-7 outside
    kind=((3, 4, 3, 2), 5, jnp.float32), seed=156061, eps=0.8630180358886719, pixels="uniform", wrong=False,
    scale=1e4,
)  # fmt: skip
def test_no_violation(name, norm, kind, seed, eps, pixels, wrong, scale):
    key = jax.random.key(seed)
    model, x, labels = drawn(kind, seed, pixels, wrong, scale)
    x_adv = adversary(name, eps, norm)(model, x, labels, key=key)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert np.isfinite(np.asarray(x_adv, np.float64)).all()
    assert violations(x, x_adv, eps, norm) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("cw2", "deepfool", "jsma") else pytest.mark.long)
        for name in SEARCHING
    ],
)
@settings(max_examples=12)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31 - 1),
    pixels=st.sampled_from(["uniform", "zeros and ones", "constant"]),
    wrong=st.booleans(),
    scale=st.sampled_from([1.0, 1e4]),
)
def test_searches_stay_in_the_box_and_fail_clean(name, kind, seed, pixels, wrong, scale):
    model, x, labels = drawn(kind, seed, pixels, wrong, scale)
    attack = small(name)
    given_labels = (labels + 1) % kind[1] if getattr(attack, "targeted", False) else labels
    x_adv = attack(model, x, given_labels, key=jax.random.key(seed))
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert violations(x, x_adv, 1.0, "linf") == 0
    if not len(x):
        return
    predicted = np.asarray(jnp.argmax(model(x_adv), axis=-1))
    targeted = getattr(attack, "targeted", False)
    succeeded = (predicted == np.asarray(given_labels)) == targeted
    unchanged = (np.asarray(x_adv) == np.asarray(x)).all(axis=(1, 2, 3))
    assert (succeeded | unchanged).all(), "a failed row is not the clean image"
    if name == "jsma":
        changed = (np.asarray(x_adv) != np.asarray(x)).reshape(len(x), -1).sum(axis=1)
        assert (changed <= float(attack.gamma) * x[0].size).all()


def test_uap_stays_in_its_ball(linear, images):
    for norm, eps in (("linf", 0.02), ("l2", 0.1)):  # of many steps of DeepFool's each would be too long
        attack = ATTACKS["uap"](eps=eps, norm=norm, passes=2).fit(linear, images, key=jax.random.key(0))
        x_adv = attack(linear, images, jnp.zeros(8, jnp.int32))
        assert violations(images, x_adv, eps, norm) == 0
        assert (np.asarray(x_adv) != np.asarray(images)).any()


def flattening(weights, x):
    return x.reshape(x.shape[0], -1) @ weights  # refuses an empty batch


def test_empty_batch_of_a_model_that_cannot_take_one():
    model = jax.tree_util.Partial(flattening, jnp.ones((9, 2)))
    x, labels = jnp.zeros((0, 3, 3, 1)), jnp.zeros(0, jnp.int32)
    for name in BUDGET + SEARCHING:
        assert ATTACKS[name]()(model, x, labels, key=jax.random.key(0)).shape == x.shape
    outcome = judge(model, x, x, labels)
    assert outcome.success.shape == (0,) and outcome.logits.shape == (0, 2)


def test_checker_sees_an_attack_that_escapes(linear, images):
    """Planted: a step without projection leaves the ball, a step without clipping leaves the box."""
    gradient = jax.grad(lambda x: linear(x)[:, 0].sum())(images)
    unprojected = jnp.clip(images + 0.4 * steepest(gradient, "linf"), min=0.0, max=1.0)
    assert violations(images, unprojected, 0.3, "linf") > 0
    unclipped = images + 0.3 * steepest(gradient, "linf")
    assert violations(images, unclipped, 0.3, "linf") > 0
    assert violations(images, images * jnp.nan, 0.3, "linf") == len(images)


def test_bfloat16_rounds_towards_the_clean_image(linear, images):
    x = images.astype(jnp.bfloat16)
    labels = jnp.argmax(linear(x), axis=-1).astype(jnp.int32)
    x_adv = BIM(eps=0.1, step_size=0.03, steps=4)(linear, x, labels)
    distance = np.abs(np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)).max()
    assert 0.09 < distance <= 0.1 + 1e-7  # not merely within an ulp: never farther than float32 went


def test_a_model_with_nan_gradients_returns_finite_images(images):
    def broken(weights, x):
        return jnp.sqrt(x.reshape(x.shape[0], -1) @ weights - 1e3)

    model = jax.tree_util.Partial(broken, jnp.ones((16, 3)))
    x_adv = PGD(steps=3)(model, images, jnp.zeros(8, jnp.int32), key=jax.random.key(0))
    assert violations(images, x_adv, 0.3, "linf") == 0
