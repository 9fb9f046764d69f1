"""Are the reports of this tree those of another one, byte by byte?

    python -m benchmarks.promises.same_reports OTHER RUN...

OTHER is the root of another checkout, e.g. one made by ``git worktree add ../base main``.  Both report every
run directory with ``deepsec report RUN --no-times``: csv, json, tex, html and what the terminal shows.
"""

import difflib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SHOWN = 12
"""Lines of a difference that are printed."""


def report(tree: Path, run: Path, out: Path) -> dict[str, str]:
    """Return file name -> text of a run's report by one tree; ``terminal`` is what it prints."""
    command = [sys.executable, "-m", "deepsec_jax.cli", "report", str(run), "--out", str(out), "--no-times"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "100"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    texts = {path.name: path.read_text() for path in sorted(out.iterdir())}
    return texts | {"terminal": done.stdout.replace(str(out), "OUT")}


def main(other: str, *runs: str) -> int:
    """Print which files are equal, and the first differing lines of those that are not."""
    here, unequal = Path(__file__).resolve().parents[2], 0
    for run in map(Path, runs):
        with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
            before = report(Path(other).resolve(), run.resolve(), Path(old))
            after = report(here, run.resolve(), Path(new))
        for name in sorted({*before, *after}):
            one, two = before.get(name, ""), after.get(name, "")
            unequal += one != two
            print(f"{'equal' if one == two else 'UNEQUAL':8} {run.name}/{name} ({len(two)} characters)")
            changes = difflib.unified_diff(one.splitlines(), two.splitlines(), lineterm="", n=0)
            for line in [text for text in changes if one != two][:SHOWN]:
                print(f"    {line[:200]}")
    return 1 if unequal else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
