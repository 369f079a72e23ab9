"""Routing through the doors, chosen by its own rule: a network that falls for noise beside what tells."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from medmm.outputs.table import read_scores

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


def test_a_network_that_falls_for_noise_is_replaced_and_what_ships_is_champion(door, tmp_path):
    write(tmp_path)
    data = ("--root", tmp_path / "data")
    done = door("train", tmp_path, *data, "--runs", tmp_path / "runs", "--jobs", 1)
    assert done.code == 0, done.err
    assert "with records + biomarkers: records: surely better than fused" in done.out
    assert "alias    champion: every rule of `promotion` is met by routed" in done.out
    run = next(tmp_path.glob("runs/noisy-*"))
    metrics = json.loads((run / "bundle" / "metrics.json").read_text())
    figures, by = metrics["out_of_fold"], metrics["comparisons"]
    assert figures["routed"]["auroc"][0] > figures["fused"]["auroc"][0] + 0.03
    fused = next(one for one in by if (one["model"], one["rival"]) == ("fused", "records"))
    assert fused["bootstrap"][1] < -0.05  # alone it would have failed the rule
    alone = {one["pattern"]: one["model"] for one in metrics["routing"]["patterns"]}
    assert alone == {"records + biomarkers": "records", "records": "fused"}
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert client.get_model_version_by_alias("noisy", "champion").aliases == ["candidate", "champion"]
    assert "routed.auroc" in client.get_run((run / "tracking.txt").read_text()).data.metrics
    asked = (run / "bundle", "--cohort", tmp_path / "data", *data)
    assert door("score", *asked, "--out", tmp_path / "scores.parquet").code == 0
    rows = read_scores(tmp_path / "scores.parquet")
    assert {row.submodel for row in rows} == {"", "records+biomarkers"}
    assert sum(row.submodel != "" for row in rows) == PATIENTS * 3 // 4
    done = door("evaluate", *asked)
    assert done.code == 0, done.err
    assert figures["routed"]["recall"][0] == pytest.approx(0.8, abs=0.05)  # as `threshold` asks
