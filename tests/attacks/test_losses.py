"""Losses against scipy and by hand; and the property they exist for: no saturation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from deepsec_jax.attacks import losses

LOGITS = np.array([[2.0, -1.0, 0.5, 0.0], [0.0, 3.0, 1.0, -2.0]], np.float32)
LABELS = np.array([0, 2], np.int32)


def test_values_against_scipy():
    others = [np.delete(row, label) for row, label in zip(LOGITS, LABELS, strict=True)]
    true = LOGITS[[0, 1], LABELS]
    np.testing.assert_allclose(
        losses.logit_gap(LOGITS, LABELS), [logsumexp(o) for o in others] - true, rtol=1e-6
    )
    np.testing.assert_allclose(losses.max_margin(LOGITS, LABELS), [o.max() for o in others] - true, rtol=1e-6)
    third = np.sort(LOGITS, axis=1)[:, -3]
    expected = ([o.max() for o in others] - true) / (LOGITS.max(axis=1) - third)
    np.testing.assert_allclose(losses.dlr(LOGITS, LABELS), expected, rtol=1e-6)
    expected = -log_softmax(LOGITS, axis=1)[[0, 1], LABELS]
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


def test_logit_gap_has_cross_entropys_direction():
    def gradient(loss):
        return jax.grad(lambda z: loss(z, LABELS).sum())(jnp.asarray(LOGITS))

    gap, entropy = gradient(losses.logit_gap), gradient(losses.cross_entropy)
    cosine = jnp.sum(gap * entropy, axis=1) / (
        jnp.linalg.norm(gap, axis=1) * jnp.linalg.norm(entropy, axis=1)
    )
    np.testing.assert_allclose(cosine, 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["logit_gap", "max_margin"])
def test_gradient_does_not_saturate(name):
    confident = jnp.asarray([[200.0, 0.0, -5.0, 1.0]])
    gradient = jax.grad(lambda z: losses.LOSSES[name](z, jnp.array([0])).sum())(confident)
    assert gradient[0, 0] == -1.0 and jnp.abs(gradient).sum() == 2.0
    # Planted: cross-entropy, on the same logits, has no gradient left at all.
    lost = jax.grad(lambda z: losses.cross_entropy(z, jnp.array([0])).sum())(confident)
    assert jnp.abs(lost).sum() == 0.0


def test_dlr_is_blind_to_scale_and_refuses_two_classes():
    np.testing.assert_allclose(losses.dlr(100 * LOGITS, LABELS), losses.dlr(LOGITS, LABELS), rtol=1e-5)
    assert np.isfinite(losses.dlr(jnp.zeros((1, 3)), jnp.array([0]))).all()
    with pytest.raises(ValueError, match="max_margin"):
        losses.dlr(jnp.zeros((1, 2)), jnp.array([0]))


def test_success():
    np.testing.assert_array_equal(losses.succeeded(LOGITS, LABELS, targeted=False), [False, True])
    np.testing.assert_array_equal(losses.succeeded(LOGITS, LABELS, targeted=True), [True, False])


def test_losses_accept_bfloat16_and_two_classes():
    logits = jnp.asarray([[1.0, -1.0]], jnp.bfloat16)
    for name in ("logit_gap", "max_margin", "cross_entropy"):
        value = losses.LOSSES[name](logits, jnp.array([0]))
        assert value.dtype == jnp.float32 and np.isfinite(value).all()
