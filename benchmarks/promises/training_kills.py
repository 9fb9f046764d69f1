"""kill -9 on real trainings of defenses: each must end with the weights of one that was left alone.

Every defense is fitted once undisturbed, and then in processes that are killed at random moments, ``--kills``
in all, drawn evenly over the time of the undisturbed one, and started again by the same command.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.results import table, verdict, write_json
from deepsec_jax.defenses import DEFENSES, load_defended
from deepsec_jax.progress import progress


def main() -> None:
    """Train, kill, compare; print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of an undefended model; a digits one makes this minutes")
    parser.add_argument("--folder", required=True, help="new folder for the trainings")
    parser.add_argument("--defenses", nargs="+", default=[name for name in DEFENSES if name != "eat"])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    rng, rows = np.random.default_rng(options.seed), []
    with progress("kills", options.kills * len(options.defenses)) as advance:
        for name in options.defenses:
            alone = Path(options.folder) / f"{name}-alone"
            started = time.perf_counter()
            start(options, name, alone).wait()
            length, kills, runs = time.perf_counter() - started, 0, []
            while kills < options.kills:
                runs.append(Path(options.folder) / f"{name}-killed-{len(runs)}")
                while kills < options.kills and not runs[-1].exists():
                    process = start(options, name, runs[-1])
                    time.sleep(rng.uniform(0, length))
                    if process.poll() is None:
                        process.kill()
                        kills += 1
                        advance(1, name)
                    process.wait()
                start(options, name, runs[-1]).wait()
            same = all(all(map(np.array_equal, weights(alone), weights(run))) for run in runs)
            rows.append([name, length, len(runs), kills, verdict(same)])
    print(table(["defense", "seconds alone", "trainings", "kills", "same weights"], rows))
    write_json(options.out, "training-kills", {"preset": options.preset, "rows": rows})


def start(options: argparse.Namespace, name: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command on a folder."""
    command = [
        sys.executable, "-m", "deepsec_jax.cli", "defend", name, options.model,
        "--preset", options.preset, "--run-dir", str(folder),
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights(folder: Path) -> list[np.ndarray]:
    """Return the arrays of a defended model."""
    model: Any = load_defended(folder).classifier
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


if __name__ == "__main__":
    main()
