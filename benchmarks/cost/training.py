"""What a defense's training step costs beyond its gradients, and how many images a second it takes in.

Bare cost of a step is what its parts cost when each is compiled alone, on the same batch, in the same run:
for PAT, ``steps`` input gradients of the network in evaluation mode, one parameter gradient with the
optimiser's update (the plain training step).  Parts and whole are timed in turn, ``--pairs`` times; ratios
are taken within a pair.
"""

import argparse
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.cost.attacks import bare_gradient, seconds
from benchmarks.results import table, verdict, write_json
from deepsec_jax import defenses, models, training
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.memory import keep_freed_memory
from deepsec_jax.training import loop

BAR = 1.10
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def main() -> None:
    """Measure every defense; print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=sorted(SHAPES), default="mnist")
    parser.add_argument("--preset", choices=("paper", "strong", "small"), default="small")
    parser.add_argument("--defenses", nargs="+", default=["pat", "pat@fast", "pat@pgd7"])
    parser.add_argument("--batch", type=int, default=0, help="images a step; 0: the preset's")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    keep_freed_memory()
    found, rows = {}, []
    for name in options.defenses:
        found[name] = measure(name, options)
        f = found[name]
        rows.append([name, f["batch"], f["step_ms"], f["bare_ms"], f["plain_step_ms"], f["ratio"],
                     f["images_per_second"], verdict(f["ratio"] <= BAR)])  # fmt: skip
    head = [
        "defense",
        "batch",
        "step ms",
        "sum of parts ms",
        "plain step ms",
        "ratio",
        "images/s",
        f"<= {BAR}",
    ]
    print(table(head, rows))
    write_json(
        options.out, f"training-cost-{options.dataset}-{options.preset}", {"bar": BAR, "defenses": found}
    )


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time one PAT's step against its parts."""
    defense: Any = defenses.preset(name, options.dataset, options.preset)
    recipe = replace(training.recipe(f"{options.dataset}-paper"), **dict(defense.changes))
    recipe = replace(recipe, batch_size=options.batch or recipe.batch_size)
    shape, key = SHAPES[options.dataset], jax.random.key(0)
    network = models.build(recipe.model, shape, 10, seed=0)
    x = jax.random.uniform(key, (recipe.batch_size, *shape))
    labels = jnp.arange(recipe.batch_size) % 10
    whole = stepper(network, recipe, defense.objective(), x, labels, key)
    plain = stepper(network, recipe, jax.tree_util.Partial(training.cross_entropy), x, labels, key)
    network.eval()
    gradient = bare_gradient(network, logit_gap)
    sides = {"step": whole, "plain": plain, "gradient": lambda: gradient(x, labels)}
    for side in sides.values():
        seconds(side, 2)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.pairs):
        for side, call in sides.items():
            times[side].append(seconds(call, 2))
    bare = [defense.steps * g + p for g, p in zip(times["gradient"], times["plain"], strict=True)]
    step = float(np.median(times["step"]))
    return {
        "batch": recipe.batch_size, "steps": defense.steps, "pairs": options.pairs,
        "step_ms": 1e3 * step, "bare_ms": 1e3 * float(np.median(bare)),
        "plain_step_ms": 1e3 * float(np.median(times["plain"])),
        "gradient_ms": 1e3 * float(np.median(times["gradient"])),
        "ratio": float(np.median(np.array(times["step"]) / np.array(bare))),
        "images_per_second": recipe.batch_size / step,
    }  # fmt: skip


def stepper(network: Any, recipe: Any, objective: Any, x: Any, labels: Any, key: Any) -> Any:
    """Return a call of the loop's compiled step; the same state every time."""
    network.train()
    graph, state = nnx.split(network)
    optimizer = recipe.transformation(100).init(nnx.filter_state(state, nnx.Param))
    done = np.float32(0.9)

    def call() -> Any:
        return loop._step(
            graph, state, optimizer, x, labels, key, None, done, objective, recipe=recipe, steps_per_epoch=100
        )

    return call


if __name__ == "__main__":
    main()
