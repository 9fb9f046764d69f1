"""One eps per image: every row gets what it would get alone, whoever cuts, sorts or holds the attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from attacks.checkers import violations
from attacks.small import small
from deepsec_jax.attacks import (
    ATTACKS,
    BIM,
    DDN,
    FAB,
    FGSM,
    FMN,
    PGD,
    RFGSM,
    UAP,
    UMIFGSM,
    AutoAttack,
    Cascade,
    LeastLikely,
    Masked,
    MultiTarget,
    RandomTarget,
    Restarts,
    SmallestEps,
    Square,
    Transfer,
    Within,
    WorstCase,
    run_in_batches,
)
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.parts import Momentum, at_input
from deepsec_jax.attacks.settings import hyperparameters
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.attack_jobs import attacked
from deepsec_jax.pytree import Struct

KEY = jax.random.key(0)
BUDGET = [name for name in ATTACKS if ATTACKS[name].card.kind == "budget"]
WITH_L2 = ("bim", "pgd", "umifgsm", "illc", "tmifgsm", "apgd", "square")
EPS = np.array([0.02, 0.3, 0.0, 0.1, 0.25, 0.05, 0.4, 0.15], np.float32)


def scaled(attack, eps):
    """Return the attack at another eps, its other lengths in the same proportion."""
    lengths = ("step_size", "alpha")
    others = {name: getattr(attack, name) / 0.3 * eps for name in lengths if hasattr(attack, name)}
    return attack.replace(eps=eps, **others)


def goal(attack, model, x):
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    return (labels + 1) % 3 if getattr(attack, "targeted", False) else labels


@pytest.mark.parametrize(
    ("name", "norm"), [(name, "linf") for name in BUDGET] + [(name, "l2") for name in WITH_L2]
)
def test_every_row_as_with_its_own_number(name, norm, linear, images, compiles):
    attack = small(name)
    attack = attack.replace(norm=norm) if norm == "l2" else attack
    labels = goal(attack, linear, images)
    with compiles() as count:
        x_adv = np.asarray(scaled(attack, EPS)(linear, images, labels, key=KEY))
        other = scaled(attack, EPS[::-1].astype(np.float64))(linear, images, labels, key=KEY)
        assert count(type(attack).__name__) == 1  # another eps is no other program
    for row, eps in enumerate(EPS):
        alone = np.asarray(scaled(attack, float(eps))(linear, images, labels, key=KEY))
        np.testing.assert_allclose(x_adv[row], alone[row], atol=1e-6)
    assert violations(images, x_adv, EPS, norm) == 0 == violations(images, other, EPS[::-1], norm)
    assert violations(images, x_adv, EPS[::-1], norm) > 0  # planted: each the eps of another image


def test_as_many_images_as_channels():
    """NumPy's rules would take this eps for one per channel, per column, per row."""
    model, x = make_linear((3, 3, 3)), make_images(3, (3, 3, 3))
    eps = np.array([0.0, 0.1, 0.3])
    x_adv = np.asarray(FGSM(eps=eps)(model, x, jnp.argmax(model(x), axis=-1)))
    change = x_adv - np.asarray(x)
    np.testing.assert_allclose(np.abs(change).max(axis=(1, 2, 3)), eps, atol=1e-6)
    per_channel = np.clip(np.asarray(x) + eps * np.sign(change), 0, 1)
    assert violations(x, x_adv, eps, "linf") == 0 < violations(x, per_channel, eps, "linf")  # planted


def test_lengths_of_steps_per_image(linear, images):
    labels = goal(PGD(), linear, images)
    one_step = PGD(eps=0.4, step_size=EPS, steps=1, start=at_input)
    random_step = RFGSM(eps=0.4, alpha=EPS)  # the gradient's step is 0.4 - alpha long
    for attack, longest in ((one_step, EPS), (random_step, np.full(8, 0.4))):
        x_adv = attack(linear, images, labels, key=KEY)
        change = np.abs(np.asarray(x_adv) - np.asarray(images)).max(axis=(1, 2, 3))
        np.testing.assert_allclose(change, longest, atol=1e-6)


