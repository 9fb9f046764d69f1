"""--batch-size auto: a fixed size on the CPU, elsewhere what memory holds, tried on a memory of our own."""

import jax
import numpy as np
import pytest
from conftest import make_linear

from deepsec_jax.attacks import PGD, UAP
from deepsec_jax.studies import batch_size


class Memory:
    """Holds up to ``most`` images and remembers what was tried."""

    def __init__(self, most):
        self.most, self.tried = most, []

    def __call__(self, rows):
        self.tried.append(rows)
        return rows <= self.most


@pytest.mark.parametrize(
    ("shape", "size"),
    [((28, 28, 1), 64), ((32, 32, 3), 64), ((64, 64, 3), 16), ((224, 224, 3), 1), ((1000, 1000, 3), 1)],
)
def test_on_the_cpu_the_image_size_decides(shape, size):
    assert batch_size.on_cpu(shape) == size
    assert batch_size.choose("auto", None, shape, 1024) == size
    assert batch_size.choose("auto", None, shape, 1) == 1
    assert batch_size.choose(7, None, shape, 1000) == 7


@pytest.mark.parametrize(("n", "size"), [(100, 50), (64, 64), (65, 33), (200, 50), (1, 1), (0, 1)])
def test_batches_on_the_cpu_have_equal_sizes(n, size):
    assert batch_size.equal_parts(n, 64) == size


@pytest.mark.parametrize(
    ("most", "n", "size", "tried"),
    [
        (10**9, 1000, 1000, [16, 32, 64, 128, 256, 512, 1000]),  # all images at once
        (10**9, 10**6, 4096, [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]),
        (100, 1000, 32, [16, 32, 64, 128]),  # half of 64, the largest that fitted
        (31, 1000, 8, [16, 32]),
        (5, 1000, 2, [16, 8, 4]),
        (1, 1000, 1, [16, 8, 4, 2, 1]),
        (10**9, 3, 3, [3]),
    ],
)
def test_elsewhere_it_doubles_until_memory_refuses_and_goes_back(most, n, size, tried):
    memory = Memory(most)
    assert batch_size.largest_fitting(memory, n) == size
    assert memory.tried == tried and size <= most


def test_a_memory_that_holds_nothing_is_an_error():
    with pytest.raises(batch_size.BatchSizeError, match="not even one image"):
        batch_size.largest_fitting(Memory(0), 10)


def test_only_a_full_memory_counts_as_one(monkeypatch):
    model, said = make_linear(), ["RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 GiB"]

    def refuses(*arguments, **options):
        raise jax.errors.JaxRuntimeError(said[0])

    assert batch_size._gradient_fits(model, (4, 4, 1), 2)
    monkeypatch.setattr(batch_size, "bare_gradient_seconds", refuses)
    assert not batch_size._gradient_fits(model, (4, 4, 1), 2)
    said[0] = "INTERNAL: the device is gone"
    with pytest.raises(jax.errors.JaxRuntimeError, match="gone"):
        batch_size._gradient_fits(model, (4, 4, 1), 2)


@pytest.mark.parametrize(
    ("each", "n", "most"),
    [(10, 5000, 100), (10, 50, 50), (10, 5, 5), (1000, 50, 1), (60, 64, 16), (1, 400, 400)],
)
def test_two_sizes_give_the_bytes_of_an_image_and_batches_are_equal(each, n, most):
    tried = []

    def bytes_of(rows):
        tried.append(rows)
        return 100 + each * rows

    found = batch_size.largest_within(bytes_of, 1105, n)
    assert found == batch_size.equal_parts(n, most)
    assert bytes_of(found) <= 1105 and len(tried) <= 7


def test_a_program_that_grows_faster_than_its_small_sizes_say_is_halved():
    assert batch_size.largest_within(lambda rows: rows if rows < 64 else 20 * rows, 1000, 10**4) < 64
    with pytest.raises(batch_size.BatchSizeError, match="not even one image"):
        batch_size.largest_within(lambda rows: 1001, 1000, 10**4)


@pytest.mark.parametrize("attack", [PGD(steps=2), PGD(eps=np.full(1000, 0.1), steps=2)])
def test_an_attacks_batch_follows_from_its_own_program(attack):
    model, shape = make_linear(), (4, 4, 1)
    limit = int(batch_size.attack_bytes(attack, model, shape, 256) / 0.8) + 1
    found = batch_size.of_attack(attack, model, shape, 1000, otherwise=7, limit=limit)
    assert 128 <= found <= 320
    assert batch_size.attack_bytes(attack, model, shape, found) <= 0.8 * limit


def test_without_a_limit_or_a_program_it_is_the_size_of_one_gradient():
    model, shape = make_linear(), (4, 4, 1)
    assert batch_size.memory_of(model) is None  # a CPU
    assert batch_size.of_attack(PGD(), model, shape, 100, otherwise=7) == 7
    assert batch_size.of_attack(UAP(), model, shape, 100, otherwise=7, limit=10**6) == 7


def test_a_device_without_memory_at_compilation_is_full(monkeypatch):
    def refuses(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: planted")

    monkeypatch.setattr(batch_size, "call_and_count", refuses)
    assert batch_size.attack_bytes(PGD(), make_linear(), (4, 4, 1), 2) == float("inf")
