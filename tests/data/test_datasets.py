"""Data sets: digits, the user's .npz (good and bad), TFDS sets read without TensorFlow."""

import io
import json
import sys
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from deepsec_jax import data
from deepsec_jax.data import DataError, datasets

KEYS = ("x_train", "y_train", "x_test", "y_test")


def refusal(name, **options) -> str:
    with pytest.raises(DataError) as refused:
        data.load(str(name), **options)
    message = str(refused.value)
    assert len(message.splitlines()) == 1 and str(name) in message
    return message


# ---- digits


def test_digits():
    digits = data.load("digits")
    assert digits.image_shape == (8, 8, 1) and digits.classes == 10
    assert len(digits.train) == 1347 and len(digits.test) == 450
    for half in (digits.train, digits.test):
        assert half.images.dtype == np.float32 and half.labels.dtype == np.int32
        assert half.images.min() == 0.0 and half.images.max() == 1.0
        assert set(np.unique(half.labels)) == set(range(10))
    assert np.array_equal(data.load("digits").test.labels, digits.test.labels), "the split never changes"


def shared_rows(one, other) -> int:
    seen = {row.tobytes() for row in one.images}
    return sum(row.tobytes() in seen for row in other.images)


def test_digits_splits_are_disjoint():
    digits = data.load("digits")
    assert shared_rows(digits.train, digits.test) == 0
    leaky = data.Split(digits.train.images[-450:], digits.train.labels[-450:])
    assert shared_rows(digits.train, leaky) == 450


def test_unit_images():
    bytes_ = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(data.unit_images(bytes_), [0.0, 0.2, 1.0], rtol=1e-6)
    for kind in (np.uint8, np.float16, np.float32, np.float64):
        assert data.unit_images(np.ones(3, kind)).dtype == np.float32
    np.testing.assert_array_equal(data.unit_images(np.array([0.0, 0.5, 1.0])), [0.0, 0.5, 1.0])


# ---- .npz


def arrays(**changes) -> dict:
    rng = np.random.default_rng(0)
    made = {
        "x_train": rng.random((6, 5, 4, 3), np.float32), "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.random((3, 5, 4, 3), np.float32), "y_test": np.array([2, 1, 0]),
        **changes,
    }  # fmt: skip
    return {key: value for key, value in made.items() if value is not None}


@pytest.fixture
def npz(tmp_path):
    def write(save=np.savez, **changes):
        save(tmp_path / "mine.npz", **arrays(**changes))
        return tmp_path / "mine.npz"

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_good_npz(npz, save):
    mine = data.load(str(npz(save)))
    assert mine.name == "mine" and mine.image_shape == (5, 4, 3) and mine.classes == 3
    np.testing.assert_array_equal(mine.train.images, arrays()["x_train"])
    np.testing.assert_array_equal(mine.test.labels, [2, 1, 0])
    assert mine.train.labels.dtype == np.int32


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float64])
def test_image_kinds_of_npz(npz, kind):
    one = np.ones((6, 5, 4, 3), kind)
    assert data.load(str(npz(x_train=one))).train.images.dtype == kind


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint64])
def test_label_kinds_of_npz(npz, kind):
    assert data.load(str(npz(y_test=np.array([2, 1, 0], kind)))).test.labels.dtype == np.int32


BOX = np.full((6, 5, 4, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_test": None, "y_test": None}, ["lacks x_test, y_test", "np.savez"]),
        ({"x_train": BOX.astype(object)}, ["pickled objects", "plain arrays"]),
        ({"y_train": np.array([{}] * 6)}, ["pickled objects"]),
        ({"x_train": BOX[..., 0]}, ["x_train has shape (6, 5, 4)", "[N, height, width, channels]"]),
        ({"x_train": BOX[:0], "y_train": np.zeros(0, int)}, ["x_train is empty"]),
        ({"x_train": BOX[:, :0]}, ["x_train is empty"]),
        ({"x_train": np.ones(BOX.shape, np.int64)}, ["x_train is int64", "uint8, or float in [0, 1]"]),
        ({"x_train": np.ones(BOX.shape, bool)}, ["x_train is bool"]),
        ({"x_train": BOX * 510}, ["ranges over [255, 255]", "bring floats to [0, 1]"]),
        ({"x_train": BOX - 0.6}, ["ranges over [-0.1, -0.1]"]),
        ({"x_train": np.where(np.arange(3) == 1, np.nan, BOX)}, ["nan"]),
        ({"x_train": np.where(np.arange(3) == 1, np.inf, BOX)}, ["inf"]),
        ({"y_train": np.eye(3)[[0, 1, 2, 0, 1, 2]]}, ["y_train has shape (6, 3)", "y.argmax(1)"]),
        ({"y_train": np.arange(5)}, ["y_train has shape (5,)", "[6]"]),
        ({"y_train": np.arange(6.0)}, ["y_train must be integers", "float64"]),
        ({"y_train": np.array(list("012012"))}, ["y_train must be integers", "<U1"]),
        ({"y_train": np.array([0, 1, -1, 0, 1, 2])}, ["must be integers 0 .. K-1", "got -1 .. 2"]),
        ({"y_test": np.array([0, 1, 2**40])}, ["y_test must be integers 0 .. K-1"]),
        ({"x_test": BOX[:3, :4]}, ["x_train images are (5, 4, 3)", "x_test images are (4, 4, 3)"]),
    ],
)
def test_bad_npz_is_refused_in_one_line(npz, changes, words):
    message = refusal(npz(**changes))
    assert all(word in message for word in words), message


