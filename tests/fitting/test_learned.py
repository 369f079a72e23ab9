"""A modality whose own network tells everybody the same is named; one that tells patients apart is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmm.fitting.crossval import OutOfFold
from medmm.fitting.learned import unlearned
from medmm.outcome import Task
from medmm.recipe import LateMean
from tests.fitting.test_candidates import PATIENTS, problem

FOLDS = np.arange(PATIENTS) % 4
RNG = np.random.default_rng(0)


def _told(tmp_path: Path, spread: float, *, flat: int, task: Task | None = None) -> tuple[str, ...]:
    """Return what is said of a biomarkers' network that is flat in some folds, and as wide elsewhere."""
    given = problem(tmp_path, LateMean())
    given = replace(given, tasks=(task,)) if task else given
    width = np.where(flat > FOLDS, spread / 1000, spread)
    # the folds differ in their mean, which tells no patient of a fold from another
    logits = FOLDS + width * RNG.normal(0, 1, PATIENTS)
    logits[::5] = np.nan
    records = RNG.normal(0, 100, PATIENTS)
    return unlearned(given, OutOfFold({"records": records, "biomarkers": logits, "fused": logits}, FOLDS, ()))


@pytest.mark.parametrize(("flat", "named"), [(0, False), (2, False), (3, True), (4, True)])
def test_what_is_flat_in_most_folds_is_named(tmp_path: Path, flat: int, named: bool) -> None:
    told = _told(tmp_path, 0.5, flat=flat)
    assert bool(told) == named
    if named:
        assert told[0].startswith(f"biomarkers: its own network hardly tells patients apart in {flat} of 4")
        assert "`fitting.epochs`" in told[0]


def test_a_quantity_is_measured_by_its_own_spread(tmp_path: Path) -> None:
    litres = Task("stay", "regression", spread=1000.0)
    assert _told(tmp_path, 1.0, flat=0, task=litres)
    assert not _told(tmp_path, 100.0, flat=0, task=litres)
