"""A whole comparison, fusions over repeated cross-validations, against 90 minutes on two cores.

    python -m benchmarks.comparison pipelines/picai_cspca --root DATA/picai_psa --jobs 2

It is `medmm train` of the pipeline's recipe with ``comparison.fusions`` and ``folds.repeats`` as asked: all
images prepared, every model fitted on every fold, judged, sealed. ``--resume RUN`` takes a stopped run up
again, and its time is added to. Without a pipeline nothing is measured.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import yaml

from medmm import train as story

LIMIT_MINUTES = 90


def main() -> None:
    """Train, and print the minutes beside the limit; exit 1 above it."""
    asked = _asked()
    if asked.pipeline is None:
        print("name a pipeline with its data: it takes an hour")
        return
    pipeline = _pipeline(asked)
    planned = story.plan(pipeline, root=asked.root)
    for line in story.rehearse(planned, asked.runs) if asked.dry_run else ():
        print(line)
    if asked.dry_run:
        return
    run = story.open_run(planned, asked.runs, asked.resume)
    clock = run / "minutes.txt"
    earlier = float(clock.read_text()) if clock.exists() else 0.0
    started = time.monotonic()

    def spent(*_: object) -> None:
        clock.write_text(f"{earlier + (time.monotonic() - started) / 60:.3f}")

    trained = story.train(planned, run, register=False, jobs=asked.jobs, progress=spent)
    spent()
    minutes = float(clock.read_text())
    for line in story.summary(trained):
        print(line)
    fits = len(list((run / "fits").rglob("done.safetensors")))
    holds = minutes <= LIMIT_MINUTES
    cores = len(os.sched_getaffinity(0))
    print(f"{fits} networks in {minutes:.0f} minutes, {asked.jobs} jobs on {cores} cores")
    print(f"limit {LIMIT_MINUTES} minutes: {'holds' if holds else 'does not hold'}")
    raise SystemExit(0 if holds else 1)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", nargs="?", type=Path)
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--resume", type=Path, help="take up a run that was stopped")
    parser.add_argument("--fusions", nargs="*", default=["late_stack", "late_mean", "concat"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--routing", default="never_worse", choices=("none", "never_worse"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dry-run", action="store_true", help="what it would cost")
    return parser.parse_args()


def _pipeline(asked: argparse.Namespace) -> Path:
    """Write the recipe of the comparison and return its folder."""
    values = yaml.safe_load((asked.pipeline / "recipe.yaml").read_text())
    values["cohort"] = str((asked.pipeline / values["cohort"]).resolve())
    values["comparison"] = values.get("comparison", {}) | {"fusions": asked.fusions}
    values["folds"] = {"repeats": asked.repeats}
    values["routing"] = asked.routing
    asked.runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    (asked.runs / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return asked.runs


if __name__ == "__main__":
    main()
