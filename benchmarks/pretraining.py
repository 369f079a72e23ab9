"""What pretraining gives with 1 %, 10 % and 100 % of the labels: AUROC on patients held out.

    python -m benchmarks.pretraining --out runs/pretraining

Two fifths of the synthetic patients are held out. The others' inputs are all used, without labels, to prepare
the tables and to pretrain; a share of their labels fits the network. With and without pretraining everything
else is the same. Everything fitted is kept under ``--out``, so a run that was stopped goes on where it was. A
claim is not made here: the tables are the finding.

The synthetic cohort's images and tables know nothing of each other. So there is a second part, as Hager et
al. (2023) have it: among the records stands a diameter, measured with an error, of the finding that the CT
shows; what was pretrained with the tables then fits the CT alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmm.arrays import Float64, Ints
from medmm.cohort.access import open_cohort
from medmm.cohort.synthetic import synthesize
from medmm.evaluation.discrimination import auroc_measure
from medmm.evaluation.resampling import Measure, bootstrap
from medmm.fitting.assemble import assemble
from medmm.fitting.candidates import Problem, fit_split
from medmm.fitting.partition import deal
from medmm.fitting.pretraining.beginning import Pretrained, lesson_for
from medmm.fitting.pretraining.loop import pretrain
from medmm.recipe import Recipe
from medmm.sample import SeriesSource

NONE = "none"
OBJECTIVES = (NONE, "contrastive", "masked_columns", "simclr")
SHARES = (0.01, 0.1, 1.0)
LEAST = 2
"""Labelled patients of each class, however small the share."""

EPOCHS = 40
"""Of pretraining and of fitting."""

IMAGE = {
    "kind": "image",
    "shape": [32, 32, 16],
    "spacing_mm": "fit",
    "window": [-200, 400],
    "encoder": {"kind": "cnn", "channels": [12, 24, 48]},
    "augment": {"flip": ["x"], "shift_voxels": 2},
}

Key = tuple[str, float]


DESCRIBED = "described.yaml"
"""The cohort in which a field tells of the finding."""

ERROR_MM = 6.0
"""Standard deviation of the measured diameter."""


def recipe(objective: str, seed: int, *, alone: bool = False) -> Recipe:
    """Return the demo's recipe, one joint network, with this objective; or that of the CT alone."""
    values: dict[str, Any] = {
        "name": "pretraining",
        "question": "Will this patient deteriorate within 72 hours?",
        "intended_use": "A benchmark.",
        "cohort": "data",
        "outcome": "deterioration",
        "modalities": {"ct": IMAGE, "records": {"kind": "records"}, "biomarkers": {"kind": "biomarkers"}},
        "fitting": {"epochs": EPOCHS, "batch_size": 16},
        "seed": seed,
    }
    if alone:
        values["modalities"] = {"ct": IMAGE}
    elif objective != NONE:
        values["pretraining"] = {"objective": objective, "epochs": EPOCHS}
    return Recipe.model_validate(values)


def labelled(labels: Float64, rows: Ints, share: float, seed: int) -> Ints:
    """Return a share of the rows, as large a part of each class, and never fewer than two."""
    rng = np.random.default_rng(seed)
    classes = [rng.permutation(rows[labels[rows] == label]) for label in (0, 1)]
    return np.sort(np.concatenate([own[: max(LEAST, round(share * len(own)))] for own in classes]))


def begun(problem: Problem, train: Ints, objective: str, work: Path) -> Problem:
    """Return the problem with tables prepared, and encoders pretrained, on all training inputs."""
    modalities, inputs = problem.fitted(train)
    weights: Mapping[str, Any] = {}
    if objective != NONE:
        weights, _ = pretrain(lesson_for(problem, train, "pretraining", modalities, inputs), work)
    tables = {name: modalities[name] for name in problem.tables}
    return replace(problem, pretrained=Pretrained(objective, len(train), "", tables, weights))


