"""AutoAttack: as strong as each of its members, within the ball, for few classes, and row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from attacks.checkers import violations
from deepsec_jax.attacks import FAB, AutoAttack, DeepFool, Within
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)


def labels_of(model, x):
    return jnp.argmax(model(x), axis=-1).astype(jnp.int32)


def success(model, x, labels, attack):
    x_adv = attack(model, x, labels, key=KEY)
    return x_adv, np.asarray(judge(model, x, x_adv, labels).success)


@pytest.mark.parametrize(
    ("norm", "classes"),
    [
        ("linf", 2),
        ("l2", 5),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (("linf", 5), ("l2", 2), ("linf", 3), ("l2", 3))
        ),
    ],
)
def test_no_member_fools_a_row_that_the_whole_does_not(norm, classes):
    model = make_linear(classes=classes, seed=6)
    x = make_images(16, seed=8)
    labels = labels_of(model, x)
    eps = {"linf": 0.03, "l2": 0.1}[norm]
    whole = AutoAttack(eps=eps, norm=norm, steps=10, queries=20)
    x_adv, fooled = success(model, x, labels, whole)
    assert violations(x, x_adv, eps, norm) == 0
    assert 0 < fooled.mean() < 1
    every = [success(model, x, labels, member)[1] for member in whole.members(classes)]
    assert (fooled >= np.max(every, axis=0)).all()


def test_of_a_linear_model_exactly_the_images_within_eps_fall():
    """Two classes, L-inf: an image falls where its gap / ||w||_1 is at most eps, and the box has room."""
    model = make_linear(classes=2, seed=4)
    x = 0.4 + 0.2 * make_images(rows=16, seed=5)
    gap = np.abs(np.asarray(model(x), np.float64) @ [1, -1])
    distance = gap / np.abs(np.asarray(model.weights, np.float64) @ [1, -1]).sum()
    eps = float(np.median(distance))
    _, fooled = success(model, x, labels_of(model, x), AutoAttack(eps=eps, steps=20, queries=20))
    clear = np.abs(distance - eps) > 1e-5
    np.testing.assert_array_equal(fooled[clear], (distance < eps)[clear])


def test_what_is_farther_than_eps_comes_back_clean(linear, images):
    labels = labels_of(linear, images)
    x_adv = np.asarray(Within(DeepFool(), 0.05, "l2")(linear, images, labels))
    size = np.linalg.norm((x_adv - np.asarray(images)).reshape(8, -1), axis=1)
    bare = np.asarray(DeepFool()(linear, images, labels) - images).reshape(8, -1)
    near = np.linalg.norm(bare, axis=1) <= 0.05
    assert near.any() and not near.all()
    np.testing.assert_array_equal(size > 0, near)
    assert Within(FAB(restarts=2), 0.1).needs_key


def test_versions():
    assert [len(AutoAttack(version=name).members(10)) for name in ("standard", "plus", "rand", "fast")] == [
        4,
        7,
        2,
        2,
    ]
    with pytest.raises(ValueError, match="standard"):
        AutoAttack(version="standart")  # codespell:ignore
