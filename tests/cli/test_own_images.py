"""A user's own images, from a folder or from Hugging Face, trained on and attacked by the command line."""

import jax
import numpy as np
import pytest
from PIL import Image

from deepsec_jax.cli.main import main
from deepsec_jax.training import load_model


def stripes(count, seed=0):
    """Return uint8 images [count, 10, 10] with bright rows (0) or columns (1), and labels."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = draw.integers(0, 60, (count, 10, 10), dtype=np.uint8)
    images[labels == 0, ::2] += 150
    images[labels == 1, :, ::2] += 150
    return images, labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that deepsec train has trained on a folder of images, resized from 10 x 10 to 8 x 8."""
    folder = tmp_path_factory.mktemp("own")
    for number, (image, label) in enumerate(zip(*stripes(100), strict=True)):
        where = folder / "photos" / ("rows", "columns")[label]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(where / f"{number}.png")
    photos, model = folder / "photos", folder / "model"
    command = ["train", "digits-small", "--data", f"{photos}/", "--image-size", "8", "8"]
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes kinds of numbers
        assert main([*command, "--run-dir", str(model)]) == 0
    return model


def test_train_states_data_and_resizing(trained):
    saved = load_model(trained)
    assert saved.image_shape == (8, 8, 1) and saved.recipe.image_size == (8, 8)
    assert saved.recipe.name == "digits-small-on-photos-8x8", "not under the name of a recipe for digits"
    assert saved.figures["test_images"] == 20 and saved.figures["test_accuracy"] > 0.9


def attack(model, out, *options):
    assert main(["attack", str(model), "--attacks", "fgsm", "--n", "8", "--run-dir", str(out), *options]) == 0
    return (out / "report" / "attacks.html").read_text()


def test_attack_on_a_folder_of_images(trained, tmp_path):
    assert "resized to 8 x 8 pixels" in attack(trained, tmp_path / "run")


def test_attack_on_a_saved_set_of_hugging_face(trained, tmp_path):
    datasets = pytest.importorskip("datasets", reason="reads data sets of Hugging Face")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["columns", "rows"]))
    images, labels = stripes(40, seed=1)
    columns = {"image": [Image.fromarray(image) for image in images], "label": (1 - labels).tolist()}
    both = datasets.Dataset.from_dict(columns, features=features).train_test_split(0.5, seed=0)
    both.save_to_disk(str(tmp_path / "stripes"))
    attack(trained, tmp_path / "run", "--data", str(tmp_path / "stripes"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "./nowhere"], "no folder nowhere"),
        (["--image-size", "0", "8"], "--image-size must be at least 1, got 0"),
    ],
)
def test_refused(options, said, capsys, tmp_path):
    assert main(["train", "digits-small", *options, "--run-dir", str(tmp_path / "model")]) == 2
    assert said in capsys.readouterr().err
