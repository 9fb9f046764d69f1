"""The one training loop: any objective, resumable after every epoch, best epoch by validation.

All random numbers depend only on (seed, epoch, step), so an interrupted and resumed run ends with the same
weights as an uninterrupted one.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from deepsec_jax.answers import named
from deepsec_jax.batches import in_batches
from deepsec_jax.data.datasets import DataError, Dataset, Split, unit_images
from deepsec_jax.hashing import hash_tree
from deepsec_jax.jit import jit_per_class
from deepsec_jax.placement import leads, place_rows, put, together
from deepsec_jax.progress import progress
from deepsec_jax.protocols import Classifier, Images, Key, Labels
from deepsec_jax.randomness import example_keys, is_key, reseed, root_key
from deepsec_jax.training.augment import shift_flip
from deepsec_jax.training.checkpoints import (
    KEPT,
    Build,
    CheckpointError,
    Saved,
    first_line,
    load_network,
    network,
    save_model,
)
from deepsec_jax.training.recipe import Recipe

Objective = Callable[[Any, Images, Labels, Key], jax.Array]
"""``objective(model, x, labels, key) -> scalar loss`` of a model in training mode: a module-level function,
or a pytree whose leaves (an attack's eps, a teacher's weights) are traced.

A pytree may have two further members.  ``at(done) -> objective`` returns the objective at that share of the
training, 0 to 1, and is called before every step.  ``replays`` (static) is a number of steps on every batch,
with a perturbation carried from step to step.  The loss is that of ``perturbed(x, carried)``; its gradient
with respect to ``carried`` gives the next one, ``moved(carried, gradient)``.
"""

Score = Callable[[Any, Split], float]
"""``score(model, validation) -> figure``, higher is better; selects the epoch that is kept."""


class TrainingState(NamedTuple):
    """State passed from one epoch to the next (all arrays)."""

    model: Any  # nnx state: parameters and batch statistics
    optimizer: Any
    best_model: Any
    best_score: jax.Array
    best_epoch: jax.Array


def cross_entropy(model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
    """Mean cross-entropy of the batch: the plain objective."""
    logits = model(x, rngs=nnx.Rngs(dropout=key))
    loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss


@jit_per_class
def _predict(model: Classifier, x: Images) -> Labels:
    return named(model(x))


def accuracy(model: Classifier, split: Split, *, batch_size: int = 256) -> float:
    """Return the share of correctly classified images of a split, in [0, 1]; no answer (NaN) is not correct.

    See :func:`predictions`.
    """
    return int((predictions(model, split, batch_size=batch_size) == split.labels).sum()) / len(split)


def predictions(model: Classifier, split: Split, *, batch_size: int = 256) -> np.ndarray:
    """Return the predicted classes on the images of a split, int [N]; -1 for no answer; host code.

    A randomised model draws once for each image, by its index in the split.
    """

    def predicted(rows: np.ndarray) -> dict[str, Any]:
        drawn = reseed(model, example_keys(root_key(0), batch_size, first=int(rows[0])))
        return {"classes": _predict(drawn, place_rows(model, unit_images(split.images[rows])))}

    return in_batches(predicted, len(split), batch_size)["classes"]


def frozen(model: Any) -> Any:
    """Return the model for an attack inside an objective: in evaluation mode, as a constant.

    It is a view: it shares the weights, with its own mode.  Gradients stop at it, so the attack is not
    differentiated with respect to the parameters.
    """
    view = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)

    def stopped(leaf: Any) -> Any:
        return jax.lax.stop_gradient(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(stopped, view)


@partial(
    jax.jit,
    static_argnames=("graph", "recipe", "steps_per_epoch"),
    donate_argnames=("state", "optimizer_state", "carried"),  # weights and moments are in memory once
)
def _step(
    graph: Any, state: Any, streams: Any, optimizer_state: Any, x: Images, labels: Labels, key: Key,
    carried: Any, done: jax.Array, objective: Any, *, recipe: Recipe, steps_per_epoch: int,
) -> tuple[Any, Any, Any, jax.Array]:  # fmt: skip
    augment_key, objective_key = jax.random.split(key)
    if recipe.augment == "shift_flip":
        x = shift_flip(x, jax.random.split(augment_key, len(x)))
    objective = objective.at(done) if hasattr(objective, "at") else objective
    params, rest = nnx.split_state(state, nnx.Param, ...)
    streams = _streams_of_step(streams, jax.random.fold_in(key, 2))  # 0 and 1 are the keys of the split above

    def loss_of(params: Any, carried: Any) -> tuple[jax.Array, Any]:
        model: Any = nnx.merge(graph, params, rest, streams, copy=True)  # updates the batch statistics
        seen = x if carried is None else objective.perturbed(x, carried)
        loss = objective(model, seen, labels, objective_key)
        return loss, nnx.state(model, nnx.BatchStat)

    differentiate = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (loss, rest), (gradient, by_carried) = differentiate(params, carried)
    if carried is not None:
        carried = objective.moved(carried, by_carried)
    transformation = recipe.transformation(steps_per_epoch)
    updates, optimizer_state = transformation.update(gradient, optimizer_state, params)
    params = optax.apply_updates(params, updates)
    return nnx.merge_state(params, rest), optimizer_state, carried, loss


def _streams_of_step(streams: Any, key: Key) -> Any:
    """Return the network's own random streams with keys of this step, as resuming needs."""
    leaves, structure = jax.tree.flatten(streams)
    fresh = [
        jax.random.split(jax.random.fold_in(key, place), leaf.shape) if is_key(leaf) else leaf
        for place, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, fresh)


