"""The training loop: resumable bit for bit, best epoch by validation, nothing overwritten, one compile."""

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from deepsec_jax import data, models, training
from deepsec_jax.pytree import Struct
from deepsec_jax.training import CheckpointError, loop
from deepsec_jax.training.checkpoints import save_model

RECIPE, DATA = tiny.RECIPE, tiny.dataset()
ROOT = Path(__file__).parents[2]


class Interrupted(Exception):
    pass


def interrupt():
    raise Interrupted


def weights(model) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))]


def same_weights(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def tiny_net():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.TinyNet)
        yield


@pytest.fixture(scope="module")
def undisturbed(tiny_net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "model"
    return folder, training.train(RECIPE, DATA, folder)


def interrupted(folder, epochs, before=lambda: None):
    """Train, stop after ``epochs`` epochs, go on; ``before`` is called before each start."""
    before()
    with pytest.raises(Interrupted):
        training.train(RECIPE, DATA, folder, score=tiny.ActsInEpoch(epochs, interrupt))
    assert not folder.exists(), "an unfinished training must not look finished"
    before()
    counted = tiny.ActsInEpoch(RECIPE.epochs, interrupt)
    saved = training.train(RECIPE, DATA, folder, score=counted)
    assert counted.calls == RECIPE.epochs - epochs, "finished epochs must not be trained again"
    return saved


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_resumed_training_gives_the_same_weights(undisturbed, tmp_path, epochs):
    resumed = interrupted(tmp_path / "model", epochs)
    assert same_weights(resumed.model, undisturbed[1].model)
    assert resumed.figures == undisturbed[1].figures
    assert not (tmp_path / "model.partial").exists()


def plant_order(patch):
    """Row orders from a generator that starts anew with the process."""
    generator = np.random.default_rng(0)
    patch.setattr(loop, "_epoch_order", lambda recipe, epoch, size: generator.permutation(size))


def plant_keys(patch):
    """Step keys numbered from the start of the process."""
    fold_in, count = plant_keys.real, iter(range(10**6))

    def counted(key, number):
        return fold_in(key, next(count) if isinstance(number, int) else number)

    patch.setattr(jax.random, "fold_in", counted)


plant_keys.real = jax.random.fold_in


def plant_momentum(patch):
    """The optimizer's state is not restored."""
    restore = plant_momentum.real

    def forgetful(manager, epoch, state, folder):
        restored = restore(manager, epoch, state, folder)
        return {**restored, "state": restored["state"]._replace(optimizer=state.optimizer)}

    patch.setattr(loop, "_restore", forgetful)


plant_momentum.real = loop._restore


@pytest.mark.parametrize("plant", [plant_order, plant_keys, plant_momentum])
def test_planted_resume_violations_are_seen(tmp_path, monkeypatch, plant):
    before = functools.partial(plant, monkeypatch)
    before()
    whole = training.train(RECIPE, DATA, tmp_path / "whole")
    assert not same_weights(interrupted(tmp_path / "model", 2, before).model, whole.model)


def test_killed_training_resumes(undisturbed, tmp_path):
    """A real SIGKILL, in another process, possibly while an epoch is being written."""
    folder = tmp_path / "model"
    killed = subprocess.run(
        [sys.executable, str(Path(tiny.__file__)), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not folder.exists() and (tmp_path / "model.partial").exists()
    counted = tiny.ActsInEpoch(RECIPE.epochs, interrupt)
    resumed = training.train(RECIPE, DATA, folder, score=counted)
    assert counted.calls < RECIPE.epochs, "it started again instead of going on"
    assert same_weights(resumed.model, undisturbed[1].model)


def exploding(*_, **__):
    raise AssertionError("trained")


def test_finished_folder_is_loaded_not_trained(undisturbed, tmp_path, monkeypatch):
    folder, saved = undisturbed
    monkeypatch.setattr(loop, "_step", exploding)
    again = training.train(RECIPE, DATA, folder)
    assert same_weights(again.model, saved.model) and again.figures == saved.figures
    with pytest.raises(AssertionError, match="trained"):  # the same call where nothing is finished
        training.train(RECIPE, DATA, tmp_path / "model")


@pytest.mark.parametrize("change", [{"seed": 8}, {"epochs": 5}, {"learning_rate": 0.03}])
def test_another_recipe_is_refused(undisturbed, change):
    folder, _ = undisturbed
    before = contents(folder.parent)
    with pytest.raises(CheckpointError, match="another folder or remove it") as refused:
        training.train(replace(RECIPE, **change), DATA, folder)
    assert len(str(refused.value).splitlines()) == 1 and str(folder) in str(refused.value)
    assert contents(folder.parent) == before


def test_another_recipe_is_refused_in_an_unfinished_folder(tmp_path):
    with pytest.raises(Interrupted):
        training.train(RECIPE, DATA, tmp_path / "model", score=tiny.ActsInEpoch(1, interrupt))
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="unfinished training of another recipe") as refused:
        training.train(replace(RECIPE, seed=8), DATA, tmp_path / "model")
    assert len(str(refused.value).splitlines()) == 1
    assert contents(tmp_path) == before


def test_other_data_or_another_objective_is_refused(undisturbed, tmp_path):
    folder, _ = undisturbed
    others = replace(DATA, train=replace(DATA.train, labels=DATA.train.labels[::-1]))
    before = contents(folder.parent)
    for options in ({"data": others}, {"data": DATA, "objective": exploding}):
        with pytest.raises(CheckpointError, match="other data or another objective"):
            training.train(RECIPE, folder=folder, **options)
    with pytest.raises(Interrupted):
        training.train(RECIPE, DATA, tmp_path / "model", score=tiny.ActsInEpoch(1, interrupt))
    with pytest.raises(CheckpointError, match="another recipe, data set or objective"):
        training.train(RECIPE, others, tmp_path / "model")
    assert contents(folder.parent) == before


def test_damaged_unfinished_training_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        training.train(RECIPE, DATA, tmp_path / "model", score=tiny.ActsInEpoch(1, interrupt))
    epochs = tmp_path / "model.partial" / "epochs"
    notes = [path for path in epochs.rglob("_METADATA") if path.is_file()]
    assert notes
    for path in notes:
        path.write_bytes(path.read_bytes()[:100])
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.partial is damaged .* remove it to start") as refused:
        training.train(RECIPE, DATA, tmp_path / "model")
    assert len(str(refused.value).splitlines()) == 1
    assert contents(tmp_path) == before


def test_save_model_never_overwrites(undisturbed):
    folder, saved = undisturbed
    before = contents(folder.parent)
    with pytest.raises(CheckpointError, match="exists already"):
        save_model(folder, saved.model, RECIPE, image_shape=(8, 8, 1), classes=10, figures={})
    assert contents(folder.parent) == before


class Figures:
    """A score that gives these figures, epoch after epoch, and keeps each epoch's weights."""

    def __init__(self, *figures):
        self.figures, self.seen = iter(figures), []

    def __call__(self, model, validation):
        self.seen.append([leaf.copy() for leaf in weights(model)])
        return next(self.figures)


def holds(saved, seen) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(saved.model), seen, strict=True))


