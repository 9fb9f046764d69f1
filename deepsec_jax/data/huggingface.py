"""A data set of Hugging Face's ``datasets`` that lies on disk."""

from pathlib import Path

from deepsec_jax.data.datasets import DataError, Dataset
from deepsec_jax.data.examples import Size, from_examples


def is_saved(path: Path) -> bool:
    """Return whether ``save_to_disk`` has written this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def saved_to_disk(path: Path, size: Size | None = None) -> Dataset:
    """Read what ``DatasetDict.save_to_disk`` has written: splits train and test, an image and a class column.

    Args:
        path: the folder.
        size: height and width; images of another size are resized (``examples.resized``).

    Raises:
        DataError: the package ``datasets`` is missing, or a split or one of the columns is.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{path} is a data set of Hugging Face: pip install datasets, which reads it"
        ) from None
    saved = datasets.load_from_disk(str(path))
    if not isinstance(saved, datasets.DatasetDict) or not {"train", "test"} <= set(saved):
        splits = ", ".join(saved) if isinstance(saved, datasets.DatasetDict) else "one split"
        raise DataError(
            f"{path} has {splits}: need train and test; make them with dataset.train_test_split(0.2)"
        )
    features = saved["train"].features
    image = _column(path, features, datasets.Image, "images")
    label = _column(path, features, datasets.ClassLabel, "classes (ClassLabel)")
    halves = (((row[image], row[label]) for row in saved[half]) for half in ("train", "test"))
    return from_examples(path.resolve().name, *halves, class_names=features[label].names, size=size)


def _column(path: Path, features: dict[str, object], kind: type, what: str) -> str:
    """Return the only column of a kind."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise DataError(
            f"{path} has {len(found)} columns of {what} among {', '.join(features)}: need exactly one; "
            "use cast_column or remove_columns"
        )
    return found[0]
