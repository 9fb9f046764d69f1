"""Streaming through batches: values checked once, bytes, memory maps in and out, eight devices."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images

from deepsec_jax.attacks import BIM, PGD, DeepFool, run_in_batches
from deepsec_jax.attacks.call import label_targets
from deepsec_jax.data import unit_images
from deepsec_jax.field_checks import integer
from deepsec_jax.pytree import Struct, static

KEY = jax.random.key(0)
ATTACK = PGD(eps=0.2, step_size=0.1, steps=2)


def test_memory_maps_in_and_out(linear, tmp_path):
    x, labels = np.asarray(make_images(rows=11)), np.zeros(11, np.int32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, x.shape)
    seen = []
    result = run_in_batches(
        ATTACK, linear, mapped, labels, key=KEY, batch_size=4, out=out, on_batch=seen.append
    )
    assert result is out and seen == [4, 4, 3]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), ATTACK(linear, x, labels, key=KEY))


def test_one_key_or_a_key_per_image(linear):
    x, labels = np.asarray(make_images(rows=5)), np.zeros(5, np.int32)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(KEY, np.arange(5))
    one = run_in_batches(ATTACK, linear, x, labels, key=KEY, batch_size=2)
    many = run_in_batches(ATTACK, linear, x, labels, key=keys, batch_size=3)
    np.testing.assert_allclose(one, many, atol=1e-6)
    with pytest.raises(ValueError, match="5 keys"):
        run_in_batches(ATTACK, linear, x, labels, key=keys[:3])


def test_empty_set(linear):
    x = np.zeros((0, 4, 4, 1), np.float32)
    assert run_in_batches(ATTACK, linear, x, np.zeros(0, np.int32), key=KEY).shape == x.shape


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (np.where(np.arange(5)[:, None, None, None] == 3, np.nan, x), y), "image 3 .*nan"),
        (lambda x, y: (x * 2, y), r"bring images to \[0, 1\]"),
        (lambda x, y: (x - 0.5, y), r"bring images to \[0, 1\]"),
        (lambda x, y: ((x * 255).astype(np.int32), y), "must be float images"),
        (lambda x, y: ((x * 255).astype(np.uint8), y + 3), r"classes 0 \.\. 2"),
        (lambda x, y: (x[0], y), r"\[N, H, W, C\]"),
        (lambda x, y: (x, np.eye(3)[y]), "argmax"),
        (lambda x, y: (x, y + 3), r"classes 0 \.\. 2"),
        (lambda x, y: (x, y - 1), r"classes 0 \.\. 2"),
        (lambda x, y: (x, y[:2]), "integers"),
    ],
)
def test_bad_values_are_named_before_compute(linear, compiles, spoil, message):
    x, labels = spoil(np.asarray(make_images(rows=5)), np.zeros(5, np.int32))
    with compiles() as count, pytest.raises(ValueError, match=message):
        run_in_batches(BIM(steps=2), linear, x, labels)
    assert count("BIM") == 0


@pytest.mark.parametrize("attack", [ATTACK, DeepFool(steps=3)])
def test_bytes_give_the_images_of_a_division_on_the_host_bit_for_bit(linear, compiles, attack):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 1), dtype=np.uint8)
    divided, labels = unit_images(pixels), np.zeros(11, np.int32)
    wanted = run_in_batches(attack, linear, divided, labels, key=KEY, batch_size=4)
    with compiles() as count:
        found = run_in_batches(attack, linear, pixels, labels, key=KEY, batch_size=4)
    assert found.dtype == np.float32 and count(type(attack).__name__) == 0
    np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))
    assert not np.array_equal(found, divided)


def test_bytes_need_an_out_that_holds_float32(linear):
    pixels, labels = np.zeros((5, 4, 4, 1), np.uint8), np.zeros(5, np.int32)
    for dtype, fits in ((np.uint8, False), (np.float16, False), (np.float32, True), (np.float64, True)):
        out = np.zeros(pixels.shape, dtype)
        if fits:
            run_in_batches(ATTACK, linear, pixels, labels, key=KEY, out=out)
            assert out.any()
        else:
            with pytest.raises(ValueError, match="images are float32"):
                run_in_batches(ATTACK, linear, pixels, labels, key=KEY, out=out)


class Slices:
    """Planted: slices like NumPy, and remembers what was read."""

    def __init__(self, array):
        self.array, self.read = array, []
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.read.append((rows.start, rows.stop))
        return self.array[rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_rows_that_are_not_in_memory_are_read_once(linear, dtype):
    x, labels = np.asarray(make_images(rows=11)), np.zeros(11, np.int32)
    x = (255 * x).astype(dtype) if dtype == np.uint8 else x.astype(dtype)
    lazy = Slices(x)
    found = run_in_batches(ATTACK, linear, lazy, labels, key=KEY, batch_size=4)
    assert lazy.read == [(0, 4), (4, 8), (8, 11)]
    np.testing.assert_array_equal(found, run_in_batches(ATTACK, linear, x, labels, key=KEY, batch_size=4))


@pytest.mark.parametrize("bad", [8, 9])
def test_an_invalid_row_of_a_memory_map_is_named_and_the_batches_before_it_are_kept(linear, tmp_path, bad):
    x, labels = np.asarray(make_images(rows=11)), np.zeros(11, np.int32)
    wanted = run_in_batches(ATTACK, linear, x, labels, key=KEY, batch_size=4)
    spoilt = x.copy()
    spoilt[bad:] = 1.5
    np.save(tmp_path / "x.npy", spoilt)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.full(x.shape, -1.0, np.float32)
    with pytest.raises(ValueError, match=f"image {bad} has values from 1.5"):
        run_in_batches(ATTACK, linear, mapped, labels, key=KEY, batch_size=4, out=out)
    np.testing.assert_array_equal(out[:8], wanted[:8])
    assert (out[8:] == -1).all()
    with pytest.raises(ValueError, match=f"image {bad} has"):  # views of a map are of the map
        run_in_batches(ATTACK, linear, np.asarray(mapped)[:], labels, key=KEY, batch_size=4, out=out)


def test_out_of_another_shape(linear):
    x = np.asarray(make_images(rows=5))
    with pytest.raises(ValueError, match="out has shape"):
        run_in_batches(BIM(steps=2), linear, x, np.zeros(5, np.int32), out=np.zeros((4, 4, 4, 1), np.float32))


@pytest.mark.long  # tests/test_placement.py asks the same of a model on eight devices
def test_eight_devices_give_the_same_images_laid_out_over_all():
    program = """
        import sys
        sys.path.insert(0, "tests")
        import jax, numpy as np
        from conftest import Noisy, make_images, make_linear
        from attacks.small import small
        from deepsec_jax.attacks import ATTACKS, run_in_batches
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

        assert len(jax.devices()) == 8
        sharding = NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), P("batch"))
        model = jax.device_put(make_linear(), jax.devices()[0])  # bound, as restored weights are
        x = np.asarray(make_images(rows=20))
        labels, key = np.zeros(20, np.int32), jax.random.key(0)
        for name in ("pgd", "illc", "deepfool"):
            attack = small(name)
            one = run_in_batches(attack, model, x, labels, key=key, batch_size=16)
            eight = run_in_batches(attack, model, x, labels, key=key, batch_size=16, sharding=sharding)
            assert np.mean(np.abs(one - eight) > 1e-4) <= 0.01, name
        noisy, rbg = Noisy(model, jax.random.split(key, 1)), jax.random.key(0, impl="rbg")
        one = run_in_batches(small("pgd"), noisy, x, labels, key=key, batch_size=16)
        eight = run_in_batches(small("pgd"), noisy, x, labels, key=rbg, batch_size=16, sharding=sharding)
        assert np.mean(np.abs(one - eight) > 1e-4) <= 0.01, "randomised"
        for name in ("fgsm", "square"):  # one eps per image lies with its image
            attack = small(name).replace(eps=np.linspace(0.0, 0.3, 20))
            one = run_in_batches(attack, model, x, labels, key=key, batch_size=16)
            eight = run_in_batches(attack, model, x, labels, key=key, batch_size=16, sharding=sharding)
            assert np.mean(np.abs(one - eight) > 1e-4) <= 0.01, name
            assert (np.abs(eight - x).max(axis=(1, 2, 3)) <= attack.eps + 1e-6).all(), name
        keys = jax.random.split(key, 16)
        laid_out = ATTACKS["pgd"]()(*jax.device_put((model,), jax.NamedSharding(sharding.mesh, P())),
                                    *jax.device_put((x[:16], labels[:16]), sharding),
                                    key=jax.device_put(keys, sharding))
        assert len(laid_out.sharding.device_set) == 8 and not laid_out.sharding.is_fully_replicated
        print("fine")
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command,
        env={**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "fine", done.stderr[-2000:]


class Hungry(Struct):
    """Planted: moves every pixel, and has memory for a few images."""

    room: int = static(4, check=integer(0))
    message: str = static("RESOURCE_EXHAUSTED: planted")
    targets = label_targets
    targeted: bool = static(False)

    def __call__(self, model, x, labels, *, key=None):
        if x.shape[0] > self.room:
            raise jax.errors.JaxRuntimeError(self.message)
        moves = jax.vmap(jax.random.uniform)(key)
        return jnp.clip(x + 0.1 * moves[:, None, None, None], min=0.0, max=1.0)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(linear):
    x, labels, key, told = np.asarray(make_images(rows=11)), np.zeros(11, np.int32), jax.random.key(0), []
    model = Noisy(linear, jax.random.split(key, 8))
    small_enough = run_in_batches(Hungry(), model, x, labels, key=key, batch_size=4)
    with pytest.warns(UserWarning, match="8 images do not fit into memory: going on with 4 per call"):
        found = run_in_batches(Hungry(), model, x, labels, key=key, batch_size=8, on_batch=told.append)
    np.testing.assert_array_equal(found, small_enough)
    assert sum(told) == 11 and max(told) == 4


def test_other_errors_and_one_image_that_does_not_fit_are_raised(linear):
    x, labels = np.asarray(make_images(rows=3)), np.zeros(3, np.int32)
    for message, said in (("INTERNAL: planted", "INTERNAL"), ("RESOURCE_EXHAUSTED: planted", "RESOURCE")):
        with pytest.raises(jax.errors.JaxRuntimeError, match=said):
            run_in_batches(Hungry(room=0, message=message), linear, x, labels, batch_size=1)
