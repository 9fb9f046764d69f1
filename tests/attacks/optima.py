"""The smallest changes that reach a goal on a linear model, by scipy's solvers."""

import numpy as np
from scipy import optimize


def faces(model, x, labels, targets):
    """Return (rows, gaps) with rows @ delta >= gaps where the image's goal is met, per image.

    Targeted: the target ahead of every other class.  Untargeted (targets None): a list of such regions,
    one per wrong class; the nearest counts.
    """
    weights, bias = np.asarray(model.weights, np.float64), np.asarray(model.bias, np.float64)
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    logits = flat @ weights + bias
    classes = weights.shape[1]
    for row in range(len(x)):
        goals = [int(targets[row])] if targets is not None else [
            k for k in range(classes) if k != int(labels[row])
        ]  # fmt: skip
        yield (
            flat[row],
            [
                (
                    np.stack([weights[:, g] - weights[:, j] for j in range(classes) if j != g]),
                    np.array([logits[row, j] - logits[row, g] for j in range(classes) if j != g]),
                )
                for g in goals
            ],
        )


def closest_l2(clean, rows, gaps):
    """Return the smallest L2 norm of a change in the box with rows @ delta >= gaps (scipy's SLSQP)."""
    found = optimize.minimize(
        lambda d: d @ d,
        np.zeros_like(clean),
        jac=lambda d: 2 * d,
        method="SLSQP",
        bounds=list(zip(-clean, 1 - clean, strict=True)),
        constraints=[{"type": "ineq", "fun": lambda d: rows @ d - gaps, "jac": lambda d: rows}],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return np.linalg.norm(found.x) if found.success else np.inf


def closest_l1(clean, rows, gaps):
    """Return the smallest L1 norm of such a change (scipy's linprog, delta = up - down)."""
    size = len(clean)
    found = optimize.linprog(
        np.ones(2 * size),
        A_ub=np.hstack([-rows, rows]),
        b_ub=-gaps,
        bounds=[(0, 1 - c) for c in clean] + [(0, c) for c in clean],
    )
    return found.fun if found.success else np.inf


def optimum(model, x, labels, targets, closest):
    return np.array([
        min(closest(clean, *region) for region in regions)
        for clean, regions in faces(model, x, labels, targets)
    ])  # fmt: skip


def closest_linf(clean, rows, gaps):
    """Return the smallest L-inf norm of such a change (scipy's linprog, the last variable is the norm)."""
    size = len(clean)
    within = np.vstack(
        [np.hstack([np.eye(size), -np.ones((size, 1))]), np.hstack([-np.eye(size), -np.ones((size, 1))])]
    )
    found = optimize.linprog(
        np.append(np.zeros(size), 1.0),
        A_ub=np.vstack([np.hstack([-rows, np.zeros((len(rows), 1))]), within]),
        b_ub=np.append(-gaps, np.zeros(2 * size)),
        bounds=[*((-c, 1 - c) for c in clean), (0, 1)],
    )
    return found.fun if found.success else np.inf


def closest_l0(clean, rows, gaps):
    """Return the fewest entries that must change for one face: those that help most, all the way."""
    (row,), (gap,) = rows, gaps
    gains = np.sort(np.maximum(row * (1 - clean), -row * clean))[::-1]
    reached = np.flatnonzero(np.cumsum(gains) >= gap)
    return reached[0] + 1.0 if len(reached) else np.inf