@pytest.mark.parametrize(
    ("figures", "best"),
    [((0.1, 0.9, 0.3, 0.2), 1), ((0.9, 0.9, 0.9, 0.1), 2), ((1 / 3, 1 / 3, 0.2, 0.1), 1), ((0, 0, 0, 0), 3)],
)
def test_best_epoch_by_validation_ties_to_the_later(tmp_path, figures, best):
    score = Figures(*figures)
    saved = training.train(RECIPE, DATA, tmp_path / "model", score=score)
    assert saved.figures["best_epoch"] == best
    assert [holds(saved, seen) for seen in score.seen] == [epoch == best for epoch in range(4)]
    assert [row["validation"] for row in saved.figures["history"]] == list(figures)


def test_best_epoch_test_sees_a_tie_lost_by_rounding(tmp_path, monkeypatch):
    def unrounded(model, optimizer, before, figure, epoch):
        if figure >= float(before.best_score):  # 1/3 in float64 is below 1/3 in float32
            return loop.TrainingState(model, optimizer, model, jnp.array(figure), jnp.array(epoch))
        return before._replace(model=model, optimizer=optimizer)

    monkeypatch.setattr(loop, "_keep_best", unrounded)
    saved = training.train(RECIPE, DATA, tmp_path / "model", score=Figures(1 / 3, 1 / 3, 0.2, 0.1))
    assert saved.figures["best_epoch"] == 0


def test_best_epoch_survives_an_interruption(tmp_path):
    score = Figures(0.9, 0.5)
    with pytest.raises(StopIteration):
        training.train(RECIPE, DATA, tmp_path / "model", score=score)
    saved = training.train(RECIPE, DATA, tmp_path / "model", score=Figures(0.6, 0.7))
    assert saved.figures["best_epoch"] == 0 and holds(saved, score.seen[0])


def test_one_compile_for_all_epochs(tmp_path, compiles):
    after_epoch = []

    def score(model, validation):
        after_epoch.append(count())
        return training.accuracy(model, validation)

    with compiles() as count:
        training.train(replace(RECIPE, seed=21), DATA, tmp_path / "model", score=score)
        assert count("_step") == 1
    # Judging an epoch compiles once too (it follows the first mark), then nothing more.
    assert after_epoch[0] <= after_epoch[1] == after_epoch[2] == after_epoch[3]


def test_compile_count_sees_a_second_step_program(tmp_path, compiles, monkeypatch):
    kinds = iter([np.float32] * 5 + [jnp.bfloat16] * 95)  # no float16: SSE4.2 cannot convert it
    unit_images = data.unit_images
    monkeypatch.setattr(
        loop, "unit_images", lambda x: unit_images(x).astype(next(kinds) if len(x) == 32 else np.float32)
    )
    with compiles() as count, jax.numpy_dtype_promotion("standard"):
        training.train(replace(RECIPE, seed=22), DATA, tmp_path / "model", score=Figures(0, 0, 0, 0))
        assert count("_step") == 2