def split_validation(train: Split, recipe: Recipe) -> tuple[Split, Split]:
    """Return the training and the validation images of a recipe; its seed determines the split."""
    order = np.random.default_rng(recipe.seed).permutation(len(train))
    held_out = max(1, int(len(train) * recipe.validation))
    return train.take(np.sort(order[held_out:])), train.take(np.sort(order[:held_out]))


def _epoch_order(recipe: Recipe, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((recipe.seed, epoch)).permutation(size)


def train(
    recipe: Recipe,
    data: Dataset,
    folder: str | os.PathLike[str],
    *,
    objective: Objective = cross_entropy,
    score: Score = accuracy,
    watch: Mapping[str, Score] | None = None,
    build: Build | None = None,
    in_channels: int | None = None,
    tested: Mapping[str, Score] | None = None,
    notes: Mapping[str, Any] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Saved:
    """Train, or resume after the last finished epoch, and return the best epoch's model.

    The model folder is written to ``folder`` when training is finished.  Until then the state after every
    epoch is in ``folder`` + ``.partial``.  A finished folder of the same recipe is loaded.

    A batch is split over the devices.  They may be those of several processes (``jax.distributed``): all
    call this with the same arguments, and see the same folder.

    Args:
        recipe: what to train and how.
        data: the data set; a share of its training split is held out for validation.
        folder: model folder to write.
        objective: loss of one batch.
        score: figure of merit on the validation part; default clean accuracy.
        watch: further figures of every epoch's model on the validation part, for the history.
        build: makes the network; default the recipe's model.
        in_channels: channels of the network's input; default those of the images.
        tested: figures of the kept model on the test part; default ``test_accuracy``, on plain images.
        notes: JSON-ready facts to keep among the figures.
        devices: to train on; default all.  If they do not divide a batch, the first one is used.

    Raises:
        CheckpointError: the folder holds a model, or an unfinished training, of another recipe, or a
            damaged one.
        ValueError: a batch larger than the training part, or a network with variables other than parameters,
            batch statistics and random streams.
    """
    folder = Path(folder).absolute()
    trained_on = {"data": data.digest(), "objective": _name_of(objective)}
    if folder.exists():
        saved = load_network(folder, build=build)
        if saved.recipe != recipe:
            raise CheckpointError(
                f"{folder} holds a model of recipe {saved.recipe.name!r}, not of this {recipe.name!r}: "
                "choose another folder or remove it"
            )
        if saved.figures.get("trained_on", trained_on) != trained_on:
            raise CheckpointError(
                f"{folder} was trained on other data or another objective "
                f"({saved.figures['trained_on']}, now {trained_on}): choose another folder or remove it"
            )
        return saved
    fit, validation = split_validation(data.train, recipe)
    batches_an_epoch = len(fit) // recipe.batch_size
    if not batches_an_epoch:
        raise DataError(
            f"{data.name} has {len(fit)} images to train on, fewer than a batch of {recipe.batch_size}: "
            "give more images"
        )
    replays = getattr(objective, "replays", 1)
    steps = batches_an_epoch * replays
    seen_shape = (*data.image_shape[:2], in_channels or data.image_shape[2])
    model = network(recipe, seen_shape, data.classes, build)
    model.train()
    graph, initial = nnx.split(model)
    initial, streams = nnx.split_state(initial, KEPT, ...)
    params = nnx.filter_state(initial, nnx.Param)
    state = TrainingState(
        initial, recipe.transformation(steps).init(params), initial, jnp.array(-jnp.inf), jnp.array(-1)
    )
    key = root_key(recipe.seed)
    batches, everywhere = _shardings(recipe.batch_size, devices or jax.devices())
    traced = objective if not jax.tree_util.all_leaves([objective]) else jax.tree_util.Partial(objective)
    state, streams, key, traced = put((state, streams, key, traced), everywhere)
    partial_folder = folder.with_name(folder.name + ".partial")
    _check_same_training(partial_folder, {"recipe": recipe.to_dict(), **trained_on})
    history: list[dict[str, float]] = []
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    with ocp.CheckpointManager(partial_folder / "epochs", options=options) as manager:
        done = manager.latest_step()
        if done is not None:
            restored = _restore(manager, done, state, partial_folder)
            state, history = put(restored["state"], everywhere), restored["history"]
        first = 0 if done is None else done + 1
        with progress(f"train {recipe.name}", recipe.epochs * steps, done_before=first * steps) as advance:
            for epoch in range(first, recipe.epochs):
                order = _epoch_order(recipe, epoch, len(fit))
                # Copies: a step takes over their memory, and the best epoch's may be the same arrays.
                model_state, optimizer_state = jax.tree.map(jnp.copy, (state.model, state.optimizer))
                losses = []
                carried = None
                if hasattr(objective, "replays"):  # starts again with every epoch, so that resuming is exact
                    nothing = np.zeros((recipe.batch_size, *data.image_shape), np.float32)
                    carried = put(nothing, batches)
                for step in range(steps):
                    first_row = step // replays * recipe.batch_size
                    rows = order[first_row : first_row + recipe.batch_size]
                    model_state, optimizer_state, carried, loss = _step(
                        graph, model_state, streams, optimizer_state,
                        *put((unit_images(fit.images[rows]), fit.labels[rows]), batches),
                        jax.random.fold_in(key, epoch * steps + step), carried,
                        np.float32((epoch * steps + step) / (recipe.epochs * steps)), traced,
                        recipe=recipe, steps_per_epoch=steps,
                    )  # fmt: skip
                    losses.append(loss)
                    advance(1, f"epoch {epoch + 1}/{recipe.epochs}")
                judged = _evaluation_model(graph, model_state, streams)
                figure = score(judged, validation)
                if np.isnan(figure):
                    raise ValueError(f"epoch {epoch + 1} scored NaN: it diverged, lower the learning rate")
                state = _keep_best(model_state, optimizer_state, state, figure, epoch)
                mean_loss = float(np.mean(jax.device_get(losses)))
                watched = {name: look(judged, validation) for name, look in (watch or {}).items()}
                history = [*history, {"epoch": epoch, "loss": mean_loss, "validation": figure, **watched}]
                manager.save(
                    epoch, args=ocp.args.Composite(
                        state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(history)))  # fmt: skip
                advance(0, f"epoch {epoch + 1}: loss {mean_loss:.3f}, validation {figure:.4f}")
        manager.wait_until_finished()
    best = _evaluation_model(graph, state.best_model, streams)
    figures = {
        **{name: look(best, data.test) for name, look in (tested or {"test_accuracy": accuracy}).items()},
        "test_images": len(data.test), "trained_on": trained_on,
        "best_epoch": int(state.best_epoch), "validation": float(state.best_score), "history": history,
        **(notes or {}),
    }  # fmt: skip
    save_model(folder, best, recipe, image_shape=seen_shape, classes=data.classes, figures=figures)
    if leads():
        shutil.rmtree(partial_folder)
    return load_network(folder, build=build)


def _shardings(
    batch_size: int, devices: Sequence[jax.Device]
) -> tuple[jax.sharding.Sharding, jax.sharding.Sharding]:
    """Shard batches over the devices if they divide evenly, else use one; replicate the weights."""
    used = devices if batch_size % len(devices) == 0 else devices[:1]
    mesh = jax.sharding.Mesh(np.array(used), ("batch",))
    return NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())


def _restore(manager: ocp.CheckpointManager, epoch: int, state: TrainingState, partial_folder: Path) -> Any:
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore())
    try:
        return manager.restore(epoch, args=wanted)
    except Exception as error:  # orbax raises bare Exception for an array file that was cut off
        raise CheckpointError(
            f"the unfinished training in {partial_folder} is damaged or of other data "
            f"({first_line(error)}): remove it to start again"
        ) from None


