"""The attacks that search for the smallest change, against optima found by scipy and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, Noisy, make_images, make_linear

from attacks.optima import closest_l1, closest_l2, optimum
from deepsec_jax import attacks
from deepsec_jax.attacks import BLB, CW2, EAD, JSMA, DeepFool, OptMargin
from deepsec_jax.attacks.ead import both_rules
from deepsec_jax.attacks.optmargin import copies_noise
from deepsec_jax.evaluation import judge
from deepsec_jax.randomness import example_keys

KEY = jax.random.key(0)

ATTACKS = {
    "cw2": (CW2(c=0.01, learning_rate=0.01, steps=1000), closest_l2, "l2"),
    "blb": (BLB(search_steps=15), closest_l2, "l2"),
    "ead": (EAD(rule="l1", c=0.01, beta=0.03, learning_rate=0.005, steps=2000), closest_l1, "l1"),
}
PIXELS = {"box inactive": (0.4, 0.6, 0.3), "box active": (0.0, 1.0, 1.0)}  # from, to, scale of the gaps


CASES = [(case, box, 8) for case in ("two classes", "five classes, targeted") for box in PIXELS]
CASES = [
    pytest.param(
        *case, marks=[] if case[:2] == ("five classes, targeted", "box active") else pytest.mark.long
    )
    for case in CASES
]
CASES += [
    pytest.param("five classes, targeted", "box active", rows, marks=pytest.mark.long) for rows in (1, 3)
]


@pytest.mark.parametrize(("case", "box", "rows"), CASES)
@pytest.mark.parametrize("name", list(ATTACKS))
def test_near_the_optimum(name, case, box, rows):
    attack, closest, distance = ATTACKS[name]
    low, high, _ = PIXELS[box]
    classes = 2 if case == "two classes" else 5
    model = make_linear(classes=classes, seed=3, scale=2.0)
    x = low + (high - low) * make_images(rows=8, seed=2)
    if box == "box active":  # exact zeros and ones, which must be able to move
        x = jnp.where(x < 0.3, 0.0, jnp.where(x > 0.7, 1.0, x))
    x = x[:rows]
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    targets = None if classes == 2 else (labels + 1) % classes
    attack = attack.replace(targeted=targets is not None)
    x_adv = attack(model, x, labels if targets is None else targets, key=KEY)
    outcome = judge(model, x, x_adv, labels, targets=targets)
    best = optimum(model, x, labels, targets, closest)
    assert np.isfinite(best).all() and (np.asarray(outcome.success) == 1).all()
    ratio = np.asarray(getattr(outcome, distance)) / best
    assert ratio.max() <= 1.05, ratio
    assert ratio.min() >= 0.999, "closer than the optimum: the oracle is wrong"
    if box == "box active":
        at_bound = (np.asarray(x) == 0) | (np.asarray(x) == 1)
        moved = np.asarray(x_adv) != np.asarray(x)
        assert (at_bound & moved).any()


def test_a_planted_coarse_search_is_seen():
    """What DEEPSEC's search does: after the first success c only falls, and is never bisected."""
    model = make_linear(classes=2, seed=3, scale=2.0)
    x = 0.4 + 0.2 * make_images(rows=8, seed=2)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    best = optimum(model, x, labels, None, closest_l2)
    coarse = BLB(c=100.0, search_steps=1)(model, x, labels)
    assert (np.asarray(judge(model, x, coarse, labels).l2) / best).max() > 1.05


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_deepfool_finds_the_nearest_face_in_one_step(norm, rows):
    """Affine model, box inactive: one step to min |z_j - z_y| / ||w_j - w_y||_q, times 1.02."""
    model = make_linear(classes=6, seed=5)
    x = 0.45 + 0.1 * make_images(rows=rows, seed=6)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    weights, logits = np.asarray(model.weights, np.float64), np.asarray(model(x), np.float64)
    best = []
    for row, label in enumerate(np.asarray(labels)):
        gap = logits[row, label] - np.delete(logits[row], label)
        normal = np.delete(weights, label, axis=1) - weights[:, [label]]
        length = np.linalg.norm(normal, axis=0) if norm == "l2" else np.abs(normal).sum(axis=0)
        best.append((gap / length).min())
    counted = attacks.count_calls(DeepFool(norm=norm), model, x, labels)
    outcome = judge(model, x, counted.x, labels)
    assert (np.asarray(outcome.success) == 1).all()
    np.testing.assert_allclose(getattr(outcome, norm), 1.02 * (np.array(best) + 1e-4), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(counted.gradients, np.full(rows, 5.0))  # no surplus step


def curved(weights, x):
    """Logits of a network whose gradients change from step to step."""
    return jnp.square(jnp.sin(x.reshape(x.shape[0], -1) @ weights[0])) @ weights[1]


def stepped_in_the_box(model, x, label, norm):
    """DeepFool of one image in NumPy: every image is clipped, and the next step starts there."""
    for steps in range(50):
        logits = np.asarray(model(x[None])[0], np.float64)
        if logits.argmax() != label:
            return x, steps
        jacobian = np.asarray(jax.jacrev(lambda point: model(point[None])[0])(x), np.float64)
        gaps = np.delete(np.abs(logits - logits[label]), label)
        normals = np.delete(jacobian - jacobian[label], label, axis=0).reshape(len(gaps), -1)
        lengths = np.linalg.norm(normals, axis=1) if norm == "l2" else np.abs(normals).sum(axis=1)
        nearest = (gaps / lengths).argmin()
        direction = normals[nearest] / lengths[nearest] if norm == "l2" else np.sign(normals[nearest])
        step = 1.02 * (gaps[nearest] / lengths[nearest] + 1e-4) * direction.reshape(x.shape)
        x = jnp.clip(np.asarray(x) + step, 0, 1).astype(jnp.float32)
    raise AssertionError("no success")


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_steps_from_inside_the_box(norm):
    """Images of zeros and ones, several steps: what the box has cut off must not be made up for later."""
    one, two = jax.random.split(KEY)
    weights = jax.random.normal(one, (16, 12)), jax.random.normal(two, (12, 4))
    model = jax.tree_util.Partial(curved, weights)
    x = jnp.round(make_images(rows=16, seed=6))
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    expected, steps = zip(
        *[stepped_in_the_box(model, row, label, norm) for row, label in zip(x, labels, strict=True)],
        strict=True,
    )
    assert max(steps) >= 3
    np.testing.assert_allclose(DeepFool(norm=norm)(model, x, labels), np.stack(expected), atol=1e-4)


def test_deepfool_looks_at_the_k_likeliest_classes_only(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    few = attacks.count_calls(DeepFool(k=1), linear, images, labels)
    assert set(np.asarray(few.gradients) / np.maximum(1, np.asarray(few.forwards) - 1)) <= {0.0, 1.0}
    assert judge(linear, images, few.x, labels).success.mean() == 1


def test_one_run_of_ead_serves_both_rules(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    attack = EAD(c=0.1, steps=100, search_steps=4, beta=0.01)
    both = jax.jit(both_rules)(attack, linear, images, labels)
    np.testing.assert_array_equal(both.en, attack(linear, images, labels))
    np.testing.assert_array_equal(both.l1, attack.replace(rule="l1")(linear, images, labels))
    en, l1 = (judge(linear, images, x_adv, labels) for x_adv in both)
    assert (np.asarray(l1.l1) <= np.asarray(en.l1) + 1e-6).all()
    elastic = [np.asarray(o.l2) ** 2 + 0.01 * np.asarray(o.l1) for o in (en, l1)]
    assert (elastic[0] <= elastic[1] + 1e-6).all()


def test_optmargin_fools_all_its_noisy_copies(tiny_cnn):
    x = make_images(rows=6, shape=(8, 8, 1))
    labels = jnp.argmax(tiny_cnn(x), axis=-1).astype(jnp.int32)
    attack = OptMargin(noise=0.05, copies=8, c=0.1, learning_rate=0.05, steps=100)
    x_adv = attack(tiny_cnn, x, labels, key=KEY)
    noise = copies_noise(example_keys(KEY, 6), x.shape[1:], copies=8, noise=0.05)
    moved = (np.asarray(x_adv) != np.asarray(x)).any(axis=(1, 2, 3))
    assert moved.any()

    def all_fooled(images):
        copies = (images[:, None] + noise).reshape(-1, *x.shape[1:])
        wrong = jnp.argmax(tiny_cnn(copies), axis=-1).reshape(6, 8) != labels[:, None]
        return np.asarray(wrong.all(axis=1))

    assert all_fooled(x_adv)[moved].all()
    # Planted: success on the clean copy alone, as in DEEPSEC, leaves noisy copies that are not fooled.
    plain = CW2(c=0.1, learning_rate=0.05, steps=100)(tiny_cnn, x, labels)
    assert not all_fooled(plain)[moved].all()
    farther = judge(tiny_cnn, x, x_adv, labels).l2[moved] >= judge(tiny_cnn, x, plain, labels).l2[moved]
    assert np.asarray(farther).mean() >= 0.5


def test_optmargins_noise_is_orthogonal_and_as_long_as_its_authors_make_it():
    noise = np.asarray(copies_noise(example_keys(KEY, 3), (8, 8, 1), copies=20, noise=0.3)).reshape(3, 20, -1)
    np.testing.assert_allclose(np.linalg.norm(noise[:, :-1], axis=2), 0.3 * 8, rtol=1e-5)
    assert (noise[:, -1] == 0).all()
    products = np.einsum("bid,bjd->bij", noise, noise)
    off = products - np.einsum("bii->bi", products)[:, :, None] * np.eye(20)
    assert np.abs(off).max() < 1e-4


@pytest.mark.long
def test_confidence_is_kept(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    distances = []
    for confidence in (0.0, 1.0):
        attack = CW2(confidence=confidence, c=0.1, steps=200, search_steps=5, learning_rate=0.05)
        x_adv = attack(linear, images, labels)
        logits = np.asarray(linear(x_adv))
        true = logits[np.arange(8), np.asarray(labels)]
        margin = np.where(np.eye(3, dtype=bool)[np.asarray(labels)], -np.inf, logits).max(axis=1) - true
        assert (margin >= confidence - 1e-5).all()
        distances.append(np.asarray(judge(linear, images, x_adv, labels).l2))
    assert (distances[1] > distances[0]).all()


@pytest.mark.parametrize(
    "attack",
    [
        CW2(c=0.1, steps=60),
        *(
            pytest.param(each, marks=pytest.mark.long)
            for each in (EAD(c=1.0, steps=60, settle=0, pruning=0), BLB(c=0.1, steps=30))
        ),
    ],
    ids=repr,
)
def test_more_search_steps_are_never_worse(attack, tiny_cnn):
    x = make_images(rows=6, shape=(8, 8, 1))
    labels = jnp.argmax(tiny_cnn(x), axis=-1).astype(jnp.int32)

    def distances(search_steps):
        x_adv = attack.replace(search_steps=search_steps)(tiny_cnn, x, labels)
        outcome = judge(tiny_cnn, x, x_adv, labels)
        l1, l2 = np.asarray(outcome.l1), np.asarray(outcome.l2)
        value = l2**2 + attack.beta * l1 if isinstance(attack, EAD) else l2
        return np.where(np.asarray(outcome.success) == 1, value, np.inf)

    few, more, most = (distances(count) for count in (2, 4, 8))
    assert (more <= few * (1 + 1e-6)).all() and (most <= more * (1 + 1e-6)).all()
    assert not (few <= most * (1 + 1e-6)).all(), "planted: the other way round it does not hold"


@pytest.mark.long
@pytest.mark.parametrize("rule", ["en", "l1"])
def test_what_ead_does_after_its_search_is_never_worse_than_the_search(rule, tiny_cnn):
    x = make_images(rows=12, shape=(8, 8, 1))
    labels = jnp.argmax(tiny_cnn(x), axis=-1).astype(jnp.int32)

    def distances(attack):
        outcome = judge(tiny_cnn, x, attack(tiny_cnn, x, labels), labels)
        assert (outcome.success == 1).all()
        l1, l2 = np.asarray(outcome.l1), np.asarray(outcome.l2)
        return l1 if rule == "l1" else l2**2 + attack.beta * l1

    attack = EAD(c=1.0, steps=60, search_steps=6, rule=rule, settle=40)
    bare, settled, both = (
        distances(each) for each in (attack.replace(settle=0, pruning=0), attack.replace(pruning=0), attack)
    )
    assert (settled <= bare * (1 + 1e-6)).all() and (both <= settled * (1 + 1e-6)).all()
    assert (both < bare * (1 - 1e-3)).any(), "it does something"


@pytest.mark.long
def test_order_of_the_field(digits_model):
    """G.8: CW2 <= DeepFool <= smallest successful FGSM in median L2; EAD-L1 <= CW2 in L1.

    On so small a network DeepFool's linear step is nearly exact, and CW2, which follows the likeliest wrong
    class, may end 5 % behind; BLB, which sees all classes, does not.
    """
    model, x, labels = digits_model
    x, labels = x[:40], labels[:40]

    def measured(attack):
        outcome = judge(model, x, attack(model, x, labels, key=KEY), labels)
        assert outcome.success.mean() == 1, type(attack).__name__
        return float(jnp.median(outcome.l2)), float(jnp.median(outcome.l1))

    search = {"c": 0.1, "search_steps": 6, "steps": 200, "learning_rate": 0.05}
    cw2, ead = measured(CW2(**search)), measured(EAD(rule="l1", **search))
    deepfool, fgsm = measured(DeepFool()), measured(attacks.SmallestEps(attacks.FGSM()))
    blb, margin = measured(BLB()), measured(OptMargin(noise=0.05, copies=4, **search))
    assert blb[0] <= deepfool[0] <= fgsm[0] and blb[0] <= cw2[0] <= 1.05 * deepfool[0]
    assert ead[1] <= cw2[1] and margin[0] >= blb[0]


@pytest.mark.parametrize(
    ("saliency", "theta"),
    [
        ("probabilities", 1.0),
        ("logits", -1.0),
        ("probabilities", 0.5),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (("logits", 1.0), ("logits", 0.5), ("probabilities", -1.0))
        ),
    ],
)
def test_jsma_follows_its_definition(saliency, theta, tiny_cnn):
    """Step by step in NumPy: the Jacobian by jax.jacrev, the pair by going through all."""
    x = make_images(rows=4, shape=(8, 8, 1), seed=8)
    targets = (jnp.argmax(tiny_cnn(x), axis=-1) + 3) % 10
    attack = JSMA(theta=theta, gamma=0.2, saliency=saliency)
    x_adv = attack(tiny_cnn, x, targets.astype(jnp.int32))
    for row in range(4):
        expected = jsma_by_hand(tiny_cnn, x[row], int(targets[row]), theta, 0.2, saliency)
        np.testing.assert_allclose(x_adv[row], expected, atol=1e-6)


def jsma_by_hand(model, image, target, theta, gamma, saliency):
    flat, shape = np.asarray(image, np.float64).ravel(), image.shape

    def outputs(point):
        logits = model(point.reshape(1, *shape))[0]
        return jax.nn.softmax(logits) if saliency == "probabilities" else logits

    for looked in range(int(gamma * flat.size / 2) + 1):
        point = jnp.asarray(flat, jnp.float32)
        if int(jnp.argmax(outputs(point))) == target:
            return flat.reshape(shape)
        if looked == int(gamma * flat.size / 2):
            break
        jacobian = np.asarray(jax.jacrev(outputs)(point), np.float64) * np.sign(theta)
        gain, others = jacobian[target], jacobian.sum(axis=0) - jacobian[target]
        if saliency == "probabilities":
            others = -gain  # probabilities sum to one
        allowed = flat < 0.99 if theta > 0 else flat > 0.01
        best, pair = 0.0, None
        for p in range(flat.size):
            for q in range(p + 1, flat.size):
                a, b = gain[p] + gain[q], others[p] + others[q]
                if allowed[p] and allowed[q] and a > 0 > b and -a * b > best:
                    best, pair = -a * b, (p, q)
        if pair is None:
            break
        flat[list(pair)] = np.clip(flat[list(pair)] + theta, 0, 1)
    return np.asarray(image, np.float64)


def test_a_randomised_model_is_searched_under_fresh_draws(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    model = Noisy(linear, jax.random.split(KEY, 8))
    for attack in (CW2(c=0.1, steps=40, search_steps=3, learning_rate=0.05), DeepFool(steps=5)):
        x_adv = attack(model, images, labels, key=KEY)
        np.testing.assert_array_equal(x_adv, attack(model, images, labels, key=KEY))
        assert (x_adv != attack(model, images, labels, key=jax.random.key(1))).any()


@pytest.mark.long
def test_bfloat16_images_are_judged_as_they_are_stored(linear, images):
    x = images.astype(jnp.bfloat16)
    labels = jnp.argmax(linear(x), axis=-1).astype(jnp.int32)
    for attack in (CW2(c=0.1, steps=100, learning_rate=0.05), BLB(), EAD(c=0.1, steps=100), DeepFool()):
        x_adv = attack(linear, x, labels)
        moved = (np.asarray(x_adv, np.float32) != np.asarray(x, np.float32)).any(axis=(1, 2, 3))
        success = np.asarray(judge(linear, x, x_adv, labels).success) == 1
        assert x_adv.dtype == x.dtype and (success == moved).all() and success.any()


def test_a_model_without_gradients_leaves_the_clean_image(images):
    flat = Linear(jnp.zeros((16, 3)), jnp.asarray([1.0, 0.0, 0.0]))
    for attack in (DeepFool(), JSMA(gamma=1.0)):
        counted = attacks.count_calls(
            attack, flat, images, jnp.zeros(8, jnp.int32) + (2 if isinstance(attack, JSMA) else 0)
        )
        np.testing.assert_array_equal(counted.x, images)
        assert np.asarray(counted.gradients).max() <= 2, "stuck rows stop at once"


def test_what_jsma_fails_at_within_its_budget_comes_back_clean():
    model, x = make_linear(classes=3, seed=3), make_images(rows=40, seed=2)
    targets = (jnp.argmax(model(x), axis=-1) + 1) % 3
    x_adv = JSMA(gamma=0.125)(model, x, targets)  # one pair
    done = np.asarray(jnp.argmax(model(x_adv), axis=-1) == targets)
    assert 4 <= done.sum() <= 36
    np.testing.assert_array_equal(np.asarray(x_adv != x).any(axis=(1, 2, 3)), done)


def steep(model, x):
    """Logits whose gap falls faster far from the boundary: one step along its gradient is too short."""
    gap = model(x)[:, 0] - model(x)[:, 1]
    return jnp.stack([jnp.sign(gap) * jnp.expm1(jnp.abs(gap)), jnp.zeros_like(gap)], axis=1)


def test_what_deepfool_fails_at_within_its_steps_comes_back_clean():
    x = 0.3 + 0.4 * make_images(rows=8, seed=2)
    model = jax.tree_util.Partial(steep, make_linear(classes=2, seed=3))
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    np.testing.assert_array_equal(DeepFool(steps=1)(model, x, labels), x)
    assert (jnp.argmax(model(DeepFool()(model, x, labels)), axis=-1) != labels).all()
