"""Adversarial sets on disk, and several attacks in one call."""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attacks.small import small
from deepsec_jax.attacks import FGSM, PGD, SavedSetError, load, run_all, run_in_batches, save

KEY = jax.random.key(0)
CW = small("cw2").replace(targeted=True)


@pytest.fixture
def made(linear, images):
    labels = np.asarray(jnp.argmax(linear(images), axis=-1), np.int32)
    return np.asarray(FGSM(eps=0.2)(linear, images, labels)), np.asarray(images), labels


def test_a_set_comes_back_with_its_settings(made, tmp_path):
    x_adv, x, labels = made
    attack = PGD(eps=8 / 255, targeted=True)
    path = save(tmp_path / "sub" / "pgd", x_adv, x, labels, attack=attack, targets=labels, notes={"seed": 3})
    assert path.name == "pgd.npz"
    found = load(path)
    for name, array in {"x_adv": x_adv, "x": x, "labels": labels, "targets": labels}.items():
        np.testing.assert_array_equal(getattr(found, name), array)
    assert found.made_by() == attack and found.notes == {"seed": 3} and "jax" in found.versions
    assert load(save(tmp_path / "b", x_adv, x, labels, attack=attack)).targets is None


def test_nothing_is_overwritten_and_damage_is_said(made, tmp_path):
    x_adv, x, labels = made
    path = save(tmp_path / "a.npz", x_adv, x, labels, attack=FGSM())
    with pytest.raises(SavedSetError, match="never overwritten"):
        save(path, x_adv, x, labels, attack=FGSM())
    with pytest.raises(SavedSetError, match=r"labels is \[7\]"):
        save(tmp_path / "c", x_adv, x, labels[:7], attack=FGSM())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SavedSetError, match="no adversarial set"):
        load(path)
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    with pytest.raises(SavedSetError, match="no adversarial set"):
        load(tmp_path / "empty.npz")
    with pytest.raises(SavedSetError, match="does not exist"):
        load(tmp_path / "none.npz")


def test_several_attacks_are_each_what_it_is_alone(made, linear):
    _, x, labels = made
    targets = (labels + 1) % 3
    several = {"fgsm": FGSM(), "cw2": CW}
    found = run_all(several, linear, x, labels, targets=targets, key=KEY, batch_size=8)
    np.testing.assert_array_equal(found["fgsm"], run_in_batches(FGSM(), linear, x, labels, batch_size=8))
    alone = run_in_batches(CW, linear, x, targets, key=KEY, batch_size=8)
    np.testing.assert_array_equal(found["cw2"], alone)
    assert list(run_all([FGSM(), FGSM(eps=0.1)], linear, x, labels, key=KEY)) == ["FGSM()", "FGSM(eps=0.1)"]


@pytest.mark.parametrize(
    ("attacks", "message"),
    [([CW], "pass targets="), ([small("uap")], "pass train_images="), ([FGSM(), FGSM()], "the same")],
)
def test_what_is_missing_is_said_first(attacks, message, made, linear):
    _, x, labels = made
    with pytest.raises(ValueError, match=message):
        run_all(attacks, linear, x, labels, key=KEY)