def describe(data: Path) -> None:
    """Add the finding's measured diameter to the records: a cohort that uses it, beside one that may not."""
    truth = json.loads((data / "truth.json").read_text())["subjects"]
    rng = np.random.default_rng(0)
    with (data / "records.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        images = truth.get(row["patient_id"], {}).get("images", {})
        found = [one["radius_mm"] for one in images.get("ct", {}).get("findings", [])]
        row["diameter_mm"] = f"{max(0.0, 2 * max(found, default=0.0) + ERROR_MM * rng.normal()):.1f}"
    with (data / "records.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = (data / "cohort.yaml").read_text()
    before = "    diabetes: {"
    uses = "    diameter_mm: {role: input, kind: number, unit: mm, label: Diameter}\n"
    never = "    diameter_mm: {role: never, why: of the second part}\n"
    (data / DESCRIBED).write_text(text.replace(before, uses + before))
    (data / "cohort.yaml").write_text(text.replace(before, never + before))


def score_alone(data: Path, work: Path, seeds: int) -> tuple[dict[Key, list[Float64]], Float64]:
    """Return the held-out logits of the CT alone, pretrained beside tables that tell of it or not at all."""
    cohort = open_cohort(data / DESCRIBED, data)
    patients = [
        patient
        for patient in cohort.patients
        if "deterioration" in patient.targets and isinstance(patient.sources["ct"], SeriesSource)
    ]
    found: dict[Key, list[Float64]] = {}
    for seed in range(seeds):
        for objective in (NONE, "contrastive"):
            own, cache = work / f"alone-{objective}{seed}", work / "cache"
            problem = assemble(recipe(objective, seed, alone=True), cohort, patients, work=own, cache=cache)
            train, test = parts(problem)
            if objective != NONE:
                whole = assemble(recipe(objective, seed), cohort, patients, work=own, cache=cache)
                weights = begun(whole, train, objective, own).pretrained.weights
                told = Pretrained(objective, len(train), "", {}, {"ct": weights["ct"]})
                problem = replace(problem, pretrained=told)
            fit_shares(problem, (train, test), own, (objective, seed), found)
    return found, problem.labels[test]


def parts(problem: Problem) -> tuple[Ints, Ints]:
    """Return who is trained on and who is held out."""
    dealt = deal([f"{label}" for label in problem.labels], problem.keys, folds=5, seed=0)
    return np.flatnonzero(dealt >= 2), np.flatnonzero(dealt < 2)


def fit_shares(
    problem: Problem,
    rows: tuple[Ints, Ints],
    work: Path,
    named: tuple[str, int],
    found: dict[Key, list[Float64]],
) -> None:
    """Fit a share of the labels after the other, and add the held-out logits of those who can be scored."""
    (train, test), (objective, seed) = rows, named
    for share in SHARES:
        some = labelled(problem.labels, train, share, seed)
        split = fit_split(replace(problem, work=work / f"{share:g}"), some, test, "split", only=["fused"])
        found.setdefault((objective, share), []).append(split.logits["fused"])
        print(f"seed {seed} {objective} {share:.0%}: {len(some)} labels", file=sys.stderr, flush=True)


def score(data: Path, work: Path, seeds: int) -> tuple[dict[Key, list[Float64]], Float64]:
    """Return the held-out logits of each objective and share, per seed, and the truth."""
    cohort = open_cohort(data, data)
    patients = [patient for patient in cohort.patients if "deterioration" in patient.targets]
    found: dict[Key, list[Float64]] = {}
    for seed in range(seeds):
        for objective in OBJECTIVES:
            own = work / f"{objective}{seed}"
            problem = assemble(recipe(objective, seed), cohort, patients, work=own, cache=work / "cache")
            train, test = parts(problem)
            fit_shares(begun(problem, train, objective, own), (train, test), own, (objective, seed), found)
    return found, problem.labels[test]


def mean_of(measures: Sequence[Measure]) -> Measure:
    """Return the mean of the seeds' measures, on the same resampled patients."""
    return lambda weights: np.mean([one(weights) for one in measures], axis=0)


def less(one: Measure, other: Measure) -> Measure:
    """Return the difference of two measures on the same resampled patients."""
    return lambda weights: one(weights) - other(weights)


def table(found: Mapping[Key, Sequence[Float64]], labels: Float64) -> list[str]:
    """Return lines of Markdown: AUROC, and the paired difference from beginning at random."""
    truth, folds = labels == 1, np.zeros(len(labels), dtype=np.int64)
    own = {key: mean_of([auroc_measure(truth, run, folds) for run in runs]) for key, runs in found.items()}
    gains = {key: less(own[key], own[NONE, key[1]]) for key in own if key[0] != NONE}
    named = {("auroc", *key): measure for key, measure in own.items()}
    named |= {("gain", *key): measure for key, measure in gains.items()}
    drawn = bootstrap(named, truth, folds)
    head = " | ".join(f"{share:.0%} of the labels" for share in SHARES)
    lines = [f"| pretraining | {head} |", "|---" * (1 + len(SHARES)) + "|"]
    for objective in dict.fromkeys(objective for objective, _ in found):
        cells = []
        for share in SHARES:
            gain = drawn.get(("gain", objective, share))
            told = f"; {gain.value:+.2f} ({gain.lower:+.2f} to {gain.upper:+.2f})" if gain else ""
            cells.append(f"{drawn['auroc', objective, share]}{told}")
        lines.append(f"| {objective} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Fit what is not fitted yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    data = asked.out / "data"
    if not (data / "cohort.yaml").exists():
        synthesize(data, patients=asked.patients)
    if not (data / DESCRIBED).exists():
        describe(data)
    for what, scored in (("all inputs", score), ("the CT alone", score_alone)):
        found, labels = scored(data, asked.out, asked.seeds)
        print(
            f"{what}: {len(labels)} patients held out, {int(labels.sum())} events, {asked.seeds} seeds;"
            f" {time.process_time() - start:.0f} CPU-s in this process so far"
        )
        print("\n".join(table(found, labels)))


if __name__ == "__main__":
    main()
