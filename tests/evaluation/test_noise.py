"""Random noise beside one step along the gradient; honest networks on digits that no new gate accuses."""

import jax
import numpy as np
import pytest
from conftest import Linear, Noisy
from defended import RAW, Misleading, make_dataset
from planted import fitted

from deepsec_jax import attacks, data
from deepsec_jax.answers import named
from deepsec_jax.evaluation.defense_cells import WHITE_BOX
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating.gates import FEW, gates
from deepsec_jax.studies.security.gating.noise import DRAWS, NOISE, noise_arrays, noise_gates
from deepsec_jax.studies.security.worst import Threat, distances, to_8bit

KEY = jax.random.key(0)


def arrays_of(model, x, labels, eps, **named_values):
    clean = (np.asarray(model(x)).argmax(1) == labels).astype(np.float32)
    return noise_arrays(model, None, x, labels, clean, eps=eps, key=KEY, batch_size=50, **named_values)


def test_noise_and_step_are_those_of_an_independent_count():
    """On a linear model one step is optimal, and noise is a random corner of the same box."""
    dataset, eps = make_dataset(), 0.05
    x, labels = np.asarray(dataset.test.images), np.asarray(dataset.test.labels)
    found = arrays_of(RAW, x, labels, eps)
    assert found["noise"].sum() <= found["one_step"].sum()
    assert len(found["rows"]) == len(found["noise"]) == len(found["one_step"]) <= 100
    step = attacks.FGSM(eps=eps)(RAW, x[found["rows"]], labels[found["rows"]])
    fooled = np.asarray(RAW(step)).argmax(1) != labels[found["rows"]]
    np.testing.assert_array_equal(found["one_step"], fooled)
    wide = arrays_of(RAW, x, labels, 0.9)  # many corners of a large box are wrong
    assert wide["noise"].mean() > found["noise"].mean() and DRAWS > 1


def test_a_misleading_gradient_is_behind_noise():
    dataset, eps = make_dataset(), 0.3
    x, labels = np.asarray(dataset.test.images), np.asarray(dataset.test.labels)
    planted = Misleading(RAW, Linear(-RAW.weights, -RAW.bias))
    found = arrays_of(planted, x, labels, eps)
    (gate,) = noise_gates(found, [], Threat("linf", eps))
    assert gate.finding.label == NOISE and gate.remedy
    assert noise_gates(arrays_of(RAW, x, labels, eps), [], Threat("linf", eps)) == []


def test_a_randomised_model_has_noise_and_a_step_too():
    """Noise that is tiny beside the logits gives the figures of the model without noise."""
    dataset, eps = make_dataset(), 0.05
    x, labels = np.asarray(dataset.test.images), np.asarray(dataset.test.labels)
    clean = (np.asarray(RAW(x)).argmax(1) == labels).astype(np.float32)
    drawn, plain = (
        noise_arrays(model, None, x, labels, clean, eps=eps, key=KEY, batch_size=50)
        for model in (Noisy(RAW, jax.random.split(KEY, 4), 1e-6), RAW)
    )
    for name in ("noise", "one_step"):
        assert plain[name].any() and not plain[name].all()
        np.testing.assert_array_equal(drawn[name], plain[name])


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def cell_of(name, attack, model, x, labels, clean):
    """A cell of a white-box attack, as the security evaluation writes it."""
    x_adv = np.asarray(attack(model, x, labels, key=KEY))
    holds, rounded = (
        (np.asarray(named(model(images))) == labels).astype(np.float32) for images in (x_adv, to_8bit(x_adv))
    )
    used = {"eps": float(attack.eps), "norm": "linf", "steps": 10, "targeted": False}
    config = {"knowledge": WHITE_BOX, "attack": {"name": name, "class": name, "hyperparameters": used}}
    arrays = {
        "labels": labels, "clean": clean, "right_or_rejected": holds, "right_or_rejected_8bit": rounded,
        "x_adv": x_adv, **distances(x, x_adv),
    }  # fmt: skip
    return Cell(name, config, {}, arrays)


def test_honest_networks_on_digits_are_not_accused(digits):
    """Pixels of digits have 17 grey levels, which are none of the 256 of a file."""
    x, labels = digits.test.images[:FEW], digits.test.labels[:FEW]
    for steps in (30, 300):  # shortly and fully trained
        model = fitted(digits.train.images, digits.train.labels, steps=steps)
        clean = (np.asarray(model(x)).argmax(1) == labels).astype(np.float32)
        made = [
            cell_of("fgsm", attacks.FGSM(eps=0.3), model, x, labels, clean),
            *(cell_of(f"pgd@{eps}", attacks.PGD(eps=eps, step_size=eps / 4), model, x, labels, clean)
              for eps in (0.1, 0.2, 0.3)),
        ]  # fmt: skip
        cells = {(WHITE_BOX, cell.name): cell for cell in made}
        noise = Cell("noise", {"attack": {"eps": 0.3}}, {}, arrays_of(model, x, labels, 0.3))
        threats = [Threat("linf", eps) for eps in (0.1, 0.2, 0.3)]
        found = gates(cells, threats, FEW, 10, None, noise)
        assert not [str(gate) for gate in found if gate.closed]