def test_training_learns_and_reports(undisturbed):
    """Ten classes: chance is 10 %."""
    _, saved = undisturbed
    assert saved.figures["test_accuracy"] == training.accuracy(saved.model, DATA.test) > 0.3
    losses = [row["loss"] for row in saved.figures["history"]]
    assert losses[-1] < losses[0]
    assert saved.figures["test_images"] == len(DATA.test)


def test_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has 180 images to train on, fewer than a batch of 999"):
        training.train(replace(RECIPE, batch_size=999), DATA, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_validation_part_is_held_out():
    marked = data.Split(np.arange(200, dtype=np.float32).reshape(200, 1, 1, 1) / 200, np.arange(200))
    fit, validation = loop.split_validation(marked, RECIPE)
    assert len(fit) == 180 and len(validation) == 20
    assert sorted([*fit.labels, *validation.labels]) == list(range(200))
    again, _ = loop.split_validation(marked, RECIPE)
    other, _ = loop.split_validation(marked, replace(RECIPE, seed=8))
    assert np.array_equal(fit.labels, again.labels) and not np.array_equal(fit.labels, other.labels)


def test_accuracy_counts_a_last_partial_batch():
    class Constant(nnx.Module):
        def __call__(self, x):
            return jnp.broadcast_to(jnp.arange(3.0)[None, :], (x.shape[0], 3))  # always class 2

    labels = np.array([2, 2, 0, 2, 1], np.int32)
    split = data.Split(np.zeros((5, 2, 2, 1), np.uint8), labels)
    for size in (1, 2, 5, 64):  # padding rows are class 2 as well: they must not count
        assert training.accuracy(Constant(), split, batch_size=size) == 0.6


def test_accuracy_draws_for_each_image_whatever_the_batch():
    class Coin(Struct):
        keys: jax.Array

        row_keys: ClassVar[tuple[str, ...]] = ("keys",)

        def __call__(self, x):
            heads = jax.vmap(jax.random.bernoulli)(self.keys)
            return jnp.stack([heads, ~heads], axis=1).astype(jnp.float32)

    split = data.Split(np.zeros((64, 2, 2, 1), np.uint8), np.zeros(64, np.int32))
    coin = Coin(jax.random.split(jax.random.key(0), 1))
    shares = [training.accuracy(coin, split, batch_size=size) for size in (1, 7, 64)]
    assert shares[0] == shares[1] == shares[2] and 0.2 < shares[0] < 0.8  # one draw for all gives 0 or 1


def test_recipe_note_is_whole_json(tmp_path):
    loop._check_same_training(tmp_path / "x.partial", {"recipe": RECIPE.to_dict()})
    assert json.loads((tmp_path / "x.partial" / "training.json").read_text()) == {"recipe": RECIPE.to_dict()}
    assert [path.name for path in (tmp_path / "x.partial").iterdir()] == ["training.json"]


class OwnStreams(nnx.Module):
    """A network with a random stream of its own for dropout, and a plain array."""

    def __init__(self, image_shape, classes, *, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.mean = jnp.full((), 0.3)
        self.out = nnx.Linear(image_shape[0] * image_shape[1] * image_shape[2], classes, rngs=rngs)

    def __call__(self, x, *, rngs=None):
        del rngs
        return self.out(self.dropout(jax.lax.collapse(x - self.mean, 1)))


class Counting(OwnStreams):
    """A network with a variable that training would lose."""

    def __init__(self, image_shape, classes, *, rngs):
        super().__init__(image_shape, classes, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros(()))


def test_a_network_with_own_random_streams_trains_and_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "streams", OwnStreams)
    recipe = replace(RECIPE, model="streams", epochs=3)
    whole = training.train(recipe, DATA, tmp_path / "whole")
    with pytest.raises(Interrupted):
        training.train(recipe, DATA, tmp_path / "cut", score=tiny.ActsInEpoch(1, interrupt))
    resumed = training.train(recipe, DATA, tmp_path / "cut")
    assert same_weights(resumed.model, whole.model)
    assert training.accuracy(resumed.model, DATA.test) == whole.figures["test_accuracy"]


def test_the_random_streams_of_a_network_differ_from_step_to_step():
    streams = nnx.state(OwnStreams((8, 8, 1), 10, rngs=nnx.Rngs(0)), nnx.RngKey)

    def words(step):
        (key,) = jax.tree.leaves(loop._streams_of_step(streams, jax.random.key(step)))
        return jax.random.key_data(key).tolist()

    assert words(0) == words(0) != words(1)


def test_a_network_with_a_variable_that_training_does_not_keep_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "counting", Counting)
    with pytest.raises(ValueError, match=r"Counting\.calls is an nnx variable of type Variable.*nnx\.Param"):
        training.train(replace(RECIPE, model="counting"), DATA, tmp_path / "model")