HELD = {
    "restarts": lambda: Restarts(PGD(eps=EPS, steps=3), n=2),
    "worst case": lambda: WorstCase((FGSM(eps=EPS), PGD(eps=EPS, steps=3))),
    # Square falls short of BIM, so the second attack gets survivors, sorted to the front.
    "cascade": lambda: Cascade((Square(eps=EPS, queries=3), BIM(eps=EPS, steps=3))),
    "transfer": lambda: Transfer(PGD(eps=EPS, steps=3), make_linear(seed=8)),
    "masked": lambda: Masked(BIM(eps=EPS, steps=3), np.arange(16).reshape(4, 4) < 9),
    "multi-target": lambda: MultiTarget(BIM(eps=EPS, steps=3, targeted=True), k=2),
    "random target": lambda: RandomTarget(BIM(eps=EPS, steps=3, targeted=True)),
    "least likely": lambda: LeastLikely(BIM(eps=EPS, steps=3, targeted=True)),
    "within": lambda: Within(FMN(norm="linf", steps=20), eps=EPS),
    "autoattack": lambda: AutoAttack(eps=EPS, steps=2, queries=4),
    "start of a search": lambda: Square(eps=EPS, queries=5, start=PGD(eps=EPS, steps=2)),
}


@pytest.mark.parametrize("held", HELD)
def test_held_by_other_attacks(held, linear, images):
    attack, labels = HELD[held](), goal(None, linear, images)
    x_adv = np.asarray(attack(linear, images, labels, key=KEY))
    assert violations(images, x_adv, EPS, "linf") == 0
    assert violations(images, x_adv, np.roll(EPS, 1), "linf") > 0  # planted: each the eps of another image
    # 5 and 3 rows: cut with the batch, filled up at its end.
    cut = run_in_batches(attack, linear, np.asarray(images), np.asarray(labels), key=KEY, batch_size=5)
    np.testing.assert_allclose(cut, x_adv, atol=1e-6)


def test_random_starts_in_a_radius_per_image(linear, images):
    """FAB is not bound by it; rows at radius 0 start where the first round does, at the clean image."""
    labels, radius = goal(None, linear, images), np.where(np.arange(8) < 4, 0.0, 0.3)
    attack = FAB(steps=3, restarts=2, aims=1)
    x_adv = np.asarray(attack.replace(radius=radius)(linear, images, labels, key=KEY))
    for value in (0.0, 0.3):
        alone = np.asarray(attack.replace(radius=value)(linear, images, labels, key=KEY))
        np.testing.assert_allclose(x_adv[radius == value], alone[radius == value], atol=1e-6)


def test_smallest_eps_searches_every_row_in_its_own_range(linear, images):
    labels = goal(None, linear, images)
    largest = np.array([0.4, 0.001, 0.4, 0.4, 0.001, 0.4, 0.4, 0.4], np.float32)
    whole = np.asarray(SmallestEps(BIM(steps=5), largest=0.4)(linear, images, labels))
    x_adv = np.asarray(SmallestEps(BIM(steps=5), largest=largest)(linear, images, labels))
    wide = largest > 0.1
    np.testing.assert_array_equal(x_adv[wide], whole[wide])
    assert (whole != np.asarray(images)).any(axis=(1, 2, 3)).all()
    assert (x_adv[~wide] == np.asarray(images)[~wide]).all()  # so small a ball holds no success


class OwnCall(Struct):
    """An attack whose call attack_call has not made, which knows no eps per image."""

    eps: float | jax.Array = 0.3
    targeted = False
    targets = label_targets

    def __call__(self, model, x, labels, *, key=None):
        assert jnp.ndim(self.eps) == 0
        return FGSM(eps=self.eps)(model, x, labels)


def test_smallest_eps_of_a_call_of_ones_own(linear, images):
    labels = goal(None, linear, images)
    ours, theirs = (SmallestEps(attack)(linear, images, labels) for attack in (OwnCall(), FGSM()))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


