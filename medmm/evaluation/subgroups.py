"""The model's figures by subgroup and by availability pattern, with small cells kept back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medmm.arrays import Bools, Float64, Ints
from medmm.errors import DataError
from medmm.evaluation.calibrate import Agreement, agreement
from medmm.evaluation.discrimination import auroc_measure, has_pair
from medmm.evaluation.resampling import (
    RESAMPLES,
    Estimate,
    bootstrap,
    checked_folds,
    checked_labels,
    checked_scores,
)

SMALL_CELL = 11
"""Counts below this are not shown, for they could point at a person (CMS cell size policy)."""


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The figures of one group.

    Attributes:
        category: the group.
        patients: how many; None below 11, and then every figure is None.
        events: how many of them had the outcome; None where these, or those without it, are below 11.
        auroc: None where no pair of patients can be compared.
        agreement: calibration figures; None where the group has one class.
    """

    category: str
    patients: int | None
    events: int | None = None
    auroc: Estimate | None = None
    agreement: Agreement | None = None


def by_group(
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    groups: Sequence[str],
    folds: npt.ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Subgroup, ...]:
    """Return the figures of each group, the largest first.

    Args:
        labels: ``[patient]``, 0 or 1; groups may be of one class, the whole may not.
        logits: ``[patient]``, calibrated log-odds.
        groups: the category of each patient.
        folds: ``[patient]``, the fold whose model gave the logit, or None for one model.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: if an array is malformed or of one class.
    """
    truth = checked_labels(labels)
    values, parts = checked_scores(logits, len(truth)), checked_folds(folds, len(truth))
    if len(groups) != len(truth):
        raise DataError(f"expected {len(truth)} group names, one per label, found {len(groups)}")
    categories, which = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    members = [np.flatnonzero(which == i) for i in range(len(categories))]
    largest_first = sorted(range(len(categories)), key=lambda i: (-len(members[i]), categories[i]))
    return tuple(
        _figures(
            str(categories[i]), truth[members[i]], values[members[i]], parts[members[i]], resamples, seed
        )
        for i in largest_first
    )


def availability(present: Bools, labels: Sequence[str]) -> list[str]:
    """Return each patient's availability pattern in words ("zones + biomarkers").

    Args:
        present: ``[patient, modality]``.
        labels: of the modalities.
    """
    return [
        " + ".join(label for label, there in zip(labels, row, strict=True) if there) or "nothing"
        for row in present
    ]


def _figures(
    category: str, truth: Bools, logits: Float64, folds: Ints, resamples: int, seed: int
) -> Subgroup:
    patients, events = len(truth), int(truth.sum())
    if patients < SMALL_CELL:
        return Subgroup(category, None)
    shown = events if min(events, patients - events) >= SMALL_CELL else None
    if events in (0, patients):
        return Subgroup(category, patients, shown)
    measured = agreement(truth, logits)
    if not has_pair(truth, folds):
        return Subgroup(category, patients, shown, agreement=_without_counts(measured, shown))
    measure = {"auroc": auroc_measure(truth, logits, folds)}
    found = bootstrap(measure, truth, folds, resamples=resamples, seed=seed)["auroc"]
    return Subgroup(category, patients, shown, found, _without_counts(measured, shown))


def _without_counts(measured: Agreement, events: int | None) -> Agreement | None:
    # The observed share times the patients would give the count that is kept back.
    return measured if events is not None else None
