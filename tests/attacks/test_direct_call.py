"""attack(model, x, labels): what is checked without waiting for a device, and what an image outside gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images

from attacks.small import ready, small
from deepsec_jax.attacks import (
    ATTACKS,
    BIM,
    CW2,
    FGSM,
    JSMA,
    LLC,
    PGD,
    RFGSM,
    RLLC,
    UAP,
    Restarts,
    SmallestEps,
    count_calls,
    losses,
)
from deepsec_jax.attacks.ascent import ascend
from deepsec_jax.attacks.parts import Cosine, Momentum, Steepest, at_input
from deepsec_jax.catalog import UnknownName

KEY = jax.random.key(0)
LONG = ("optmargin", "blb", "ead")
NAMES = [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in ATTACKS]


BFLOAT16 = np.dtype(jnp.bfloat16).type  # NumPy's; jnp.bfloat16 makes arrays of jax


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.float16, BFLOAT16, np.array, np.int32])
@pytest.mark.parametrize("value", [-1, -0.1, float("nan"), float("inf")])
def test_no_number_that_an_attack_cannot_mean(kind, value):
    value = -1 if kind is np.int32 else value
    for build in (
        lambda: PGD(eps=kind(value)),
        lambda: PGD(step_size=kind(value)),
        lambda: CW2(confidence=kind(value)),
        lambda: SmallestEps(FGSM(), largest=kind(value)),
        lambda: UAP(eps=kind(value)),
        lambda: Momentum(decay=kind(value)),
        lambda: PGD(eps=np.array([0.1, kind(value)])),
    ):
        with pytest.raises(ValueError, match="must be finite and at least 0, got"):
            build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: JSMA(theta=np.float32(0.0)), "theta must be finite and not 0"),
        (lambda: Cosine(steps=0.0), "Cosine.steps must be finite and above 0"),
        (lambda: FGSM(eps="0.3"), "FGSM.eps must be a number, got '0.3'"),
        (lambda: FGSM(eps=np.array("0.3")), "FGSM.eps must be a number"),
        (lambda: FGSM(eps=np.complex64(0.3)), "FGSM.eps must be a number"),
        (lambda: RFGSM(alpha=np.float32(0.5)), "alpha must be at most eps"),
        (lambda: RLLC(eps=np.float32(0.1), alpha=0.2), "alpha must be at most eps"),
        (lambda: PGD(steps=2.0), "steps must be an integer"),
    ],
)
def test_no_other_kind_of_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_good_numbers_of_any_kind_and_arrays_of_jax_pass(linear, images):
    labels = jnp.argmax(linear(images), axis=-1)
    wanted = FGSM(eps=0.25)(linear, images, labels)
    for eps in (np.float32(0.25), np.float64(0.25), np.float16(0.25), jnp.bfloat16(0.25), jnp.float32(0.25)):
        np.testing.assert_array_equal(FGSM(eps=eps)(linear, images, labels), wanted)
    RFGSM(eps=0.3, alpha=np.float32(0.3))  # the nearest float32 lies above 0.3
    traced = jax.jit(lambda eps: FGSM(eps=eps)(linear, images, labels))(-0.25)
    assert traced.shape == images.shape  # not looked at, as the docs say
    assert FGSM(eps=jnp.float32(-1.0)).eps == -1.0


BAD = {
    "0 .. 255": lambda x: x * 255,
    "-1 .. 1": lambda x: 2 * x - 1,
    "NaN": lambda x: np.where(np.arange(len(x))[:, None, None, None] == 3, np.nan, x).astype(x.dtype),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_numpys_images_outside_the_box_are_refused_before_compute(name, bad, linear, compiles):
    x = np.asarray(make_images())
    attack = ready(small(name), linear, x)
    with compiles() as count:
        with pytest.raises(ValueError, match=r"image \d has values from .*: bring images to \[0, 1\]"):
            attack(linear, BAD[bad](x), np.zeros(8, np.int32), key=KEY)
        with pytest.raises(ValueError, match="bring images to"):
            count_calls(CW2(), linear, BAD[bad](x), np.zeros(8, np.int32))
        assert count() == 0


@pytest.mark.parametrize("name", NAMES)
def test_device_images_outside_the_box_come_back_as_no_number(name, linear, images):
    """Nobody waits for the device to look; and no figure is built on what comes back."""
    attack = ready(small(name), linear, images)
    labels = jnp.zeros(8, jnp.int32)
    wanted = np.array(attack(linear, images, labels, key=KEY))
    spoilt = images.at[1].multiply(255.0).at[2].set(jnp.nan).at[3].add(-0.5).at[4, 0, 0, 0].set(jnp.inf)
    x_adv = np.asarray(attack(linear, spoilt, labels, key=KEY))
    good = np.array([0, 5, 6, 7])
    np.testing.assert_allclose(x_adv[good], wanted[good], atol=1e-5)
    assert np.isnan(x_adv[1:5]).all()
    # A hair outside, as resizing leaves it, is clipped.
    hair = jnp.where(images > 0.5, images, -1e-5).at[0, 0, 0, 0].set(1.0 + 1e-6)
    x_adv = np.asarray(attack(linear, hair, labels, key=KEY))
    assert x_adv.min() >= 0 if hasattr(attack, "eps") else np.isfinite(x_adv).all()


def test_labels_of_numpy_below_zero_are_refused(linear, images):
    with pytest.raises(ValueError, match="labels must be classes from 0, got -1"):
        FGSM()(linear, images, np.array([0, 1, 2, -1, 0, 0, 0, 0]))


def test_uap_is_not_fitted_to_images_outside(linear):
    with pytest.raises(ValueError, match="bring images to"):
        UAP().fit(linear, np.asarray(make_images()) * 255, key=KEY)


WITH_LOSS = [name for name in ATTACKS if hasattr(ATTACKS[name](), "loss")]


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_loss_by_its_name(name, linear, images, compiles):
    cls = ATTACKS[name]
    for word, loss in {**losses.LOSSES, "ce": losses.cross_entropy, "cw": losses.max_margin}.items():
        assert cls(loss=word) == cls(loss=loss) and cls(loss=word).loss is loss
    labels = jnp.zeros(8, jnp.int32)
    wanted = small(name).replace(loss=losses.dlr)(linear, images, labels, key=KEY)
    with compiles() as count:
        named = small(name).replace(loss="dlr")(linear, images, labels, key=KEY)
        assert count(cls.__name__) == 0  # the same program
    np.testing.assert_array_equal(named, wanted)
    with pytest.raises(UnknownName, match=r"unknown loss 'crossentropy'. Did you mean cross_entropy"):
        cls(loss="crossentropy")


def test_a_loss_by_its_name_inside_and_beside_attacks(linear, images):
    labels = jnp.zeros(8, jnp.int32)
    held = Restarts(PGD(loss="ce", steps=2), n=2)
    assert held.attack.loss is losses.cross_entropy and repr(held) == repr(held.replace())
    settings = dict(eps=0.1, step_size=0.05, steps=2, norm="linf", targeted=False, start=at_input)
    named, given = (
        ascend(linear, images, labels, None, loss=loss, rule=Steepest(), **settings)
        for loss in ("cw", losses.max_margin)
    )
    np.testing.assert_array_equal(named, given)
    wanted = BIM(loss=losses.cross_entropy)(linear, images, labels)
    np.testing.assert_array_equal(BIM(loss="ce")(linear, images, labels), wanted)


@pytest.mark.parametrize(
    ("kind", "eps"),
    [(FGSM, 8), (PGD, 8.0), (PGD, np.array([0.1, 8.0, 0.1])), (LLC, np.float32(8)), (UAP, 8.0)],
)
def test_an_eps_in_units_of_255_is_refused(linear, kind, eps):
    attack = kind(eps=eps)  # building it says nothing: its norm may still change
    x, labels = make_images(rows=3), np.zeros(3, int)
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.eps is 8, but images are in \[0, 1\]"):
        if kind is UAP:
            attack.fit(linear, np.asarray(x), key=KEY)
        else:
            attack(linear, x, labels, key=KEY)


def test_what_may_be_above_one(linear):
    x, labels = make_images(rows=3), np.zeros(3, int)
    for attack in (PGD(eps=8.0, norm=2), PGD(eps=1.0), PGD(eps=jnp.float32(8)), Restarts(PGD(eps=1), n=2)):
        assert attack(linear, x, labels, key=KEY).shape == x.shape
