"""Golden figures: what every attack, defense, detector and metric gives on small fixed cases.

``golden.toml`` has a line per algorithm: its versions, and figures of its results that rounding does not move
and another algorithm does.  Nothing here is trained, so that every machine has the same networks.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from defenses.few import FEW
from flax import nnx

from deepsec_jax import data, defenses, metrics, models, training
from deepsec_jax.attacks import parse, prepare
from deepsec_jax.catalog import versions
from deepsec_jax.defenses import DEFENSES, DETECTORS, FittedDetector
from deepsec_jax.defenses.detector import score_all
from deepsec_jax.evaluation.adaptive import REJECTION_COLUMNS, ROBUSTNESS_COLUMNS
from deepsec_jax.evaluation.measured import record_of
from deepsec_jax.evaluation.utility import utility_columns
from deepsec_jax.metrics import DEFENSE_METRICS, DETECTION_METRICS, METRICS
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.models.wrappers import Scaled
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import example_keys, reseed

PATH = Path(__file__).with_name("golden.toml")
HEAD = """# Versions and figures of every attack, defense, detector and metric column; see golden.py.
# pytest tests/test_golden.py --golden rewrites the lines whose version was raised, or that have no figures.
# Names of attacks are read by deepsec_jax.attacks.parse.
"""
ROWS = 16
TOLERANCE = 1e-3
"""Largest difference of a figure, in units of the results' own size; other processors make 1e-4 of it."""


@dataclass(frozen=True)
class Line:
    """One line: versions of what took part, and figures of the results.

    Attributes:
        versions: class or column -> version.
        figures: see :func:`figures`; empty where there are none yet.
        success: a digit per row, 1 for success; empty where success means nothing.
    """

    versions: Mapping[str, int]
    figures: tuple[float, ...] = ()
    success: str = ""


def read(path: Path = PATH) -> dict[str, dict[str, Line]]:
    """Return section -> name -> line."""
    table = tomllib.loads(path.read_text())
    return {
        section: {
            name: Line(line.get("versions", {}), tuple(line.get("figures", ())), line.get("success", ""))
            for name, line in lines.items()
        }
        for section, lines in table.items()
    }


def write(table: Mapping[str, Mapping[str, Line]], path: Path = PATH) -> None:
    """Write all lines."""
    text = HEAD
    for section, lines in table.items():
        text += f"\n[{section}]\n" + "".join(f'"{name}" = {_as_toml(line)}\n' for name, line in lines.items())
    path.write_text(text)


def _as_toml(line: Line) -> str:
    held = ", ".join(f"{name} = {number}" for name, number in line.versions.items())
    parts = [f"versions = {{ {held} }}"]
    parts += [f'success = "{line.success}"'] if line.success else []
    parts.append(f"figures = [{', '.join(f'{figure:.6g}' for figure in line.figures)}]")
    return f"{{ {', '.join(parts)} }}"


def may_be_rewritten(kept: Line, found: Line) -> bool:
    """Tell whether ``--golden`` may take the new line: a version was raised, or there are no figures."""
    return not kept.figures or dict(kept.versions) != dict(found.versions)


def complaint(name: str, kept: Line, found: Line) -> str:
    """Return what is wrong with a line, and what to do; empty where nothing is.

    Args:
        name: of the line.
        kept: the line of the file.
        found: what the code gives now.
    """
    rewrite = "run pytest tests/test_golden.py --golden"
    if not kept.figures:
        return f"{name} has no figures yet: {rewrite}"
    if dict(kept.versions) != dict(found.versions):
        return f"{name} was written with versions {kept.versions}, the code has {found.versions}: {rewrite}"
    if is_close(kept, found):
        return ""
    return (
        f"{name}: results moved and no version did ({_said(kept)} before, {_said(found)} now). If that is "
        f"meant, raise the version ({kept.versions} now: version=... in the Card or Column, or the class "
        f"attribute of a combinator) and {rewrite}. If not, the last change did more than it should"
    )


def _said(line: Line) -> str:
    return f"{line.success or 'figures'} {' '.join(f'{figure:.4g}' for figure in line.figures)}"


def is_close(kept: Line, found: Line) -> bool:
    """Tell whether two lines are equal but for rounding: of all rows' success, one may differ."""
    if len(kept.figures) != len(found.figures) or len(kept.success) != len(found.success):
        return False
    if sum(one != other for one, other in zip(kept.success, found.success, strict=True)) > 1:
        return False
    one, other = np.array(kept.figures), np.array(found.figures)
    parts = one.reshape(-1, FIGURES), other.reshape(-1, FIGURES)
    scale = np.maximum(np.abs(parts[0]), parts[0][:, 1:2])  # what cancels is measured by what it is made of
    return bool(np.all(np.abs(parts[0] - parts[1]) <= TOLERANCE * scale + 1e-6))


FIGURES = 6


