"""What does every attack compile to on a large network, ResNet-50 at 224 x 224 with 1000 classes?

For every attack: how often the model is traced, processor seconds to trace and lower and to compile, and the
memory of the program's temporaries over that of one gradient of the same batch.  Weights are random; nothing
is run.  An interrupted run resumes with the attacks that its JSON does not have.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from benchmarks.cost.programs import KINDS, bare_program, batch, program
from benchmarks.results import table, write_json
from deepsec_jax import attacks
from deepsec_jax.protocols import Images, Logits

STAGES = ((3, 1), (4, 2), (6, 2), (3, 2))
"""Blocks and stride of each stage."""

FITTED = ("uap",)
"""Attacks that are fitted to a set of images."""


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions, the last with four times the filters, and a shortcut."""

    def __init__(self, inputs: int, filters: int, stride: int, *, rngs: nnx.Rngs):
        sizes = ((inputs, filters, 1, 1), (filters, filters, 3, stride), (filters, 4 * filters, 1, 1))
        self.convolutions = nnx.List([_convolution(*size, rngs) for size in sizes])
        self.norms = nnx.List([nnx.BatchNorm(size[1], rngs=rngs) for size in sizes])
        changes = stride != 1 or inputs != 4 * filters
        self.shortcut = nnx.List(
            [_convolution(inputs, 4 * filters, 1, stride, rngs), nnx.BatchNorm(4 * filters, rngs=rngs)]
            if changes
            else []
        )

    def __call__(self, x: Images) -> Images:
        """Return the feature map after the block."""
        y = x
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(y))
            y = nnx.relu(y) if place < 2 else y
        for layer in self.shortcut:
            x = layer(x)
        return nnx.relu(x + y)


class ResNet50(nnx.Module):
    """ResNet-50 (He et al., CVPR 2016), with the stride in the 3x3 convolution; ``width`` is 64."""

    def __init__(self, classes: int, *, width: int = 64, rngs: nnx.Rngs):
        self.stem = _convolution(3, width, 7, 2, rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        blocks, inputs = [], width
        for stage, (count, stride) in enumerate(STAGES):
            for block in range(count):
                filters = width * 2**stage
                blocks.append(Bottleneck(inputs, filters, stride if block == 0 else 1, rngs=rngs))
                inputs = 4 * filters
        self.blocks = nnx.List(blocks)
        self.out = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: Images) -> Logits:
        """Return logits [B, classes]."""
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean(axis=(1, 2)))


def _convolution(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (size, size), strides=stride, use_bias=False, rngs=rngs)


def main() -> None:
    """Compile every attack; print the table, write the JSON after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [name for name in attacks.ATTACKS if name not in FITTED]
    parser.add_argument("--attacks", nargs="+", default=every)
    parser.add_argument("--programs", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64, help="filters of the first layer")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    model = ResNet50(options.classes, width=options.width, rngs=nnx.Rngs(0))
    model.eval()
    size = {name: getattr(options, name) for name in ("side", "classes", "width", "batch")}
    title = f"large-model-{options.side}-{options.classes}"
    found = _found_before(Path(options.out) / f"{title}.json", size)
    for kind in options.programs:
        of_kind = found.setdefault(kind, {})
        for name in ("gradient", *options.attacks):
            if name not in of_kind:
                print(f"{kind}: {name}", file=sys.stderr)
                of_kind[name] = _figures(name, model, options, kind)
                write_json(options.out, title, {**size, "programs": found})
    print(table(HEAD, [_row(kind, name, found) for kind in found for name in found[kind]]))


HEAD = ("program", "attack", "traces", "lower s", "compile s", "temporaries MB", "over gradient")


def _row(kind: str, name: str, found: dict[str, Any]) -> list[Any]:
    figures = found[kind][name]
    over = figures["temporary_mb"] / found[kind]["gradient"]["temporary_mb"]
    return [
        kind, name, *(figures[each] for each in ("traces", "lower_seconds", "compile_seconds")),
        figures["temporary_mb"], over,
    ]  # fmt: skip


def _figures(name: str, model: Any, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    x, labels, targets = batch(options.side, 3, options.classes, options.batch)
    if name == "gradient":
        return bare_program(model, x, labels, kind=kind)
    attack = attacks.preset(name, "cifar10")
    goal: jax.Array = targets if getattr(attack, "targeted", False) else labels
    return program(attack, model, x, goal, kind=kind)


def _found_before(path: Path, size: dict[str, int]) -> dict[str, Any]:
    """Return the programs in a file of the same size."""
    if not path.exists():
        return {}
    known = json.loads(path.read_text())
    found: dict[str, Any] = known["programs"]
    return found if all(known[name] == value for name, value in size.items()) else {}


if __name__ == "__main__":
    main()
