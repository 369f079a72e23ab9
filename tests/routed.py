"""A run in which submodels score some of the patients, whatever two epochs of sixty patients would choose."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from medmm import train as training
from medmm.arrays import Bools, Float64, Ints
from medmm.calibration import Platt
from medmm.fitting import choosing
from medmm.fitting.routing import Route, Routing, route
from medmm.recipe import Recipe

ALL, TABLES = ("ct", "records", "biomarkers"), ("records", "biomarkers")
FIRST, SECOND = Platt(1.0, 0.0), Platt(0.5, -1.0)
CHOSEN = ((ALL, "late_mean", FIRST), (TABLES, "records", SECOND), (("records",), "fused", None))
"""Whoever has everything is scored by `late_mean`, and whoever has no CT by `records`."""

MORE = """
final_model: fold_ensemble
comparison: {fusions: [late_mean]}
routing: never_worse
promotion: {not_worse_than_best_single: 0.4, calibration_slope: [0.8, 1.25]}
"""


def chosen(names: tuple[str, ...], model: str, calibration: Platt | None) -> Route:
    """Return a choice without the figures that it would rest on."""
    return Route(names, 40, 20, model, {}, {}, None, calibration)


def forced(
    recipe: Recipe,
    logits: Mapping[str, Float64],
    labels: Float64,
    folds: Ints,
    present: Bools,
    *,
    names: Sequence[str],
) -> Routing:
    """Return the choices above in place of those that the figures would give: the fused network for all."""
    honest = route(recipe, logits, labels, folds, present, names=names)
    assert not honest.submodels  # two epochs of sixty patients: nothing is surely better
    found = honest.logits.copy()
    for own, model, calibration in CHOSEN:
        rows = (present == np.array([name in own for name in names])).all(axis=1)
        if calibration is not None:
            found[:, rows] = calibration.apply(logits[model][:, rows])
    return Routing(tuple(chosen(*one) for one in CHOSEN), found, honest.comparisons)


def make(folder: Path, data: Path, recipe: str) -> None:
    """Train, as a smoke run, into ``folder``; what the terminal is told lies in told.txt."""
    shutil.copytree(data, folder / "data")
    (folder / "recipe.yaml").write_text(recipe + MORE)
    planned = training.plan(folder, root=folder / "data", smoke=True)
    run = training.open_run(planned, folder / "runs")
    with pytest.MonkeyPatch.context() as during:
        during.setattr(choosing, "route", forced)
        trained = training.train(planned, run, register=False)
    (folder / "told.txt").write_text("\n".join(training.summary(trained)))
