"""Folders of images, data sets of Hugging Face on disk, and examples from any iterable."""

import numpy as np
import pytest
from PIL import Image

from deepsec_jax import data
from deepsec_jax.data import DataError
from deepsec_jax.data.examples import resized


def write_images(folder, name, count, *, size=(6, 6), mode="RGB", seed=0):
    """Write noise as PNG files, and return the pixels."""
    (folder / name).mkdir(parents=True)
    shape = size if mode == "L" else (*size, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / name / f"{number:03}.png")
    return pixels


def refusal(call) -> str:
    with pytest.raises(DataError) as refused:
        call()
    message = str(refused.value)
    assert len(message.splitlines()) == 1 and ": " in message
    return message


def test_folder_with_train_and_test(tmp_path):
    pixels = {
        (half, name): write_images(tmp_path / half, name, 3, seed=ord(half[1]) + ord(name[0]))
        for half in ("train", "test") for name in ("cat", "ant")
    }  # fmt: skip
    read = data.load(f"{tmp_path}/")
    assert read.class_names == ("ant", "cat"), "in the order of their names"
    for half, split in (("train", read.train), ("test", read.test)):
        expected = np.concatenate([pixels[half, "ant"], pixels[half, "cat"]])
        np.testing.assert_array_equal(split.images, expected)
        assert split.images.dtype == np.uint8 and split.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_folder_without_splits_is_divided_by_class(tmp_path):
    write_images(tmp_path, "a", 10, mode="L")
    write_images(tmp_path, "b", 5, mode="L", seed=1)
    read = data.load(str(tmp_path))
    assert read.image_shape == (6, 6, 1)
    assert np.bincount(read.test.labels).tolist() == [2, 1] and np.bincount(read.train.labels).tolist() == [
        8,
        4,
    ]
    rows = {row.tobytes() for row in read.train.images} | {row.tobytes() for row in read.test.images}
    assert len(rows) == 15, "no image is in both, none is lost"
    assert np.array_equal(data.load(str(tmp_path)).test.images, read.test.images), "the split never changes"


def test_images_are_resized_as_pillow_does(tmp_path):
    big = write_images(tmp_path, "a", 2, size=(9, 12))
    write_images(tmp_path, "b", 2, size=(6, 6), seed=1)
    assert "sizes" in refusal(lambda: data.load(str(tmp_path)))
    read = data.load(str(tmp_path), size=(4, 5))
    assert read.image_shape == (4, 5, 3)
    expected = {
        np.asarray(Image.fromarray(image).resize((5, 4), Image.Resampling.BILINEAR)).tobytes()
        for image in big
    }
    found = np.concatenate([read.train.images, read.test.images])
    assert expected <= {image.tobytes() for image in found}


def test_floats_are_resized_as_bytes_are():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    floats = resized((pixels / 255).astype(np.float32), (5, 3))
    np.testing.assert_allclose(floats, resized(pixels, (5, 3)) / 255, atol=1.5 / 255)


def test_grey_images_among_colour_ones_become_colour(tmp_path):
    grey = write_images(tmp_path, "a", 2, mode="L")
    write_images(tmp_path, "b", 2)
    read = data.load(str(tmp_path))
    assert read.image_shape == (6, 6, 3)
    rows = {row.tobytes() for row in np.concatenate([read.train.images, read.test.images])}
    assert {np.repeat(image[..., None], 3, axis=2).tobytes() for image in grey} <= rows


def test_folders_that_are_refused(tmp_path):
    assert "write" not in refusal(lambda: data.load(str(tmp_path / "missing")))
    assert "0 class folders" in refusal(lambda: data.load(str(tmp_path)))
    (tmp_path / "a").mkdir()
    write_images(tmp_path, "b", 2)
    assert f"{tmp_path / 'a'} has no image files" in refusal(lambda: data.load(str(tmp_path)))
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    assert "is no readable image" in refusal(lambda: data.load(str(tmp_path)))
    (tmp_path / "a" / "1.png").unlink()
    assert "has one image" in refusal(lambda: data.load(str(tmp_path)))
    write_images(tmp_path / "train", "x", 1)
    write_images(tmp_path / "train", "y", 1)
    write_images(tmp_path / "test", "x", 1)
    write_images(tmp_path / "test", "z", 1)
    assert "differ in the classes y, z" in refusal(lambda: data.load(str(tmp_path)))


IMAGE = np.zeros((4, 4), np.uint8)


def test_examples_of_any_iterable():
    mappings = ({"image": np.full((4, 4, 1), 0.5, np.float32), "label": label} for label in (0, 1))
    read = data.from_examples("mine", mappings, [(np.ones((4, 4), np.float32), np.int64(1))])
    assert read.name == "mine" and read.class_names == ("0", "1") and len(read.train) == 2
    assert read.image_shape == (4, 4, 1) and read.test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([], "no examples"),
        ([3], "is a int"),
        ([(IMAGE, "cat")], "labels like 'cat'"),
        ([(IMAGE, -1)], "labels like -1"),
        ([(IMAGE, 0.5)], "labels like 0.5"),
        ([(IMAGE, 0), (IMAGE[:2], 0)], "2 sizes"),
        ([(IMAGE.astype(np.int64), 0)], "int64"),
        ([(IMAGE + np.float32(2), 0)], "ranges over [2, 2]"),
        ([(IMAGE * np.float32("nan"), 0)], "nan"),
        ([(IMAGE, 0), (IMAGE.astype(np.float32), 0)], "mixes bytes and floats"),
        ([(np.zeros((4, 4, 2), np.uint8), 0)], "(4, 4, 2)"),
        ([(IMAGE[:2], 0)], "give a size"),
        ([(IMAGE, 7)], "label 7"),
    ],
)  # fmt: skip
def test_examples_that_are_refused(train, said):
    names = ("zero", "one") if said == "label 7" else None
    message = refusal(lambda: data.from_examples("mine", train, [(IMAGE, 0)], class_names=names))
    assert "mine" in message and said in message


def test_hugging_face_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets", reason="reads data sets of Hugging Face")
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=["ant", "bee"]))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    columns = {"picture": [Image.fromarray(image) for image in pixels], "kind": [0, 1, 1, 0]}
    whole = datasets.Dataset.from_dict(columns, features=features)
    saved = datasets.DatasetDict(train=whole.select([0, 1, 2]), test=whole.select([3]))
    saved.save_to_disk(str(tmp_path / "bugs"))
    read = data.load(str(tmp_path / "bugs"))
    assert read.name == "bugs" and read.class_names == ("ant", "bee")
    np.testing.assert_array_equal(read.train.images, pixels[:3])
    assert read.test.labels.tolist() == [0]
    assert data.load(str(tmp_path / "bugs"), size=(3, 3)).image_shape == (3, 3, 3)
    whole.save_to_disk(str(tmp_path / "whole"))
    assert "train_test_split" in refusal(lambda: data.load(str(tmp_path / "whole")))
    saved.remove_columns("kind").save_to_disk(str(tmp_path / "nameless"))
    assert "0 columns of classes" in refusal(lambda: data.load(str(tmp_path / "nameless")))
