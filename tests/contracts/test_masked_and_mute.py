"""What every attack owes to masked classes (-inf logits) and to models that give no answer (NaN, +inf)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.small import ready, small
from conftest import Linear, make_images, make_linear
from mute import Mute

from deepsec_jax import attacks
from deepsec_jax.attacks import ATTACKS, losses
from deepsec_jax.attacks.ead import both_rules
from deepsec_jax.evaluation import judge
from deepsec_jax.pytree import Struct, static

KEY = jax.random.key(0)
CUT = make_linear()
X = make_images()
LABELS = jnp.argmax(CUT(X), axis=-1).astype(jnp.int32)
INSIDE = Linear(0.2 * CUT.weights, jnp.zeros(3))


class Masked(Struct):
    """A model with one output more that is masked, as by ``jnp.where(allowed, logits, -jnp.inf)``."""

    whole: Linear
    added: bool = static(False)

    def __call__(self, x):
        logits = self.whole(x)
        allowed = jnp.arange(logits.shape[1]) < logits.shape[1] - 1
        if self.added:  # another spelling: the gradient of the hidden output goes on
            return logits + jnp.where(allowed, 0.0, -jnp.inf)[None]
        return jnp.where(allowed[None], logits, -jnp.inf)


def masked(added=False) -> Masked:
    """CUT with a hidden output whose own logits would win everywhere."""
    hidden = 3.0 * jax.random.normal(jax.random.key(7), (16, 1))
    return Masked(Linear(jnp.concatenate([CUT.weights, hidden], axis=1), jnp.append(CUT.bias, 50.0)), added)


def given(attack, labels=LABELS):
    return (labels + 1) % 3 if getattr(attack, "targeted", False) else labels


def searches(attack) -> bool:
    return getattr(attack, "card", None) is not None and attack.card.kind == "minimum-norm"


def lengths(x_adv) -> np.ndarray:
    return np.linalg.norm((np.asarray(x_adv) - np.asarray(X)).reshape(len(X), -1), axis=1)


OTHERS = {
    "deepfool-linf": attacks.DeepFool(steps=10, norm="linf"),
    "jsma-logits": attacks.JSMA(gamma=1.0, saliency="logits"),
    "jsma-either": attacks.JSMA(gamma=1.0, either=True),
    "pgd-max-margin": small("pgd").replace(loss=losses.max_margin),
    "pgd-dlr": small("pgd").replace(loss=losses.dlr),
    "pgd-cross-entropy": small("pgd").replace(loss=losses.cross_entropy),
    "square-guided": small("square").replace(guided=True),
    "apgd-aims": small("apgd").replace(aims=2),
    "least likely": attacks.LeastLikely(small("pgd").replace(targeted=True)),
    "multi target": attacks.MultiTarget(small("pgd").replace(targeted=True)),
    "restarts": attacks.Restarts(small("pgd"), n=2),
    "cascade": attacks.Cascade((small("fgsm"), small("pgd"))),
    "smallest eps": attacks.SmallestEps(small("fgsm"), search_steps=4),
}


def named(name):
    return small(name) if name in ATTACKS else OTHERS[name]


@pytest.mark.parametrize("name", [*ATTACKS, *OTHERS])
def test_a_masked_class_is_as_if_it_were_cut_off(name):
    """Success and distances as on the network without the output."""
    attack = named(name)
    expected = ready(attack, CUT, X)(CUT, X, given(attack), key=KEY)
    reached = np.asarray(judge(CUT, X, expected, LABELS).success)
    assert reached.any()
    both = name in ("fgsm", "umifgsm", "uap", "deepfool", "illc", "jsma", "jsma-logits", "cw2")
    for model in (masked(), masked(added=True))[: 1 + both]:
        x_adv = ready(attack, model, X)(model, X, given(attack), key=KEY)
        outcome = judge(model, X, x_adv, LABELS)
        np.testing.assert_array_equal(outcome.success, reached)
        assert not outcome.no_answer.any() and not outcome.probabilities[:, 3].any()
        if searches(attack) or name == "smallest eps":
            np.testing.assert_allclose(lengths(x_adv), lengths(expected), rtol=0.02, atol=1e-4)
        else:
            np.testing.assert_allclose(x_adv, expected, atol=1e-5)
        targets, cut = (
            attack.targets(model, X, given(attack), key=KEY),
            attack.targets(CUT, X, given(attack), key=KEY),
        )
        assert (targets is None) == (cut is None)
        if cut is not None:
            np.testing.assert_array_equal(targets, cut)


def test_the_least_likely_class_of_a_randomised_model_is_none_that_is_masked():
    from conftest import Noisy

    from deepsec_jax.attacks.least_likely import least_likely_class

    keys = jax.random.split(KEY, len(X))
    found = least_likely_class(Noisy(masked(), keys), X)
    np.testing.assert_array_equal(found, least_likely_class(Noisy(CUT, keys), X))


TARGETED = [name for name in ATTACKS if hasattr(ATTACKS[name], "targeted")]


@pytest.mark.parametrize("name", TARGETED)
def test_nothing_leads_to_a_masked_class(name):
    attack = small(name)
    if name != "jsma":
        attack = attack.replace(targeted=True)
    x_adv = np.asarray(attack(masked(), X, jnp.full(8, 3), key=KEY))
    assert np.isfinite(x_adv).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    assert not judge(masked(), X, x_adv, LABELS, targets=jnp.full(8, 3)).success.any()
    if searches(attack):
        np.testing.assert_array_equal(x_adv, X)
    else:
        assert np.abs(x_adv - np.asarray(X)).max() <= attack.eps + 1e-6


def test_both_rules_of_ead_and_masked_classes():
    attack = small("ead")
    for one, other in zip(
        jax.jit(both_rules)(attack, masked(), X, LABELS),
        jax.jit(both_rules)(attack, CUT, X, LABELS),
        strict=True,
    ):
        np.testing.assert_allclose(lengths(one), lengths(other), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("name", list(losses.LOSSES))
def test_losses_of_masked_classes(name):
    """Values and gradients as without the masked output; finite also where only two classes are left."""
    loss = losses.LOSSES[name]
    logits, labels = CUT(X), LABELS
    more = jnp.concatenate([logits, jnp.full((8, 1), -jnp.inf)], axis=1)
    np.testing.assert_allclose(loss(more, labels), loss(logits, labels), rtol=1e-6)
    gradients = [jax.grad(lambda z: loss(z, labels).sum())(each) for each in (logits, more)]
    np.testing.assert_allclose(gradients[1][:, :3], gradients[0], rtol=1e-6)
    np.testing.assert_array_equal(gradients[1][:, 3], 0.0)
    two = jnp.array([[1.0, -jnp.inf, 3.0], [-jnp.inf, 1.0, 3.0]])
    found = jax.grad(lambda z: loss(z, jnp.array([2, 1])).sum())(two)
    assert np.isfinite(loss(two, jnp.array([2, 1]))).all() and np.isfinite(found).all() and found.any()


ONES = jnp.ones(8, jnp.int32)
OF_CLASS_1 = make_images(rows=64, seed=2)[
    jnp.flatnonzero(jnp.argmax(CUT(make_images(rows=64, seed=2)), -1) == 1)[:8]
]


ONE_STEP = ("fgsm", "rfgsm", "uap", "llc", "rllc")  # they keep nothing: what they return nobody has asked
COMBINED = ("apgd-aims", "multi target", "restarts", "cascade", "smallest eps", "square-guided")


@pytest.mark.parametrize(
    ("name", "infinite"),
    [(name, False) for name in (*ATTACKS, *COMBINED)]
    # DeepFool stands for the searches, which share one definition of what they have reached.
    + [(name, True) for name in (*ATTACKS, *COMBINED) if name == "deepfool" or not searches(named(name))],
)
def test_no_answer_is_never_a_success(name, infinite):
    """The argmax of NaN is the NaN's class: every label but 0 would count as fooled."""
    attack, model = named(name), Mute(CUT, infinite)
    assert len(OF_CLASS_1) == 8
    attack = ready(attack, model, OF_CLASS_1)
    labels = 2 * ONES if getattr(attack, "targeted", False) else ONES
    fooling = attack(CUT, OF_CLASS_1, labels, key=KEY)
    assert (
        judge(CUT, OF_CLASS_1, fooling, ONES).success.any() or name == "uap"
    )  # planted: a model that answers
    x_adv = np.asarray(attack(model, OF_CLASS_1, labels, key=KEY))
    assert np.isfinite(x_adv).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    targets = attack.targets(model, OF_CLASS_1, labels, key=KEY)
    outcome = judge(model, OF_CLASS_1, x_adv, ONES, targets=targets)
    assert not outcome.success.any()
    silent = judge(model, OF_CLASS_1, fooling, ONES, targets=targets)
    assert not silent.success.any()
    np.testing.assert_array_equal(silent.no_answer, judge(CUT, OF_CLASS_1, fooling, ONES).success)
    if searches(attack) or name == "smallest eps":
        np.testing.assert_array_equal(x_adv, OF_CLASS_1)
    elif name not in ONE_STEP:
        assert not outcome.no_answer.any()  # among failures one that the model answers is kept


def test_counts_of_a_uap_leave_out_what_has_no_answer():
    """Half of the training images have no answer: they are never fooled, and pull at nothing."""
    model = Mute(CUT)
    mixed = jnp.concatenate([OF_CLASS_1, X[LABELS != 1]])
    fitted = small("uap").fit(model, mixed, key=KEY)
    assert float(fitted.fooling_rates.max()) == 0.0 and not np.any(fitted.delta)
