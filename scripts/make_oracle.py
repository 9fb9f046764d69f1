#!/usr/bin/env python
"""Make tests/oracles/digits.npz: exact distances to the nearest misclassified image, proven by a solver.

Small ReLU networks are trained on scikit-learn's digits.  For each image and each norm (L-inf, L1, L0) a
mixed-integer programme finds the smallest change in the box [0, 1] after which a wrong class is at least
level with the label.  Every ReLU that can be on or off within the radius has a binary variable; HiGHS
(``scipy.optimize.milp``) proves the optimum.  The table holds its lower bound, and the distance of a witness
that numpy has checked in float64.  No attack of this package is asked.

    python scripts/make_oracle.py            # minutes; writes the table anew
"""

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import Bounds, LinearConstraint, milp

from deepsec_jax.data.digits import digits

NETWORKS: dict[str, tuple[tuple[int, ...], float]] = {
    "plain": ((24,), 0.0),
    "robust": ((24,), 0.1),
    "deep": ((12, 12), 0.03),
}
"""Name -> widths of the hidden layers, and the radius of the sign step that it was trained against."""

RADII = {
    "linf": (0.02, 0.05, 0.1, 0.2, 0.4, 1.0),
    "l1": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 64.0),
    "l0": (1, 2, 3, 4, 6, 8, 12, 64),
}
"""Solved within each radius in turn until one holds a change: few ReLUs are open in a small one."""

Layers = list[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Train, solve, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=40, help="images of each network")
    parser.add_argument("--out", type=Path, default=Path("tests/oracles/digits.npz"))
    options = parser.parse_args()
    test, table = digits().test, {}
    for number, (name, (widths, eps)) in enumerate(NETWORKS.items()):
        layers = trained(widths, eps, seed=number)
        images = np.asarray(test.images, np.float64).reshape(len(test), -1)
        right = np.flatnonzero(logits(layers, images).argmax(1) == test.labels)[: options.n]
        print(f"{name}: {np.mean(logits(layers, images).argmax(1) == test.labels):.1%} right", flush=True)
        table |= {f"{name}/weights{i}": w for i, (w, _) in enumerate(layers)}
        table |= {f"{name}/bias{i}": b for i, (_, b) in enumerate(layers)}
        table |= {f"{name}/images": test.images[right], f"{name}/labels": test.labels[right]}
        for norm in RADII:
            found = [closest(layers, images[row], int(test.labels[row]), norm) for row in right]
            lower, upper = np.asarray(found).T
            table |= {f"{name}/{norm}_lower": lower, f"{name}/{norm}_upper": upper}
            print(
                f"  {norm}: median {np.median(upper):.4g}, widest gap {np.max(upper - lower):.2g}", flush=True
            )
    np.savez_compressed(options.out, **table)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


def trained(widths: tuple[int, ...], eps: float, *, seed: int, steps: int = 3000) -> Layers:
    """Return weights [in, out] and biases, float32: trained on images moved by a sign step of eps."""
    train = digits().train
    sizes = (64, *widths, 10)
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    params = [
        (jax.random.normal(key, (a, b)) * (2.0 / a) ** 0.5, jnp.zeros(b))
        for key, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]
    optimizer = optax.adam(3e-3)
    x, y = jnp.asarray(train.images).reshape(len(train), -1), jnp.asarray(train.labels)

    def loss(params, x, y):
        for weights, bias in params[:-1]:
            x = jax.nn.relu(x @ weights + bias)
        answers = x @ params[-1][0] + params[-1][1]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(answers, y))

    @jax.jit
    def step(params, state, key):
        rows = jax.random.choice(key, len(x), (128,), replace=False)
        moved = jnp.clip(x[rows] + eps * jnp.sign(jax.grad(loss, 1)(params, x[rows], y[rows])), 0.0, 1.0)
        gradient = jax.grad(loss)(params, moved, y[rows])
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for key in jax.random.split(keys[-1], steps):
        params, state = step(params, state, key)
    return [(np.asarray(weights), np.asarray(bias)) for weights, bias in params]


