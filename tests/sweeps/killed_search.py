"""A search with images, two trials at a time, killed with SIGKILL: ``python -m tests.sweeps.killed_search``.

The search of a made recipe runs once undisturbed, and again killed in the middle of a trial as often as
asked for, then resumed. Both must end with the same trials, and MLflow must have one child run for each, none
of them half recorded. Some minutes; needs the extras ``search`` and ``cluster``. The suite kills a search of
tables in one process (tests/fitting/test_search.py).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mlflow.tracking import MlflowClient

from medmm.cohort.synthetic import synthesize
from tests.conftest import RECIPE

SEARCHED = (
    RECIPE.replace("name: small", "name: searched").replace("epochs: 2", "epochs: 3")
    + """
folds: {repeats: 1}
search:
  trials: 6
  folds: 2
  together: 2
  space:
    fitting.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}
    modalities.ct.encoder.channels: [[4, 8], [8, 16]]
"""
)

TOLD, BEGUN = '"op_code":6', '"op_code":4'
"""What a journal holds of a trial that ended, and of one that was begun."""


def main() -> None:
    """Search, kill and compare; exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["XDG_DATA_HOME"] = str(place / "site")
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        synthesize(place / "data", patients=60, seed=1)
        (place / "recipe.yaml").write_text(SEARCHED)
        assert started(place, "whole").wait() == 0
        rng = random.Random(asked.seed)
        resumed: list[str] = []
        for _ in range(asked.kills):
            kill(place, started(place, "killed", *resumed), rng.random())
            resumed = ["--resume", str(run_of(place, "killed"))]
        assert started(place, "killed", *resumed).wait() == 0
        found = {name: trials(place, name) for name in ("whole", "killed")}
        for name, rows in found.items():
            print(f"{name}: {len(rows)} child runs, {dict(Counter(row[-1] for row in rows))}")
        sys.exit(0 if found["whole"] == found["killed"] and len(found["whole"]) == 6 else 1)


def run_of(place: Path, runs: str) -> Path:
    """Return the one run in a folder of runs."""
    return next((place / runs).glob("searched-*"))


def started(place: Path, runs: str, *more: str) -> subprocess.Popen[bytes]:
    """Start the search as a user would."""
    command = [sys.executable, "-m", "medmm", "search", ".", "--root", "data", "--runs", runs]
    return subprocess.Popen([*command, "--cluster", "local", *more], cwd=place)


def kill(place: Path, process: subprocess.Popen[bytes], share: float) -> None:
    """Kill a search in the middle of a trial, the later the larger ``share``."""
    before = ended(place)
    while process.poll() is None and not (ended(place) > before and begun(place) > ended(place)):
        time.sleep(0.01)
    time.sleep(share)
    assert process.poll() is None, "the search ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed with {ended(place)} trials ended and {begun(place) - ended(place)} under way")


def journal(place: Path) -> str:
    """Return what the killed search has written of its study."""
    return "".join(file.read_text() for file in place.glob("killed/*/search/*.jsonl"))


def ended(place: Path) -> int:
    """Return how many trials have ended."""
    return journal(place).count(TOLD)


def begun(place: Path) -> int:
    """Return how many trials were begun."""
    return journal(place).count(BEGUN)


def trials(place: Path, runs: str) -> list[tuple[object, ...]]:
    """Return every child run: name, settings, values step by step, state."""
    client = MlflowClient(f"sqlite:///{place}/{runs}/mlflow.db")
    run = run_of(place, runs)
    parent = client.get_run((run / "tracking.txt").read_text())
    assert parent.info.status == "FINISHED"
    asked = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    found = client.search_runs([parent.info.experiment_id], asked)
    return sorted(
        (
            child.info.run_name,
            str(sorted(child.data.params.items())),
            str([(m.step, m.value) for m in client.get_metric_history(child.info.run_id, "value")]),
            child.data.tags["state"],
            child.info.status,
        )
        for child in found
    )


if __name__ == "__main__":
    main()