def test_bad_npz_would_pass_unchecked(npz, monkeypatch):
    """The planted violation: without the check of values, images of 0..255 come through."""
    path = npz(x_train=BOX * 510)
    refusal(path)
    monkeypatch.setattr(datasets, "_check_split", lambda *_: None)
    assert data.load(str(path)).train.images.max() == 255


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_cut_off_npz_is_refused(npz, share):
    path = npz()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "write it again with np.savez" in refusal(path)


def test_damaged_npz_is_refused_or_unharmed(npz):
    """Bits flipped anywhere: one line, or (in bytes that nobody reads) the same arrays."""
    path = npz(np.savez_compressed)
    content, refused = path.read_bytes(), 0
    for place in np.random.default_rng(0).integers(0, len(content), 150):
        broken = bytearray(content)
        broken[place] ^= 0xFF
        path.write_bytes(bytes(broken))
        try:
            mine = data.load(str(path))
        except DataError as error:
            assert len(str(error).splitlines()) == 1
            refused += 1
        else:
            np.testing.assert_array_equal(mine.train.images, arrays()["x_train"])
    assert refused > 100


def test_what_only_looks_like_npz(tmp_path):
    path = tmp_path / "mine.npz"
    assert "no file" in refusal(path) and "x_train, y_train, x_test, y_test" in refusal(path)
    path.write_text("hello")
    assert "no .npz" in refusal(path)
    with path.open("wb") as file:
        np.save(file, BOX)
    assert "no .npz" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        for key in KEYS:
            archive.writestr(key, b"not an array")
    assert "lacks x_train" in refusal(path)


def test_no_pickle_is_ever_run(tmp_path):
    """A crafted object would run code when unpickled."""

    class Runs:
        def __reduce__(self):
            return (sys.modules["builtins"].exec, ("import os; os.environ['PICKLE_RAN'] = 'yes'",))

    path = tmp_path / "mine.npz"
    np.savez(path, **{key: np.array([Runs()], object) for key in KEYS})
    assert "pickled objects" in refusal(path)
    assert "PICKLE_RAN" not in datasets.os.environ


# ---- TFDS