def figures(values: Any) -> list[float]:
    """Return six figures of an array [N, ...]: enough to tell another algorithm's results from these.

    The mean, the mean size, the root mean square, the mean over rows of the largest size, the mean weighted
    by numbers drawn once between -1 and 1, and the share that is finite; what is not counts as 0 elsewhere.
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0).reshape(len(values), -1)
    sizes = np.abs(values)
    weights = np.random.RandomState(1).uniform(-1.0, 1.0, values.shape)
    return [
        values.mean(), sizes.mean(), np.sqrt((values**2).mean()), sizes.max(axis=1).mean(),
        (weights * values).mean(), finite.mean(),
    ]  # fmt: skip


# --- Networks and images


class Net(Struct):
    """logits = scale tanh(x W_1 + b_1) W_2 + b_2: smooth, so that rounding stays what it is."""

    first: jax.Array
    offsets: jax.Array
    second: jax.Array
    bias: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        flat = x.reshape(x.shape[0], -1)
        hidden = jnp.tanh(flat @ self.first.astype(flat.dtype) + self.offsets.astype(flat.dtype)[None])
        return hidden @ self.second.astype(flat.dtype) + self.bias.astype(flat.dtype)[None]


@cache
def digits() -> data.Dataset:
    """160 training and 40 test images of digits."""
    whole = data.load("digits")
    return replace(whole, train=whole.train.take(np.arange(160)), test=whole.test.take(np.arange(40)))


@cache
def net(seed: int = 0) -> Net:
    """A network of random features, its last layer fitted to all of digits by least squares."""
    split = data.load("digits").train
    x = np.asarray(split.images, np.float64).reshape(len(split), -1)
    random = np.random.RandomState(seed)
    first, offsets = random.normal(size=(64, 48)) / 3.0, random.uniform(-1.0, 1.0, 48)
    hidden = np.tanh((x - 0.3) @ first + offsets)
    hidden = np.concatenate([hidden, np.ones((len(x), 1))], axis=1)
    wanted = 10.0 * np.eye(10)[split.labels]
    last = np.linalg.solve(hidden.T @ hidden + 3.0 * np.eye(49), hidden.T @ wanted)
    parts = (first, offsets - 0.3 * first.sum(axis=0), last[:-1], last[-1])
    return Net(*(jnp.asarray(part, jnp.float32) for part in parts))


@cache
def images() -> tuple[jax.Array, jax.Array]:
    """16 test images that the network has right, and their labels."""
    split = data.load("digits").test
    x, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
    right = np.flatnonzero(np.asarray(jnp.argmax(net()(x), axis=-1) == labels))[:ROWS]
    return x[right], labels[right]


# --- Attacks


def of_attack(text: str) -> Line:
    """Return the line of an attack: figures of x_adv - x, and success."""
    attack: Any = parse(text)
    x, labels = images()
    goal = (labels + 1) % 10 if getattr(attack, "targeted", False) else labels
    return attack_line(attack, versions(attack), x, goal)


def attack_line(attack: Any, held: Mapping[str, int], x: jax.Array, goal: jax.Array) -> Line:
    """Return the line of an attack on these images."""
    model, key = net(), jax.random.key(7)
    if hasattr(attack, "fit"):
        attack = prepare(attack, model, digits().train.images[:40], key=key)
    x_adv = attack(model, x, goal, key=key)
    targets = attack.targets(model, x, goal, key=key)
    found = jnp.argmax(model(x_adv), axis=-1)
    success = found != goal if targets is None else found == targets
    return Line(held, tuple(figures(x_adv - x)), "".join(str(int(hit)) for hit in np.asarray(success)))


# --- Defenses and detectors


@contextmanager
def untrained() -> Iterator[list[dict[str, Any]]]:
    """Give every training its network as it is first drawn, and note what each was asked."""
    asked: list[dict[str, Any]] = []
    train = defenses.base.train

    def not_trained(recipe: Any, dataset: Any, folder: Any, **options: Any) -> training.Saved:
        del folder
        asked.append(options)
        channels = options.get("in_channels") or dataset.image_shape[2]
        if "build" in options:
            network = options["build"](nnx.Rngs(5), channels)
        else:
            shape = (*dataset.image_shape[:2], channels)
            network = models.build(recipe.model, shape, dataset.classes, seed=5)
        network.eval()
        return training.Saved(network, recipe, dict.fromkeys(options.get("tested") or {}, 0.0))

    defenses.base.train = not_trained  # type: ignore[assignment]
    try:
        yield asked
    finally:
        defenses.base.train = train


def of_defense(name: str) -> Line:
    """Return the line of a defense: losses and gradients of its trainings, logits of it and its surrogate."""
    defense = DEFENSES[name](**FEW[name])
    with untrained() as asked:
        fitted = defense.fit(_base(), digits(), key=jax.random.key(3))
    x, labels = images()
    found: list[float] = []
    for options in asked:
        found += figures(_loss_and_gradients(options, x, labels))
    for model in (fitted, defense.surrogate(fitted)):
        found += figures(reseed(model, example_keys(jax.random.key(4), ROWS))(x))
    return Line(versions(defense), tuple(found))


def _loss_and_gradients(options: Mapping[str, Any], x: jax.Array, labels: jax.Array) -> np.ndarray:
    channels = options.get("in_channels") or 1
    if "build" in options:
        network = options["build"](nnx.Rngs(5), channels)
    else:
        network = models.build("small_cnn", (8, 8, channels), 10, seed=5)
    network.train()
    objective = options["objective"]
    objective = objective.at(jnp.float32(0.5)) if hasattr(objective, "at") else objective

    @nnx.jit
    def both(network: Any, objective: Any) -> Any:
        return nnx.value_and_grad(objective)(network, x, labels, jax.random.key(6))

    if not isinstance(objective, Struct):
        function = objective
        loss, gradients = nnx.jit(nnx.value_and_grad(function))(network, x, labels, jax.random.key(6))
    else:
        loss, gradients = both(network, objective)
    norms = [float(jnp.sqrt(jnp.sum(leaf**2))) for leaf in jax.tree.leaves(gradients)]
    return np.array([float(loss), *norms])


def of_detector(name: str) -> Line:
    """Return the line of a detector: scores of clean and of noisy images, its surrogate's, its threshold."""
    detector = DETECTORS[name](**FEW[name])
    with untrained():
        fitted = detector.fit(_base(), digits(), key=jax.random.key(3))
    clean = np.asarray(images()[0])
    noise = np.random.RandomState(2).uniform(-0.2, 0.2, clean.shape).astype(np.float32)
    found = figures([[float(fitted.threshold), float(fitted.spread)]])
    for each in (fitted, detector.surrogate(fitted)):
        for x in (clean, np.clip(clean + noise, 0.0, 1.0)):
            found += figures(score_all(each.scorer, x, batch_size=ROWS))
    return Line(versions(detector), tuple(found))


