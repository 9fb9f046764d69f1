"""Each model of ``pretrained/`` loads from a copy of its folder alone, and its card is of these weights."""

import shutil

import jax
import pytest

from deepsec_jax import defenses
from deepsec_jax.models import load_pretrained
from deepsec_jax.pretrained import (
    ENVIRONMENT,
    folder_digest,
    pretrained_card,
    pretrained_folder,
    pretrained_names,
)
from deepsec_jax.training.checkpoints import CheckpointError

BYTES_EACH, BYTES = 2_000_000, 25_000_000
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", pretrained_names())
def test_a_folder_is_complete(name, tmp_path, monkeypatch):
    """Nothing beside it is needed: MagNet's autoencoders and PD's PixelCNN were once left behind."""
    assert size_of(pretrained_folder(name)) < BYTES_EACH
    shutil.copytree(pretrained_folder(name), tmp_path / name)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    found, about = defenses.load(tmp_path / name), pretrained_card(name)
    detects = found.defended is not None and found.defended.detector is not None
    x = jax.ShapeDtypeStruct((3, *SHAPES[about["recipe"]["data"]]), "float32")
    assert jax.eval_shape(load_pretrained(name), x).shape == (3, about["classes"] + detects)
    assert about.get("card", {"digest": about["whole"]})["digest"] == about["whole"]


def test_they_are_few_bytes_together():
    assert sum(size_of(pretrained_folder(name)) for name in pretrained_names()) < BYTES


def test_a_folder_without_its_parts_is_noticed(tmp_path, monkeypatch):
    shutil.copytree(pretrained_folder("mnist-magnet-small"), tmp_path / "planted")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    whole = folder_digest(tmp_path / "planted")
    shutil.rmtree(tmp_path / "planted" / "autoencoder-2")
    assert folder_digest(tmp_path / "planted") != whole
    with pytest.raises(CheckpointError, match="no model in"):
        load_pretrained("planted")


def test_the_digest_is_of_all_that_the_folder_answers_with(tmp_path):
    shutil.copytree(pretrained_folder("mnist-fs-small"), tmp_path / "fs")
    guarded = folder_digest(tmp_path / "fs")
    arrays = tmp_path / "fs" / "detector.npz"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    assert len({guarded, folder_digest(tmp_path / "fs"), pretrained_card("mnist-fs-small")["digest"]}) == 3
    network = pretrained_card("mnist-paper")
    assert network["whole"] == network["digest"]
