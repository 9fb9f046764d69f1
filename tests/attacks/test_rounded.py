"""Rounded: what a PNG holds is what was judged; against integer arithmetic."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_linear
from PIL import Image

from deepsec_jax import attacks
from deepsec_jax.attacks import PGD, DeepFool, FixedImages, Rounded, run_in_batches
from deepsec_jax.evaluation import judge

SHAPE = (4, 4, 1)
ROWS = 64


@pytest.fixture(scope="module")
def levels():
    return np.random.default_rng(0).integers(0, 256, size=(ROWS, *SHAPE), dtype=np.uint8)


def unit(levels):
    return levels.astype(np.float32) / np.float32(255)


def through_a_file(images):
    """Save each image as PNG and read it back."""
    found = []
    for image in np.asarray(images):
        file = io.BytesIO()
        Image.fromarray(np.round(255 * image[..., 0]).astype(np.uint8)).save(file, "PNG")
        found.append(unit(np.asarray(Image.open(file)))[..., None])
    return np.stack(found)


@pytest.mark.parametrize("attack", [PGD(eps=8 / 255, step_size=1 / 255), PGD(eps=0.3, norm=2), DeepFool()])
def test_a_png_holds_the_very_images(levels, attack):
    model, x = make_linear(SHAPE), unit(levels)
    labels = np.asarray(model(x)).argmax(1)
    x_adv = run_in_batches(Rounded(attack), model, x, labels, key=jax.random.key(0))
    again = through_a_file(x_adv)
    assert np.array_equal(again, x_adv)
    assert np.array_equal(judge(model, x, again, labels).success, judge(model, x, x_adv, labels).success)
    # Planted: the attack's own images are others after the file.
    plain = run_in_batches(attack, model, x, labels, key=jax.random.key(0))
    assert not np.array_equal(through_a_file(plain), plain)


def test_against_integer_arithmetic(levels):
    rng = np.random.default_rng(1)
    moves = rng.integers(-40 * 1000, 40 * 1000, size=levels.shape)  # thousandths of a level
    moves = np.where(moves % 1000 < 10, moves + 10, moves)  # none within rounding of a level but for 0
    moves = np.where(rng.random(levels.shape) < 0.2, 0, moves)
    target = np.clip(levels.astype(int) * 1000 + moves, 0, 255000)
    x, x_adv = unit(levels), (target / 255000).astype(np.float32)
    given, labels = FixedImages(jnp.asarray(x_adv)), np.zeros(ROWS, int)
    moved = target - levels.astype(int) * 1000
    for away, whole in ((False, np.abs(moved) // 1000), (True, -(-np.abs(moved) // 1000))):
        expected = np.clip(levels + np.sign(moved) * whole, 0, 255).astype(np.uint8)
        found = np.asarray(Rounded(given, away=away)(make_linear(SHAPE), jnp.asarray(x), labels))
        assert np.array_equal(found, unit(expected))


def test_whole_levels_stay_and_no_entry_moves_farther(levels):
    model, x = make_linear(SHAPE), unit(levels)
    labels = np.asarray(model(x)).argmax(1)
    full = np.asarray(Rounded(attacks.FGSM(eps=8 / 255))(model, x, labels))
    plain = np.asarray(attacks.FGSM(eps=8 / 255)(model, x, labels))
    np.testing.assert_allclose(full, plain, atol=1e-6)  # eight levels, not seven
    pgd = PGD(eps=0.02, step_size=0.003)
    kept, made = (np.asarray(each(model, x, labels, key=jax.random.key(0))) for each in (Rounded(pgd), pgd))
    assert np.all(np.abs(kept - x) <= np.abs(made - x) + 1e-6)
    # Planted: the nearest level is farther away for many entries.
    nearest = np.round(255 * made) / 255
    assert np.any(np.abs(nearest - x) > np.abs(made - x) + 1e-4)


def test_changes_rounded_up_keep_the_success_of_a_minimum_norm_attack(levels):
    model, x = make_linear(SHAPE), unit(levels)
    labels = np.asarray(model(x)).argmax(1)

    def successes(attack):
        return float(judge(model, x, attack(model, x, labels), labels).success.mean())

    assert successes(DeepFool()) == 1.0
    assert successes(Rounded(DeepFool(), away=True)) > successes(Rounded(DeepFool())) + 0.2


def test_it_is_an_attack_like_any():
    rounded = Rounded(PGD(targeted=True))
    assert rounded.targeted and rounded.needs_key and attacks.parse(repr(rounded)) == rounded
    with pytest.raises(ValueError, match=r"Rounded\.levels must be an integer of at least 2"):
        Rounded(PGD(), levels=1)
