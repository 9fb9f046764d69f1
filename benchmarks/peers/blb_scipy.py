"""BLB's L-BFGS against scipy's L-BFGS-B on a real network: same objective, same c, same start.

For every image and each ``--c``, both minimise ||x' - x||_2^2 + c x (how far the target is missed) from the
clean image in the box [0, 1]: ours with the preset's descents and steps for all images at once, scipy's image
by image, once, until it converges.  Bars: median of ours / theirs at most 1.02, at most 1.10 for 95 % of the
images.  As a control scipy starts once more, up to 0.01 away: how far its own ends lie apart says how much of
a ratio is the landscape's, which has many minima, and not the method's.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from benchmarks.results import table, verdict, write_json
from benchmarks.subjects import load_subject, subject_title
from deepsec_jax import attacks
from deepsec_jax.attacks.blb import SHARPNESS, longest_first_move, missing
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.lbfgs import lbfgs_start, lbfgs_step, trial_point
from deepsec_jax.memory import keep_freed_memory
from deepsec_jax.progress import progress


def main() -> None:
    """Minimise, compare, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="model folder")
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--c", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    keep_freed_memory()
    subject = load_subject(options.subject, options.n, data_dir=options.data_dir)
    attack: Any = attacks.preset("blb", subject.presets)
    rows, found = [], []
    with progress("images", options.n * len(options.c)) as advance:
        for c in options.c:
            objective = Objective(subject, c)
            ours = objective.minimised(attack)
            theirs, nearby = [], []
            for row in range(options.n):
                theirs.append(objective.by_scipy(row))
                nearby.append(objective.by_scipy(row, away=0.01))
                advance(1, f"c = {c:g}")
            for who, reached in (("ours", ours), ("scipy nearby", nearby)):
                ratio = np.asarray(reached) / np.array(theirs)
                median, most = float(np.median(ratio)), float(np.quantile(ratio, 0.95))
                passed = verdict(median <= 1.02 and most <= 1.10) if who == "ours" else "-"
                rows.append([c, options.n, who, median, most, float(ratio.max()), passed])
            found.append({"c": c, "ours": ours, "scipy": theirs, "scipy_nearby": nearby})
    print(table(["c", "n", "over scipy", "median", "95 % quantile", "largest", "<= 1.02, 1.10"], rows))
    payload = {"subject": options.subject, "steps": attack.steps, "descents": attack.descents, "runs": found}
    write_json(options.out, f"blb-scipy-{subject_title(options.subject)}", payload)


class Objective:
    """BLB's objective at one c, for a batch and for one image."""

    def __init__(self, subject: Any, c: float):
        images, targets = jnp.asarray(subject.images), jnp.asarray(subject.targets)
        logits = subject.model(images)
        sharpness = SHARPNESS / jnp.maximum(jnp.max(logits, axis=-1) - jnp.min(logits, axis=-1), 1e-6)

        def values(point: jax.Array, x: jax.Array, target: jax.Array, sharp: jax.Array) -> jax.Array:
            lost = missing(subject.model(point), target, sharp, targeted=True)
            return jnp.sum((point - x) ** 2, axis=(1, 2, 3)) + c * lost

        def both(flat: jax.Array, x: jax.Array, target: jax.Array, sharp: jax.Array) -> Any:
            point = flat.reshape(x.shape)
            value, _, gradient = value_and_gradient(lambda p: (values(p, x, target, sharp), None), point)
            return value, gradient.reshape(flat.shape)

        self._both, self._parts = jax.jit(both), (images, targets, sharpness)

    def minimised(self, attack: attacks.BLB) -> np.ndarray:
        """Return what the attack's descents reach for every image, float64 [n]."""
        images, targets, sharpness = self._parts
        advance = jax.jit(lbfgs_step)
        lowest = np.full(len(images), np.inf)
        for descent in range(attack.descents):
            limit = longest_first_move(jnp.asarray(descent))
            state = lbfgs_start(images.reshape(len(images), -1), attack.memory, limit)
            for _ in range(attack.steps // attack.descents):
                value, gradient = self._both(trial_point(state), images, targets, sharpness)
                state, *_ = advance(state, value, gradient)
            lowest = np.minimum(lowest, np.asarray(state.value, np.float64))
        return lowest

    def by_scipy(self, row: int, *, away: float = 0.0) -> float:
        """Return what scipy's L-BFGS-B reaches for one image, from a start so far away at most."""
        parts = tuple(part[row : row + 1] for part in self._parts)

        def function(point: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self._both(jnp.asarray(point[None], jnp.float32), *parts)
            return float(value[0]), np.asarray(gradient[0], np.float64)

        start = np.asarray(parts[0], np.float64).ravel()
        start = np.clip(start + np.random.default_rng(row).uniform(-away, away, start.size), 0.0, 1.0)
        bounds = [(0, 1)] * start.size
        options = {"maxiter": 1000}
        found = optimize.minimize(
            function, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        return float(found.fun)


if __name__ == "__main__":
    main()