def _name_of(objective: Objective) -> str:
    """Return the objective's name; for a pytree with a digest of its settings and weights."""
    function = getattr(objective, "func", objective)
    name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    return (
        name if jax.tree_util.all_leaves([objective]) else f"{name}-{hash_tree(objective).hexdigest()[:12]}"
    )


def _check_same_training(partial_folder: Path, training: dict[str, Any]) -> None:
    """Write the settings into the folder of an unfinished training, or refuse the folder of another one."""
    partial_folder.mkdir(parents=True, exist_ok=True)
    note = partial_folder / "training.json"
    wanted = json.dumps(training, sort_keys=True)
    if leads() and not note.exists():
        aside = note.with_suffix(".tmp")
        aside.write_text(wanted)
        aside.rename(note)  # atomic: half a note would look like another training
    together("the training's settings are there")
    if note.read_text() != wanted:
        raise CheckpointError(
            f"{partial_folder} holds an unfinished training of another recipe, data set or objective: finish "
            "it, remove it, or choose another folder"
        )


def _keep_best(
    model_state: Any, optimizer_state: Any, before: TrainingState, figure: float, epoch: int
) -> TrainingState:
    def scalar(value: Any, like: jax.Array) -> jax.Array:
        return put(jnp.asarray(value, like.dtype), like.sharding)

    # In a tie the later epoch wins, as in the original. Both sides are rounded, or a tie could look lower.
    score = np.float32(figure)
    if score >= np.float32(before.best_score):
        return TrainingState(
            model_state, optimizer_state, model_state,
            scalar(score, before.best_score), scalar(epoch, before.best_epoch),
        )  # fmt: skip
    return before._replace(model=model_state, optimizer=optimizer_state)


def _evaluation_model(graph: Any, model_state: Any, streams: Any) -> nnx.Module:
    model: nnx.Module = nnx.merge(graph, model_state, streams)
    model.eval()
    return model
