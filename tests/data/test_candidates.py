"""Candidate sets: what is drawn, what is fixed, and how they are stored."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import fields

import jax
import numpy as np
import pytest
from conftest import Noisy, make_linear

from deepsec_jax import data
from deepsec_jax.data import Candidates, DataError, Dataset, Split

SHAPE, CLASSES = (4, 4, 1), 3


def _split(rows=300, classes=CLASSES, seed=2) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, *SHAPE), dtype=np.uint8)
    return Split(images, rng.integers(0, classes, rows).astype(np.int32))


def _dataset(**changes) -> Dataset:
    split = _split(**changes)
    return Dataset("made", split, split, tuple("abc"))


def _logits(images):
    return np.asarray(make_linear()(jax.numpy.asarray(images)))


def _same(a: Candidates, b: Candidates) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Candidates))


def test_candidates_are_correct_and_targets_are_wrong():
    split = _split()
    made = data.make_candidates(_logits, split, 40, seed=0, batch_size=32)
    logits = _logits(made.images)
    assert len(made) == 40 and made.images.dtype == np.float32 and made.images.max() <= 1
    assert (logits.argmax(1) == made.labels).all()
    assert (logits.argmin(1) == made.least_likely).all()
    assert (made.targets != made.labels).all() and set(made.targets) == set(range(CLASSES))
    assert len(set(made.rows)) == 40
    assert np.array_equal(data.unit_images(split.images[made.rows]), made.images)
    assert np.array_equal(split.labels[made.rows], made.labels)


def test_targets_are_uniform_over_the_wrong_classes():
    split = Split(np.zeros((3000, *SHAPE), np.uint8), np.zeros(3000, np.int32))
    made = data.make_candidates(lambda x: np.tile([2.0, 1.0, 0.0, 0.5], (len(x), 1)), split, 3000, seed=0)
    counts = np.bincount(made.targets, minlength=4)
    assert counts[0] == 0 and (abs(counts[1:] - 1000) < 120).all()


def test_seed_decides_and_a_smaller_set_is_the_beginning_of_a_larger_one():
    split = _split()
    small, large = (data.make_candidates(_logits, split, n, seed=4) for n in (10, 60))
    assert _same(data.make_candidates(_logits, split, 10, seed=4), small)
    for name in ("images", "labels", "targets", "least_likely", "rows"):
        assert np.array_equal(getattr(large, name)[:10], getattr(small, name)), name
    assert not np.array_equal(data.make_candidates(_logits, split, 10, seed=5).rows, small.rows)


def test_batch_size_does_not_matter_and_the_model_sees_one_size():
    sizes = set()

    def watched(images):
        sizes.add(len(images))
        return _logits(images)

    split = _split()
    assert _same(
        data.make_candidates(watched, split, 70, seed=0, batch_size=64),
        data.make_candidates(_logits, split, 70, seed=0, batch_size=300),
    )
    assert sizes == {64}


def test_too_many_candidates_says_how_many_there_are():
    split = _split()
    correct = int((_logits(data.unit_images(split.images)).argmax(1) == split.labels).sum())
    with pytest.raises(DataError, match=f"only {correct} of 300 .*take n <= {correct}"):
        data.make_candidates(_logits, split, correct + 1, seed=0)
    assert len(data.make_candidates(_logits, split, correct, seed=0)) == correct


@pytest.mark.parametrize(
    ("predict", "changes", "n", "message"),
    [
        (_logits, {}, 0, "n must be at least 1"),
        (_logits, {"classes": 5}, 3, "label 4, but the model has classes 0 .. 2"),
        (lambda x: np.full((len(x), 3), np.nan), {}, 3, "NaN or infinite"),
        (lambda x: np.zeros(len(x)), {}, 3, "logits"),
    ],
)
def test_errors_are_one_line(predict, changes, n, message):
    with pytest.raises(DataError, match=message) as caught:
        data.make_candidates(predict, _split(**changes), n, seed=0)
    assert "\n" not in str(caught.value)


def test_stored_once_and_read_afterwards(tmp_path, monkeypatch):
    model, dataset = make_linear(), _dataset()
    made = data.stored_candidates(model, dataset, 20, 0, tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / data.candidates_name(model, dataset, 20, 0)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    making = "deepsec_jax.data.candidates.make_candidates"
    monkeypatch.setattr(making, lambda *_, **__: pytest.fail("made again"))
    assert _same(data.stored_candidates(model, dataset, 20, 0, path.parent), made)


def test_the_name_follows_the_content():
    dataset = _dataset()
    names = [
        data.candidates_name(make_linear(), dataset, 20, 0),
        data.candidates_name(make_linear(seed=1), dataset, 20, 0),
        data.candidates_name(make_linear(), _dataset(seed=3), 20, 0),
        data.candidates_name(make_linear(), dataset, 21, 0),
        data.candidates_name(make_linear(), dataset, 20, 1),
    ]
    assert len(set(names)) == len(names)
    assert names[0] == data.candidates_name(make_linear(), _dataset(), 20, 0)


def test_the_name_is_the_same_in_every_process():
    # Structures hold functions, whose printed form has an address in it.
    code = (
        "import jax, numpy as np; from deepsec_jax import data;"
        "split = data.Split(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32));"
        "model = jax.tree_util.Partial(data.unit_images, np.ones(3));"
        "name = data.candidates_name(model, data.Dataset('zeros', split, split, ('a', 'b')), 5, 0);"
        "print(name, ' at 0x' in str(jax.tree.structure(model)))"
    )
    here: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, here)
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert elsewhere.stdout == printed.getvalue() and printed.getvalue().endswith("True\n")


def test_a_randomised_model_gets_candidates(tmp_path):
    model = Noisy(make_linear(), jax.random.split(jax.random.key(0), 7))
    made = data.stored_candidates(model, _dataset(), 20, 0, tmp_path)
    assert len(made) == 20
    assert _same(data.stored_candidates(model, _dataset(), 20, 0, tmp_path), made)


@pytest.mark.parametrize("damage", [b"", b"no zip", None])
def test_a_damaged_file_is_named(tmp_path, damage):
    model, dataset = make_linear(), _dataset()
    data.stored_candidates(model, dataset, 20, 0, tmp_path)
    path = tmp_path / data.candidates_name(model, dataset, 20, 0)
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    with pytest.raises(DataError, match=r"damaged.*remove it"):
        data.stored_candidates(model, dataset, 20, 0, tmp_path)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def broken(file, **arrays):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("deepsec_jax.data.candidates.np.savez", broken)
    with pytest.raises(KeyboardInterrupt):
        data.stored_candidates(make_linear(), _dataset(), 20, 0, tmp_path)
    assert not list(tmp_path.iterdir())
