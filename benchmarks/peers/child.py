"""Our end of the comparisons with PyTorch libraries: the child process, and what must agree before timing."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.subjects import Subject


class ChildDied(RuntimeError):
    """The child process has ended in the middle of a command."""


class Child:
    """The PyTorch process: ``ask`` sends one command and returns its answer.

    Args:
        subject: network, images, labels, targets; all of them go to the child in one archive.
        folder: for the archive.
        python: that has torch and the libraries.
        threads: of torch.
        script: that serves, beside this file.
        arrays: further arrays for the archive.
    """

    def __init__(
        self, subject: Subject, folder: Path, *, python: str, threads: int,
        script: str = "torch_eps_attacks.py", **arrays: np.ndarray,
    ):  # fmt: skip
        archive = folder / "subject.npz"
        weights: dict[str, Any] = {f"w:{name}": value for name, value in flat_weights(subject.model).items()}
        np.savez(archive, network=subject.network, images=subject.images, labels=subject.labels,
                 targets=subject.targets, **weights, **arrays)  # fmt: skip
        server = Path(__file__).with_name(script)
        self._command = [python, str(server), str(archive), "--threads", str(threads)]
        self.start()
        self.hello = self.ask(do="hello")

    def start(self) -> None:
        """Start the process; again, where it has died."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, wait for the answer; a child that died is an error."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ChildDied(f"the PyTorch process ended while doing {command}; see its messages above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # interrupted in the middle of an attack
            self._process.kill()


def flat_weights(model: Any) -> dict[str, np.ndarray]:
    """Return parameters and batch statistics by path, such as ``blocks/0/conv1/kernel``."""
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in state}


def check_logits(subject: Subject, child: Child, folder: Path) -> float:
    """Return the largest difference of logits, relative to 1 or the largest logit; stop above 1e-4."""
    path = str(folder / "logits.npy")
    answer = child.ask(do="logits", out=path)
    if "error" in answer:
        raise RuntimeError(f"the PyTorch network does not run: {answer['error']}")
    theirs = np.load(path)
    forward = jax.jit(lambda model, x: model(x))
    parts = [forward(subject.model, subject.images[i : i + 100]) for i in range(0, len(theirs), 100)]
    ours = np.concatenate([np.asarray(part) for part in parts])
    difference = float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))
    if not difference <= 1e-4:
        raise RuntimeError(f"the PyTorch network differs from ours by {difference:.2g}: nothing to compare")
    return difference


def choose_format(child: Child, batches: Sequence[int]) -> tuple[str, dict[str, dict[int, float]]]:
    """Set torch's memory format to the one of the faster bare gradient.

    Returns:
        The format, and the seconds per image of a bare gradient by format and batch size.
    """
    found: dict[str, dict[int, float]] = {}
    for memory in ("contiguous", "channels_last") * 2:
        child.ask(do="format", name=memory)
        times = found.setdefault(memory, dict.fromkeys(batches, np.inf))
        for batch in batches:
            spent = child.ask(do="bare", batch=batch, calls=4)["seconds_per_image"]
            times[batch] = min(times[batch], spent)
    best = min(found, key=lambda memory: min(found[memory].values()))
    child.ask(do="format", name=best)
    return best, found
