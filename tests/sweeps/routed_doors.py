"""Routing through the doors, by its own rule: ``python -m tests.sweeps.routed_doors``, a minute or two.

A cohort whose age tells and whose twenty results are noise, and a fused network that falls for the noise: it
is trained, replaced by the history alone where there are results, and what ships becomes champion, which the
fused network alone would not. The suite forces such a choice (tests/routed.py).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

PATIENTS, CODES = 640, 20

COHORT = """
name: made
title: A history that tells and results that do not
schema_version: 1
deidentification: not needed; every person is invented
subjects: {table: records.csv, id: patient_id}
prediction_time: {table: records.csv, column: assessed_at, resolution: second}
outcomes:
  ill: {table: labels.csv, kind: binary, positive: 1, label: Ill}
records:
  table: records.csv
  fields:
    patient_id: {role: key}
    assessed_at: {role: time, kind: date}
    age: {role: input, kind: number, unit: a, plausible: [0, 150], label: Age}
biomarkers:
  table: biomarkers.csv
  columns: {id: patient_id, code: code, value: value, unit: unit, time: collected_at}
  results:
"""
RESULT = (
    "    c{n}: {{role: input, code: c{n}, unit: mg/L, plausible: [-9, 9], summary: last, window_days: 7}}\n"
)
SPLITS = "splits: {by: patient, stratify: [ill], held_out: 0.2, folds: 3, seed: 0}\n"

RECIPE = """
name: noisy
question: Will this patient fall ill?
intended_use: A test.
cohort: data
outcome: ill
modalities:
  records: {kind: records}
  biomarkers: {kind: biomarkers}
fitting: {epochs: 30, weight_decay: 0, learning_rate: 0.03, patience: 30}
folds: {repeats: 1}
routing: never_worse
promotion: {not_worse_than_best_single: 0.05, calibration_slope: [0.5, 2]}
threshold: {sensitivity: 0.8}
"""


def table(file: Path, rows: list[dict[str, object]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write(folder: Path) -> None:
    """Write a cohort whose age tells and whose twenty results are noise; one in four has none."""
    rng = np.random.default_rng(0)
    data = folder / "data"
    data.mkdir()
    ids = [f"{n:06d}" for n in rng.permutation(900_000)[:PATIENTS] + 100_000]
    ill = rng.random(PATIENTS) < 0.35
    age = 60 + 12 * ill + 10 * rng.normal(size=PATIENTS)
    at = "2001-06-13 01:21:00"
    table(
        data / "records.csv",
        [{"patient_id": i, "assessed_at": at, "age": f"{a:.1f}"} for i, a in zip(ids, age, strict=True)],
    )
    table(data / "labels.csv", [{"patient_id": i, "ill": int(one)} for i, one in zip(ids, ill, strict=True)])
    drawn = {"unit": "mg/L", "collected_at": "2001-06-12 01:21:00"}
    table(
        data / "biomarkers.csv",
        [
            {"patient_id": i, "code": f"c{n}", "value": f"{rng.normal():.3f}"} | drawn
            for i in (one for place, one in enumerate(ids) if place % 4)
            for n in range(CODES)
        ],
    )
    results = "".join(RESULT.format(n=n) for n in range(CODES))
    (data / "cohort.yaml").write_text(COHORT + results + SPLITS)
    (folder / "recipe.yaml").write_text(RECIPE)


def main() -> None:
    """Train, look at what was chosen and promoted, and score somebody; assert what was planted."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["XDG_DATA_HOME"] = str(place / "site")
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        write(place)
        printed = medmm(place, "train", ".", "--root", "data", "--jobs", "1")
        print(printed)
        assert "with records + biomarkers: records: surely better than fused" in printed
        assert "alias    champion: every rule of `promotion` is met by routed" in printed
        run = next(place.glob("runs/noisy-*"))
        judged(json.loads((run / "bundle" / "metrics.json").read_text()))
        client = MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
        assert client.get_model_version_by_alias("noisy", "champion").aliases == ["candidate", "champion"]
        assert "routed.auroc" in client.get_run((run / "tracking.txt").read_text()).data.metrics
        somebody = (place / "data" / "biomarkers.csv").read_text().splitlines()[1].split(",")[0]
        asked = ("score", f"{run / 'bundle'}", "--cohort", "data", "--root", "data", "--patient", somebody)
        assert json.loads(medmm(place, *asked))["submodel"] == "records+biomarkers"


def medmm(place: Path, *arguments: str) -> str:
    """Run a command as a user would; return what it printed."""
    command = [sys.executable, "-m", "medmm", *arguments]
    return subprocess.run(command, cwd=place, stdout=subprocess.PIPE, text=True, check=True).stdout


def judged(metrics: dict[str, Any]) -> None:
    """Hold the figures of a bundle against what was planted."""
    figures = metrics["out_of_fold"]
    assert figures["routed"]["auroc"][0] > figures["fused"]["auroc"][0] + 0.03
    fused = next(
        one for one in metrics["comparisons"] if (one["model"], one["rival"]) == ("fused", "records")
    )
    assert fused["bootstrap"][1] < -0.05  # alone it would have failed the rule
    chosen = {one["pattern"]: one["model"] for one in metrics["routing"]["patterns"]}
    assert chosen == {"records + biomarkers": "records", "records": "fused"}
    assert abs(figures["routed"]["recall"][0] - 0.8) < 0.05  # as `threshold` asks


if __name__ == "__main__":
    main()
