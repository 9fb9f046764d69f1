"""Augmentation: every row from its own key, shifts of up to 10 % with zeros, half of the rows flipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax.training import augment

shift_flip = jax.jit(augment.shift_flip)


def shifted(image, rows, columns, flip):
    """By hand: move down by ``rows`` and right by ``columns``, zeros move in, then perhaps mirror."""
    height, width = image.shape[:2]
    moved = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - rows < height and 0 <= column - columns < width:
                moved[row, column] = image[row - rows, column - columns]
    return moved[:, ::-1] if flip else moved


@pytest.mark.parametrize(("shape", "reach"), [((8, 8, 1), 1), ((20, 20, 1), 2), ((4, 4, 3), 1)])
def test_every_shift_within_reach_and_none_beyond(shape, reach):
    image = np.asarray(jax.random.uniform(jax.random.key(0), shape, minval=0.1))
    offsets = range(-reach, reach + 1)
    expected = {
        shifted(image, rows, columns, flip).tobytes(): (rows, columns, flip)
        for rows in offsets for columns in offsets for flip in (False, True)
    }  # fmt: skip
    rows = 600
    keys = jax.random.split(jax.random.key(1), rows)
    out = np.asarray(shift_flip(jnp.broadcast_to(image, (rows, *shape)), keys))
    assert out.dtype == image.dtype and out.shape == (rows, *shape)
    seen = [expected.get(row.tobytes()) for row in out]
    assert None not in seen
    assert set(seen) == set(expected.values()), "every shift occurs"
    assert 0.4 < np.mean([flip for *_, flip in seen]) < 0.6


@pytest.mark.parametrize(("side", "reach"), [(8, 1), (28, 3), (32, 3), (31, 3)])
def test_reach_is_a_tenth_of_the_side(side, reach):
    """How far the one bright pixel in the middle moves."""
    middle = side // 2
    image = jnp.zeros((side, side, 1)).at[middle, middle].set(1.0)
    out = shift_flip(jnp.broadcast_to(image, (400, side, side, 1)), jax.random.split(jax.random.key(0), 400))
    _, rows, *_ = np.nonzero(np.asarray(out))
    assert rows.min() == middle - reach and rows.max() == middle + reach


def rows_are_independent(transform) -> bool:
    """Row i of the output is a function of row i and key i."""
    x = jax.random.uniform(jax.random.key(0), (16, 8, 8, 1))
    keys = jax.random.split(jax.random.key(1), 16)
    whole = np.asarray(transform(x, keys))
    alone = np.concatenate([transform(x[i : i + 1], keys[i : i + 1]) for i in range(16)])
    order = np.random.default_rng(0).permutation(16)
    return np.array_equal(whole, alone) and np.array_equal(
        np.asarray(transform(x[order], keys[order])), whole[order]
    )


def test_row_from_its_own_key_only():
    assert rows_are_independent(shift_flip)


def test_planted_shared_key_is_seen():
    def one_draw_for_all(x, keys):
        return shift_flip(x, jnp.broadcast_to(keys[:1], keys.shape))

    assert not rows_are_independent(one_draw_for_all)


def test_same_key_same_rows_other_key_others():
    x = jax.random.uniform(jax.random.key(0), (16, 8, 8, 1))
    one, again, other = (
        np.asarray(shift_flip(x, jax.random.split(jax.random.key(seed), 16))) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)