def logits(layers: Layers, flat: np.ndarray) -> np.ndarray:
    """Return the logits [..., 10] of flat images, in float64."""
    for weights, bias in layers[:-1]:
        flat = np.maximum(flat @ weights.astype(np.float64) + bias, 0.0)
    return flat @ layers[-1][0].astype(np.float64) + layers[-1][1]


def closest(layers: Layers, image: np.ndarray, label: int, norm: str) -> tuple[float, float]:
    """Return the solver's lower bound of the distance to a misclassified image, and a witness's distance."""
    proven = 0.0
    for radius in RADII[norm]:
        lower, upper = np.inf, np.inf
        for aim in (other for other in range(10) if other != label):
            within = min(radius, upper)  # nothing farther than what was found is of interest
            bound, witness = solved(layers, image, label, aim, norm, within)
            lower = min(lower, bound)
            if witness is not None:
                upper = min(upper, checked(layers, image, label, aim, norm, witness))
        if np.isfinite(upper):
            return max(proven, min(lower, upper)), upper
        proven = radius
    raise AssertionError("no image of the box is misclassified")


def size(change: np.ndarray, norm: str) -> float:
    """Return the size of a change, float64; in L0 the number of entries above what a solver calls 0."""
    magnitude = np.abs(change)
    if norm == "l0":
        return float(np.sum(magnitude > 1e-6))
    return float(magnitude.max() if norm == "linf" else magnitude.sum())


def checked(layers: Layers, image: np.ndarray, label: int, aim: int, norm: str, witness: np.ndarray) -> float:
    """Return the distance of a witness, moved on by as little as numpy needs to find it misclassified."""
    if norm == "l0":
        witness = np.where(np.abs(witness - image) > 1e-6, witness, image)
    for further in (0.0, 1e-7, 1e-6, 1e-5, 1e-4):
        moved = np.clip(image + (witness - image) * (1.0 + further), 0.0, 1.0)
        values = logits(layers, moved)
        if values[aim] >= values[label] - 1e-7:
            return size(moved - image, norm)
    raise AssertionError(f"the solver's image is not misclassified: {values[aim] - values[label]:g}")


@dataclass
class Programme:
    """A mixed-integer programme in rows of ``low <= coefficients @ variables <= high``."""

    lower: list[float]
    upper: list[float]
    integral: list[int]
    rows: list[tuple[dict[int, float], float, float]]

    def variable(self, low: float, high: float, *, integral: bool = False) -> int:
        """Add a variable and return its number."""
        self.lower.append(low)
        self.upper.append(high)
        self.integral.append(int(integral))
        return len(self.lower) - 1

    def row(self, coefficients: dict[int, float], low: float, high: float) -> None:
        """Add a constraint."""
        self.rows.append((coefficients, low, high))

    def solve(self, cost: dict[int, float]) -> tuple[float, np.ndarray | None]:
        """Return the solver's lower bound of the cost (infinite where nothing fits), and its solution."""
        matrix = np.zeros((len(self.rows), len(self.lower)))
        for number, (coefficients, _, _) in enumerate(self.rows):
            for variable, value in coefficients.items():
                matrix[number, variable] += value
        costs = np.zeros(len(self.lower))
        costs[list(cost)] = list(cost.values())
        low, high = ([row[end] for row in self.rows] for end in (1, 2))
        found = milp(
            costs, integrality=self.integral, bounds=Bounds(self.lower, self.upper),
            constraints=LinearConstraint(matrix, low, high), options={"mip_rel_gap": 0.0},
        )  # fmt: skip
        if found.status == 2:  # infeasible
            return np.inf, None
        if found.status != 0:
            raise AssertionError(f"HiGHS: {found.message}")
        bound = found.fun if found.mip_dual_bound is None else min(found.fun, found.mip_dual_bound)
        return float(bound), found.x


