"""A cohort of tables alone, with an outcome of every kind; small enough to be trained on in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PATIENTS = 120

COHORT = """
name: kinds
schema_version: 1
deidentification: invented
subjects: {table: records.csv, id: id}
prediction_time: {day: 0}
outcomes:
  ill: {table: labels.csv, kind: binary, positive: 1, label: illness}
  ward: {table: labels.csv, kind: multiclass, classes: [home, ward, intensive care], label: where to}
  grade: {table: labels.csv, kind: ordinal, classes: [low, middle, high]}
  stay: {table: labels.csv, kind: regression, unit: d, plausible: [0, 400], label: length of stay}
  death: {table: labels.csv, kind: survival, column: days, event: died, positive: 1, negative: 0}
  rare: {table: labels.csv, kind: binary, positive: 1}
records:
  table: records.csv
  fields:
    id: {role: key}
    age: {role: input, kind: number}
    sex: {role: input, kind: category}
biomarkers:
  table: results.csv
  columns: {id: id, code: code, value: value, unit: unit, day: day}
  results:
    crp: {role: input, code: crp, unit: mg/L}
splits: {held_out: 0.25, folds: 2, seed: 0}
"""

RECIPE = """
name: kinds
question: What becomes of this patient?
intended_use: A test.
cohort: .
{asked}
modalities:
  records: {{kind: records}}
  biomarkers: {{kind: biomarkers}}
fusion: {{kind: {fusion}}}
fitting: {{epochs: {epochs}, learning_rate: 0.01, batch_size: 16{fitting}}}
comparison: {{resamples: 200}}
"""


def write(folder: Path, *, days: str = "", patients: int = PATIENTS) -> Path:
    """Write the tables and cohort.yaml; ``days`` stands in place of the first patient's time."""
    rng = np.random.default_rng(5)
    records, results, labels = ["id,age,sex"], ["id,code,value,unit,day"], []
    labels.append("id,ill,ward,grade,stay,days,died,rare")
    for place in range(patients):
        age, crp, sex = rng.normal(60, 10), rng.normal(50, 15), rng.integers(2)
        risk = (age - 60) / 10 + (crp - 50) / 15
        ill = int(rng.random() < 1 / (1 + np.exp(-2 * risk)))
        noisy = risk + rng.normal(0, 0.5)
        ward = ("home", "ward", "intensive care")[int(np.digitize(noisy, [-0.5, 0.8]))]
        grade = ("low", "middle", "high")[int(np.digitize(risk + rng.normal(0, 0.5), [-0.5, 0.8]))]
        stay = max(1.0, 20 + 8 * risk + rng.normal(0, 3))
        time, watched = rng.exponential(100 * np.exp(-risk)) + 0.1, rng.uniform(30, 300)
        told = days if days and not place else f"{min(time, watched):.2f}"
        rare = ill if place % 3 else ""
        records.append(f"p{place:03},{age:.1f},{'fm'[sex]}")
        results.append(f"p{place:03},crp,{crp:.1f},mg/L,-1")
        labels.append(f"p{place:03},{ill},{ward},{grade},{stay:.1f},{told},{int(time <= watched)},{rare}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("records", records), ("results", results), ("labels", labels)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "cohort.yaml").write_text(COHORT)
    return folder


def recipe(folder: Path, asked: str, *, fusion: str = "concat", fitting: str = "", epochs: int = 20) -> Path:
    """Write recipe.yaml beside the cohort; ``asked`` is its line of outcomes."""
    (folder / "recipe.yaml").write_text(
        RECIPE.format(asked=asked, fusion=fusion, fitting=fitting, epochs=epochs)
    )
    return folder