@cache
def _base() -> defenses.Base:
    recipe = replace(training.recipe("digits-small"), name="tests", epochs=1, batch_size=32)
    network = models.build("small_cnn", digits().image_shape, 10, seed=1)
    network.eval()
    return defenses.base_of(training.Saved(network, recipe, {}), digits())


# --- Metrics


class Brightness(Struct):
    """A detector's score: the mean of the image."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=(1, 2, 3))


@cache
def _attack_records() -> list[metrics.AttackRecord]:
    x, labels = images()
    other = jnp.roll(x, 1, axis=0)
    x_adv = x + jnp.asarray(np.linspace(0.0, 0.7, ROWS), jnp.float32)[:, None, None, None] * (other - x)
    guarded = Guarded(net(), FittedDetector(Brightness(), 0.34, 0.1))
    costs = {"seconds": 2e-3, "gradients": 20.0, "forwards": 3.0, "gradient_seconds": 5e-5}
    return [
        record_of(model, x, x_adv, labels, targets=targets, **costs)
        for model, targets in ((net(), None), (net(), jnp.roll(labels, 1)), (guarded, None))
    ]


@cache
def _defense_record() -> metrics.DefenseRecord:
    x, labels = images()
    return metrics.defense_record_of(
        net(), Scaled(net(1), 0.7), 0.6 * x + 0.4 * jnp.roll(x, 1, axis=0), labels
    )


@cache
def _detection_record() -> metrics.DetectionRecord:
    random = np.random.RandomState(3)
    return metrics.DetectionRecord(
        random.normal(1.0, 1.0, 24), random.choice([0.0, 0.5, 1.0], 24), random.normal(0.0, 1.0, 40),
        random.choice([0.0, 1.0], 40), 0.9,
    )  # fmt: skip


@cache
def _shares() -> dict[str, np.ndarray]:
    random = np.random.RandomState(4)
    names = ("clean", "right_or_rejected", "rejected", "clean_rejected")
    return {name: random.choice([0.0, 0.5, 1.0], 24) for name in names}


def _values(columns: Mapping[str, Any], records: Callable[[], Any], name: str) -> Line:
    column, found = columns[name], records()
    every = found if isinstance(found, list) else [found]
    values = [figures(column.values(record)) for record in every]
    return Line({"version": column.version}, tuple(figure for part in values for figure in part))


def _metric_cases() -> dict[str, Callable[[], Line]]:
    tables: dict[str, tuple[Mapping[str, Any], Callable[[], Any]]] = {
        "attack": (METRICS, _attack_records),
        "defense": (utility_columns(rejecting=True) | DEFENSE_METRICS, _defense_record),
        "detection": (DETECTION_METRICS, _detection_record),
        "robustness": (
            ROBUSTNESS_COLUMNS | {column.name: column for column in REJECTION_COLUMNS.values()}, _shares,
        ),
    }  # fmt: skip
    return {
        f"{kind} {name}": partial(_values, columns, records, name)
        for kind, (columns, records) in tables.items()
        for name in columns
    }


def cases() -> dict[str, dict[str, Callable[[], Line]]]:
    """Return section -> name -> what computes the line: attacks by the file, all else by tables."""
    return {
        "attacks": {text: partial(of_attack, text) for text in read().get("attacks", {})},
        "defenses": {name: partial(of_defense, name) for name in DEFENSES if name not in DETECTORS},
        "detectors": {name: partial(of_detector, name) for name in DETECTORS},
        "metrics": _metric_cases(),
    }