def write_tfds(folder, name="tiny_shapes", sizes=((6, 6), (6, 6)), rows=(7, 3)):
    """Write a prepared set the way TFDS lays it out: PNG rows in ArrayRecord files and three notes."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    place = folder / name / "1.0.0"
    place.mkdir(parents=True)
    rng, written = np.random.default_rng(0), {}
    for half, count in zip(("train", "test"), rows, strict=True):
        writer = ArrayRecordWriter(str(place / f"{name}-{half}.array_record-00000-of-00001"), "group_size:1")
        written[half] = []
        for row in range(count):
            pixels = rng.integers(0, 256, (*sizes[row % 2], 3), np.uint8)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(row % 2)
            writer.write(example.SerializeToString())
            written[half].append((pixels, row % 2))
        writer.close()
    base = "tensorflow_datasets.core.features."
    shape = list(map(str, sizes[0])) if sizes[0] == sizes[1] else ["-1", "-1"]
    image = {"dtype": "uint8", "encodingFormat": "png", "shape": {"dimensions": [*shape, "3"]}}
    features = {
        "image": {"image": image, "pythonClassName": f"{base}image_feature.Image"},
        "label": {
            "classLabel": {"numClasses": "2"},
            "pythonClassName": f"{base}class_label_feature.ClassLabel",
        },
    }
    notes = {
        "features.json": {
            "featuresDict": {"features": features}, "pythonClassName": f"{base}features_dict.FeaturesDict"
        },
        "dataset_info.json": {
            "fileFormat": "array_record", "moduleName": "tests", "name": name, "version": "1.0.0",
            "splits": [
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "name": half,
                    "numBytes": "1", "shardLengths": [str(count)],
                }
                for half, count in zip(("train", "test"), rows, strict=True)
            ],
        },
    }  # fmt: skip
    for file, note in notes.items():
        (place / file).write_text(json.dumps(note))
    (place / "label.labels.txt").write_text("round\nsquare\n")
    return written


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_tfds_set_is_decoded_without_tensorflow(tmp_path, cache):
    written = write_tfds(tmp_path / "sets")
    tiny = data.load("tiny_shapes", data_dir=tmp_path / "sets")
    assert "tensorflow" not in sys.modules
    assert tiny.class_names == ("round", "square") and tiny.image_shape == (6, 6, 3)
    for half, split in (("train", tiny.train), ("test", tiny.test)):
        assert split.images.dtype == np.uint8 and len(split) == len(written[half])
        # ArrayRecord shards are read in order
        for image, label, (pixels, expected) in zip(split.images, split.labels, written[half], strict=True):
            assert np.array_equal(image, pixels) and label == expected


def test_tfds_set_is_decoded_once(tmp_path, cache, monkeypatch):
    write_tfds(tmp_path / "sets")
    first = data.load("tiny_shapes", data_dir=tmp_path / "sets")
    monkeypatch.setattr(np, "stack", lambda *_: pytest.fail("decoded again"))
    again = data.load("tiny_shapes", data_dir=tmp_path / "sets")
    assert isinstance(again.train.images, np.memmap)
    np.testing.assert_array_equal(again.train.images, first.train.images)
    files = {str(path.relative_to(cache)) for path in cache.rglob("*.npy")}
    folder = "tiny_shapes-1.0.0"
    assert files == {
        f"{folder}/{half}/{array}.npy" for half in ("train-7", "test-3") for array in ("images", "labels")
    }


class Source:
    """What as_data_source gives, with a barrier so that all readers decode at once."""

    def __init__(self, barrier):
        self.barrier = barrier

    def __len__(self):
        return 4

    def __getitems__(self, rows):
        self.barrier.wait(timeout=30)
        return [{"image": np.full((2, 2, 1), row, np.uint8), "label": row % 2} for row in rows]


def decode_at_once(readers=4):
    barrier, found, failed = threading.Barrier(readers), [], []

    def read():
        try:
            found.append(datasets._decoded(Source(barrier), "raced/1.0.0", "train"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, failed


def test_readers_at_the_same_time_agree(cache):
    found, failed = decode_at_once()
    assert not failed and len(found) == 4
    for split in found:
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], [0, 1, 2, 3])
        np.testing.assert_array_equal(split.labels, [0, 1, 0, 1])
    assert [path.name for path in (cache / "raced-1.0.0").iterdir()] == ["train-4"], "nothing left aside"


def test_planted_careless_rename_is_seen(cache, monkeypatch):
    """A loader that takes the folder's absence for granted fails for all but the first reader."""
    monkeypatch.setattr(datasets.Path, "is_dir", lambda path: False)
    assert len(decode_at_once()[1]) == 3


def test_images_of_several_sizes_are_refused(tmp_path, cache):
    write_tfds(tmp_path / "sets", sizes=((6, 6), (5, 7)))
    with pytest.raises(DataError, match=r"images of 2 sizes: resize them to one and save an \.npz"):
        data.load("tiny_shapes", data_dir=tmp_path / "sets")
    assert not list(cache.rglob("*.npy"))


def test_set_without_test_split_is_refused(tmp_path, cache):
    write_tfds(tmp_path / "sets")
    info = tmp_path / "sets" / "tiny_shapes" / "1.0.0" / "dataset_info.json"
    note = json.loads(info.read_text())
    info.write_text(json.dumps({**note, "splits": note["splits"][:1]}))
    assert "need train and test" in refusal("tiny_shapes", data_dir=tmp_path / "sets")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "fashion_mnist"])
def test_unprepared_set_names_both_remedies(tmp_path, name):
    message = refusal(name, data_dir=tmp_path)
    assert 'pip install "deepsec_jax[prepare]"' in message and "--data-dir" in message
    assert str(tmp_path) in message
    assert not list(tmp_path.iterdir()), "nothing is downloaded or made"


def test_unknown_set(tmp_path):
    message = refusal("mnistt", data_dir=tmp_path)
    assert "unknown data set" in message and "digits" in message and ".npz" in message