def solved(
    layers: Layers, image: np.ndarray, label: int, aim: int, norm: str, radius: float
) -> tuple[float, np.ndarray | None]:
    """Return a lower bound of the distance at which ``aim`` reaches ``label``, and an image."""
    programme = Programme([], [], [], [])
    reach = np.minimum(radius, 1.0) if norm != "l0" else 1.0
    low, high = np.maximum(-image, -reach), np.minimum(1.0 - image, reach)
    change = [programme.variable(a, b) for a, b in zip(low, high, strict=True)]
    cost = _norm_of(programme, change, low, high, norm, radius)

    doubles = [(weights.astype(np.float64), bias.astype(np.float64)) for weights, bias in layers]
    weights, bias = doubles[0]
    inputs, offset = change, image @ weights + bias
    ends = _first_bounds(weights, offset, low, high, norm, radius)
    for (weights, _), (following, bias) in itertools.pairwise(doubles):
        inputs, values = _relus(programme, inputs, weights, offset, ends)
        positive, negative = np.maximum(following, 0.0), np.minimum(following, 0.0)
        offset = bias
        ends = (
            values[0] @ positive + values[1] @ negative + bias,
            values[1] @ positive + values[0] @ negative + bias,
        )
    lead = doubles[-1][0][:, aim] - doubles[-1][0][:, label]
    gap = offset[aim] - offset[label]
    if gap + np.maximum(lead * values[0], lead * values[1]).sum() < 0:
        return np.inf, None  # out of reach by the bounds alone
    programme.row(dict(zip(inputs, lead, strict=True)), -gap, np.inf)
    bound, found = programme.solve(cost)
    return bound, None if found is None else image + found[: len(image)]


def _norm_of(
    programme: Programme, change: list[int], low: np.ndarray, high: np.ndarray, norm: str, radius: float
) -> dict[int, float]:
    """Add the norm of the change, at most the radius, and return it as a cost."""
    if norm == "linf":
        largest = programme.variable(0.0, min(radius, 1.0))
        for entry in change:
            programme.row({largest: 1.0, entry: -1.0}, 0.0, np.inf)
            programme.row({largest: 1.0, entry: 1.0}, 0.0, np.inf)
        return {largest: 1.0}
    parts = [programme.variable(0.0, 1.0, integral=norm == "l0") for _ in change]
    for part, entry, least, most in zip(parts, change, low, high, strict=True):
        if norm == "l0":  # an entry moves where its part is 1
            programme.row({part: most, entry: -1.0}, 0.0, np.inf)
            programme.row({part: -least, entry: 1.0}, 0.0, np.inf)
        else:
            programme.row({part: 1.0, entry: -1.0}, 0.0, np.inf)
            programme.row({part: 1.0, entry: 1.0}, 0.0, np.inf)
    programme.row(dict.fromkeys(parts, 1.0), 0.0, radius)
    return dict.fromkeys(parts, 1.0)


def _first_bounds(
    weights: np.ndarray, offset: np.ndarray, low: np.ndarray, high: np.ndarray, norm: str, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and largest input of each ReLU of the first layer within the radius and the box."""
    up = np.maximum(weights.T * high, weights.T * low)  # what each entry can add, [hidden, 64]
    down = np.minimum(weights.T * high, weights.T * low)
    if norm == "l0":
        most = int(radius)
        return offset + np.sort(down, 1)[:, :most].sum(1), offset + np.sort(up, 1)[:, ::-1][:, :most].sum(1)
    below, above = down.sum(1), up.sum(1)
    if norm == "l1":
        steepest = np.abs(weights).max(0) * radius
        below, above = np.maximum(below, -steepest), np.minimum(above, steepest)
    return offset + below, offset + above


def _relus(
    programme: Programme,
    inputs: list[int],
    weights: np.ndarray,
    offset: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
) -> tuple[list[int], tuple[np.ndarray, np.ndarray]]:
    """Add a layer, max(offset + weights.T inputs, 0), and return its variables and their bounds."""
    values = []
    for column, base, low, high in zip(weights.T, offset, *ends, strict=True):
        value = programme.variable(max(low, 0.0), max(high, 0.0))
        values.append(value)
        if high <= 0:
            continue
        row = {value: 1.0, **{entry: -weight for entry, weight in zip(inputs, column, strict=True)}}
        if low >= 0:
            programme.row(row, base, base)
            continue
        on = programme.variable(0.0, 1.0, integral=True)
        programme.row(row, base, np.inf)
        programme.row({**row, on: -low}, -np.inf, base - low)  # value <= input - low (1 - on)
        programme.row({value: 1.0, on: -high}, -np.inf, 0.0)
    return values, (np.maximum(ends[0], 0.0), np.maximum(ends[1], 0.0))


if __name__ == "__main__":
    main()
