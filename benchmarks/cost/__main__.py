"""What the package costs.

python -m benchmarks.cost attacks          an attack beyond its gradients
python -m benchmarks.cost searches         a search for the smallest change: calls, time, memory
python -m benchmarks.cost defended_models  a defended model beside the undefended one, and its transforms
python -m benchmarks.cost metrics          all device metrics, images a second
python -m benchmarks.cost training         a training step beside its gradients
python -m benchmarks.cost gpu_plan         images a second of every attack, by batch size
python -m benchmarks.cost large_model      traces, compile time and memory of every attack on ResNet-50
python -m benchmarks.cost growth           exponents over batch, steps, classes and side of the image

Each has its own ``--help``.
"""

import sys
from importlib import import_module

PROGRAMS = (
    "attacks",
    "searches",
    "defended_models",
    "metrics",
    "training",
    "gpu_plan",
    "large_model",
    "growth",
)


def main() -> int:
    """Run the named program with the arguments after its name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in PROGRAMS:
        print(__doc__)
        return 0 if name in ("-h", "--help") else 2
    sys.argv = [f"benchmarks.cost {name}", *sys.argv[2:]]
    import_module(f"benchmarks.cost.{name}").main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
