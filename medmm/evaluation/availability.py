"""How good each model is on the patients who have exactly these modalities: the availability grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.evaluation.calibrate import Agreement, agreement
from medmm.evaluation.discrimination import has_pair
from medmm.evaluation.paired import auroc_of_repeats
from medmm.evaluation.resampling import RESAMPLES, Estimate, bootstrap
from medmm.evaluation.subgroups import SMALL_CELL


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on the patients of one availability pattern.

    Attributes:
        pattern: the modalities that these patients have ("zones + biomarkers").
        model: "fused", one modality alone, or a rival.
        patients: how many; None below 11, and then every figure is None.
        events: of them; None where these, or those without the outcome, are below 11, and then there is no
            calibration either, which would give the count away.
        auroc: within folds; None where no pair can be compared.
        calibration: of the cross-fitted risks; None where the pattern has one class.
    """

    pattern: str
    model: str
    patients: int | None
    events: int | None = None
    auroc: Estimate | None = None
    calibration: Agreement | None = None

    @property
    def expected_to_observed(self) -> float | None:
        """Expected share of events by the observed; 1 is ideal."""
        found = self.calibration
        return found.expected / found.observed if found else None


def grid(
    labels: Float64,
    folds: Ints,
    patterns: Sequence[str],
    models: Mapping[str, tuple[Float64, Float64]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Cell, ...]:
    """Return every model's figures on every pattern that it can score, the most frequent pattern first.

    Args:
        labels: ``[patient]``, 0 or 1.
        folds: ``[repeat, patient]``, the fold whose models scored the patient.
        patterns: of each patient.
        models: per model, logits ``[repeat, patient]`` and calibrated log-odds ``[patient]``; NaN where it
            cannot score the patient.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    truth = labels == 1
    names, which, sizes = np.unique(np.asarray(patterns, dtype=str), return_inverse=True, return_counts=True)
    cells: list[Cell] = []
    for index in sorted(range(len(names)), key=lambda i: (-sizes[i], names[i])):
        rows = which == index
        scored = {
            model: (logits[:, rows], calibrated[rows])
            for model, (logits, calibrated) in models.items()
            if np.isfinite(logits[:, rows]).all() and np.isfinite(calibrated[rows]).all()
        }
        aurocs = _aurocs(truth[rows], folds[:, rows], scored, resamples, seed)
        cells += [
            _cell(str(names[index]), model, truth[rows], calibrated, aurocs.get(model))
            for model, (_, calibrated) in scored.items()
        ]
    return tuple(cells)


def _aurocs(
    truth: Bools, folds: Ints, scored: Mapping[str, tuple[Float64, Float64]], resamples: int, seed: int
) -> dict[str, Estimate]:
    """Return every model's AUROC on the same resampled patients."""
    if len(truth) < SMALL_CELL or not all(has_pair(truth, of) for of in folds):
        return {}
    measures = {model: auroc_of_repeats(truth, logits, folds) for model, (logits, _) in scored.items()}
    return bootstrap(measures, truth, folds[0], resamples=resamples, seed=seed) if measures else {}


def _cell(pattern: str, model: str, truth: Bools, calibrated: Float64, auroc: Estimate | None) -> Cell:
    patients, events = len(truth), int(truth.sum())
    if patients < SMALL_CELL:
        return Cell(pattern, model, None)
    shown = min(events, patients - events) >= SMALL_CELL
    found = agreement(truth, calibrated) if shown else None
    return Cell(pattern, model, patients, events if shown else None, auroc, found)
