"""Masked: what lies outside the mask stays as it is, and what moves is as strong as can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear

from attacks.small import small
from deepsec_jax.attacks import FGSM, DeepFool, Masked
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)
TOP = np.arange(4)[:, None] < np.array([2, 2, 2, 2])  # the upper half of 4 x 4 pixels


def labels_of(model, x):
    return jnp.argmax(model(x), axis=-1).astype(jnp.int32)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "deepfool", "jsma", "square"])
def test_entries_outside_the_mask_stay(name, linear, images):
    labels = labels_of(linear, images)
    attack = small(name)
    goal = (labels + 1) % 3 if getattr(attack, "targeted", False) else labels
    x_adv = np.asarray(Masked(attack, TOP)(linear, images, goal, key=KEY))
    changed = x_adv != np.asarray(images)
    assert not changed[:, ~TOP].any()
    assert changed[:, TOP].any()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    whole = np.asarray(attack(linear, images, goal, key=KEY)) != np.asarray(images)
    assert whole[:, ~TOP].any()  # planted: the bare attack moves them


def test_deepfool_reaches_the_boundary_inside_the_mask():
    """Two classes: the nearest success that moves only the mask lies at gap / ||w over the mask||_2."""
    model = make_linear(classes=2, seed=4)
    x = 0.4 + 0.2 * make_images(rows=8, seed=5)
    labels = labels_of(model, x)
    difference = np.asarray(model.weights, np.float64) @ [1, -1]
    gap = np.abs(np.asarray(model(x), np.float64) @ [1, -1])
    expected = gap / np.linalg.norm(difference.reshape(4, 4)[TOP])
    found = judge(model, x, Masked(DeepFool(overshoot=0.0), TOP)(model, x, labels), labels)
    inside = expected < 0.4  # nearer than any edge of the box
    assert inside.any() and np.asarray(found.success)[inside].all()
    np.testing.assert_allclose(np.asarray(found.l2)[inside], expected[inside], atol=5e-4)
    # Planted: cut the mask out of what the bare attack made.  It does not reach the boundary.
    cut = jnp.where(TOP[None, :, :, None], DeepFool(overshoot=0.0)(model, x, labels), x)
    assert not np.asarray(judge(model, x, cut, labels).success)[inside].any()


def test_one_mask_per_image_and_randomised_models(linear, images):
    masks = jax.random.bernoulli(KEY, 0.5, (8, 4, 4, 1))
    model = Noisy(linear, jax.random.split(KEY, 8))
    x_adv = Masked(FGSM(eps=0.2), masks)(model, images, labels_of(linear, images), key=KEY)
    changed = np.asarray(x_adv) != np.asarray(images)
    assert not (changed & ~np.asarray(masks)).any() and changed.any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [(np.ones((4, 4)), "must be bool"), (np.ones((3, 4), bool), r"\[3, 4\]"), (np.ones(4, bool), r"\[4\]")],
)
def test_a_mask_that_fits_no_image_is_refused(mask, message, linear, images):
    with pytest.raises(ValueError, match=message):
        Masked(FGSM(), mask)(linear, images, labels_of(linear, images))
