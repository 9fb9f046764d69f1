"""Model folders: what is saved comes back; what is damaged is refused in one line."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deepsec_jax import models
from deepsec_jax.training import CheckpointError, checkpoints, load_model, recipe, save_model

# When one array cannot be read, orbax leaves the errors of the others behind in its reader threads.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SHAPE = (8, 8, 1)
FIGURES = {"test_accuracy": 0.5, "history": [{"epoch": 0, "loss": 2.25}]}


@pytest.fixture(autouse=True)
def leave_no_errors_behind():
    yield
    gc.collect()


def build(seed=3):
    model = models.build("small_cnn", SHAPE, 10, seed=seed)
    model.eval()
    return model


def save(folder, model, **changes):
    options = {"image_shape": SHAPE, "classes": 10, "figures": FIGURES, **changes}
    save_model(folder, model, recipe("digits-small"), **options)


@jax.jit
def logits_of(model, x):
    return model(x)


@pytest.fixture(scope="module")
def network():
    return build()


@pytest.fixture(scope="module")
def saved_folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "model"
    save(folder, network)
    return folder


@pytest.fixture
def folder(saved_folder, tmp_path):
    """A copy to damage."""
    return shutil.copytree(saved_folder, tmp_path / "model")


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as refused:
        load_model(folder)
    message = str(refused.value)
    assert len(message.splitlines()) == 1 and str(folder) in message
    return message


def array_files(folder):
    """The files that hold the large arrays (dense kernel 512 x 64)."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 50_000]


def edit_card(folder, edit):
    path = folder / "recipe.json"
    card = json.loads(path.read_text())
    edit(card)
    path.write_text(json.dumps(card))


def test_what_is_saved_comes_back(network, saved_folder):
    saved = load_model(saved_folder)
    x = jax.random.uniform(jax.random.key(0), (3, *SHAPE))
    assert np.array_equal(logits_of(saved.model, x), logits_of(network, x))
    assert saved.recipe == recipe("digits-small") and saved.figures == FIGURES
    assert jax.tree.structure(saved.model) == jax.tree.structure(network), "evaluation mode"
    assert not np.array_equal(logits_of(build(seed=4), x), logits_of(network, x))


def test_batch_statistics_come_back(tmp_path, monkeypatch):
    class Normed(nnx.Module):
        def __init__(self, image_shape, classes, *, rngs):
            self.norm = nnx.BatchNorm(image_shape[2], rngs=rngs)
            self.out = nnx.Linear(image_shape[2], classes, rngs=rngs)

        def __call__(self, x):
            return self.out(self.norm(x).mean(axis=(1, 2)))

    monkeypatch.setitem(models.MODELS, "small_cnn", Normed)
    model = models.build("small_cnn", SHAPE, 10)
    model.norm.mean[...] = jnp.array([0.25])
    model.eval()
    save(tmp_path / "model", model)
    restored = load_model(tmp_path / "model").model
    assert restored.norm.mean[...] == 0.25
    assert restored.norm.use_running_average


@pytest.mark.parametrize("cut", [lambda size: 0, lambda size: size // 2, lambda size: size - 1])
def test_truncated_weights_are_refused(folder, cut):
    path = array_files(folder)[0]
    path.write_bytes(path.read_bytes()[: cut(path.stat().st_size)])
    assert "damaged" in refusal(folder)


def test_missing_weights_are_refused(folder):
    array_files(folder)[0].unlink()
    assert "damaged" in refusal(folder)
    shutil.rmtree(folder / "model")
    assert "damaged" in refusal(folder)


def weights_of(folder):
    """Every bit of the loaded arrays, in one row."""
    leaves = jax.tree.leaves(load_model(folder).model)
    return np.concatenate([np.asarray(leaf).ravel().view(np.uint8) for leaf in leaves])


def flip_bits(folder):
    path = array_files(folder)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x5A
    path.write_bytes(bytes(content))


def test_flipped_bits_are_refused(folder):
    flip_bits(folder)
    assert "damaged" in refusal(folder)


def test_only_the_digest_sees_flipped_bits(folder, monkeypatch):
    """The array files carry no checksum: without the digest other weights would load in silence."""
    before = weights_of(folder)
    edit_card(folder, lambda card: card.pop("digest"))
    np.testing.assert_array_equal(weights_of(folder), before)  # a folder from before digests
    flip_bits(folder)
    # The weights themselves: a flipped bit may sit where three images' logits round it away.
    assert not np.array_equal(weights_of(folder), before)


def test_truncated_weights_are_refused_without_a_digest(folder):
    """Orbax raises a bare Exception here; it arrives as one line all the same."""
    edit_card(folder, lambda card: card.pop("digest"))
    path = array_files(folder)[0]
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in refusal(folder)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '{"recipe"', "{}", "\x00", '{"recipe": {"name": "x"}}', "\xff\xfe"]
)
def test_damaged_recipe_is_refused(folder, text):
    (folder / "recipe.json").write_bytes(text.encode("latin-1"))
    assert "is damaged" in refusal(folder)


def change(path, value):
    def edit(card):
        *parents, last = path.split(".")
        for name in parents:
            card = card[name]
        card[last] = value

    return edit


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recipe", None),
        ("recipe.model", "nosuch"),
        ("recipe.epochs", "x"),
        ("recipe.optimizer", "lion"),
        ("recipe.seed", None),
        ("recipe.surprise", 1),
        ("image_shape", [8, 8]),
        ("image_shape", [0, 0, 0]),
        ("classes", "ten"),
        ("classes", -3),
    ],
)
def test_senseless_recipe_is_refused(folder, path, value):
    edit_card(folder, change(path, value))
    assert "is damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recipe.model", "mnist_cnn"),
        ("recipe.model", "resnet20"),
        ("classes", 5),
        ("image_shape", [16, 16, 1]),
    ],
)
def test_weights_of_another_network_are_refused(folder, path, value):
    edit_card(folder, lambda card: card.update(image_shape=[28, 28, 1]) if value == "mnist_cnn" else None)
    edit_card(folder, change(path, value))
    assert "of another network than" in refusal(folder)


def test_no_folder_and_no_model_in_it(tmp_path):
    assert "no model in" in refusal(tmp_path / "nothing")
    assert "no model in" in refusal(tmp_path)


def test_failed_save_leaves_nothing(network, tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path / "model", network, figures={"not json": object()})
    assert not list(tmp_path.iterdir())


def test_first_line():
    assert checkpoints.first_line(ValueError("\n one\ntwo")) == "one"
    assert checkpoints.first_line(ValueError()) == "ValueError"