class Grey(Struct):
    """CONTRIBUTING's example, written without a thought of values per image."""

    eps: float | jax.Array = 0.3
    targeted = False
    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        return x + jnp.clip(0.5 - x, min=-self.eps, max=self.eps)


def test_an_attack_of_ones_own_takes_it_too(linear, images):
    x_adv = Grey(eps=EPS)(linear, images, goal(None, linear, images))
    expected = np.clip(0.5 - np.asarray(images), -EPS[:, None, None, None], EPS[:, None, None, None])
    np.testing.assert_allclose(x_adv, np.asarray(images) + expected, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (PGD(eps=np.full(3, 0.1)), r"PGD.eps has shape \[3\]: give one number, or one per image, \[8\]"),
        (FGSM(eps=np.full(1, 0.1)), r"FGSM.eps has shape \[1\].*\[8\]"),
        (BIM(eps=np.full((8, 1, 1, 1), 0.1)), r"BIM.eps has shape \[8, 1, 1, 1\].*\[8\]"),
        (Restarts(PGD(eps=np.full(4, 0.1)), n=2), r"PGD.eps has shape \[4\]"),
        (UMIFGSM(decay=np.ones(8)), r"UMIFGSM.decay has shape \[8\]: give one number; only eps"),
        (PGD(rule=Momentum(np.ones(8))), r"PGD.rule.decay has shape \[8\]: give one number; only eps"),
        (Square(share=np.ones(8)), r"Square.share has shape \[8\]"),
        (ATTACKS["cw2"](confidence=np.ones(8)), r"CW2.confidence has shape \[8\]"),
        (DDN(step_size=np.ones(8)), r"DDN.step_size has shape \[8\]: give one number; only eps"),
        (ATTACKS["deepfool"](overshoot=np.ones(8)), r"DeepFool.overshoot has shape \[8\]"),
    ],
)
def test_any_other_shape_is_refused(attack, message, linear, images):
    with pytest.raises(ValueError, match=message):
        attack(linear, images, goal(attack, linear, images), key=KEY)


def test_refused_before_compute(linear, images, compiles):
    x, labels = np.asarray(images), np.zeros(8, np.int32)
    with compiles() as count:
        with pytest.raises(ValueError, match=r"PGD has 4 values .*, x has 8 images"):
            run_in_batches(PGD(eps=np.full(4, 0.1)), linear, x, labels, key=KEY, batch_size=4)
        with pytest.raises(ValueError, match=r"UAP.eps has shape \[8\]"):
            UAP(eps=np.full(8, 0.1)).fit(linear, images, key=KEY)
        with pytest.raises(ValueError, match=r"eps must be a number or an array.*numpy.array"):
            PGD(eps=[0.1, 0.2])
        with pytest.raises(ValueError, match=r"eps must be finite and at least 0, got .*nan"):
            PGD(eps=np.array([0.1, np.nan]))
        with pytest.raises(ValueError, match="alpha must be at most eps"):
            RFGSM(eps=EPS, alpha=0.1)
        assert count("PGD") == 0


def test_rows_that_vmap_adds_are_not_images(linear, images):
    """An eps [n, B] under vmap: n attacks, each with one eps per image."""
    labels, grid = goal(None, linear, images), np.stack([EPS, EPS[::-1]])
    swept = jax.vmap(lambda eps: FGSM(eps=eps)(linear, images, labels))(jnp.asarray(grid))
    for eps, x_adv in zip(grid, swept, strict=True):
        np.testing.assert_allclose(x_adv, FGSM(eps=eps)(linear, images, labels), atol=1e-6)


def test_measured_with_one_eps_per_candidate(linear, images):
    labels, rows = np.asarray(goal(None, linear, images)), np.arange(8)
    candidates = Candidates(np.asarray(images), labels, labels, labels, rows, 0)
    for attack in (FGSM(eps=EPS), Square(eps=EPS, queries=3)):  # the second counts its calls
        _, arrays = attacked(attack, linear, candidates, key=KEY, batch_size=3)
        assert violations(images, arrays["x_adv"], EPS, "linf") == 0
        assert hyperparameters(attack)["eps"] == EPS.tolist()
