"""What every measure starts from: checked labels and scores, and the stratified bootstrap.

A resample is a row of patient weights (how much each patient counts; no whole numbers), so that every
measure is written once, as a function of weights, and all resamples of a measure are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from medmm.arrays import Bools, Float64, Ints
from medmm.errors import DataError

RESAMPLES = 2000
"""Bootstrap resamples behind a 95 % interval unless a caller asks for another number."""

CHUNK = 2_000_000
"""Weights held in memory at once while resampling (16 MB)."""

DECIMALS = 12
"""Figures are rounded here, for the sums of weights that are no whole numbers differ in their last bits."""

Measure: TypeAlias = Callable[[Float64], Float64]
"""Weights ``[resample, patient]`` → the measure, ``[resample]``."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "not defined"
        return f"{self.value:.2f} ({self.lower:.2f} to {self.upper:.2f})"


def binary_labels(labels: npt.ArrayLike) -> Bools:
    """Return binary labels ``[patient]`` as booleans; they may be of one class, or none.

    Raises:
        DataError: if they are not one row of 0 and 1.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise DataError("labels must be one value per patient, each 0 or 1")
    return values.astype(np.bool_)


def checked_labels(labels: npt.ArrayLike) -> Bools:
    """Return binary labels ``[patient]`` of two classes, as booleans.

    Raises:
        DataError: if they are not one row of 0 and 1, or are of one class only.
    """
    truth = binary_labels(labels)
    if truth.all() or not truth.any():
        raise DataError(
            f"all {len(truth)} labels are of one class; evaluation needs both events and non-events"
        )
    return truth


def checked_scores(scores: npt.ArrayLike, patients: int) -> Float64:
    """Return finite scores ``[patient]``.

    Raises:
        DataError: if there is not one finite score per label.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (patients,) or not np.isfinite(values).all():
        raise DataError(f"expected {patients} finite scores, one per label, found shape {values.shape}")
    return values


def checked_folds(folds: npt.ArrayLike | None, patients: int) -> Ints:
    """Return the fold of each patient; without folds, every patient is in fold 0.

    Raises:
        DataError: if there is not one whole number per patient.
    """
    if folds is None:
        return np.zeros(patients, dtype=np.int64)
    values = np.asarray(folds)
    if values.shape != (patients,) or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"expected {patients} fold numbers, one per label, found shape {values.shape}")
    return values.astype(np.int64)


def resampled_weights(labels: Bools | Ints, folds: Ints, resamples: int, seed: int) -> Iterator[Float64]:
    """Yield chunks of weights ``[resample, patient]``: patients redrawn within fold × class, rescaled.

    Of a stratum of n patients, n - 1 are drawn and count n / (n - 1) each: drawing n of them has only
    (n - 1) / n of the variance, which with a handful of patients per stratum makes intervals too narrow.
    A stratum of one, which could not vary, is drawn together with others of its class. Strata keep their
    total weight, so no resample loses a class.

    Source: Rao & Wu 1988.
    """
    strata = _strata(labels, folds)
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK // len(labels))
    for start in range(0, resamples, chunk):
        weights = np.empty((min(chunk, resamples - start), len(labels)))
        for stratum in strata:
            size, drawn = len(stratum), max(1, len(stratum) - 1)
            share = np.full(size, 1 / size)
            weights[:, stratum] = rng.multinomial(drawn, share, size=len(weights)) * (size / drawn)
        yield weights


def _strata(labels: Bools | Ints, folds: Ints) -> list[Ints]:
    """Return the patients of each fold × class; those alone in theirs as one stratum of their class."""
    strata: list[Ints] = []
    for label in np.unique(labels):
        cells = [np.flatnonzero((folds == fold) & (labels == label)) for fold in np.unique(folds)]
        several = sorted((cell for cell in cells if len(cell) > 1), key=len, reverse=True)
        alone = [cell for cell in cells if len(cell) == 1]
        if len(alone) == 1 and several:
            alone.append(several.pop())  # the smallest: what is drawn across folds stays small
        strata += several
        if alone:
            strata.append(np.concatenate(alone))
    return strata


def bootstrap(
    measures: dict[str, Measure],
    labels: Bools | Ints,
    folds: Ints,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return each measure with its percentile 95 % interval, all on the same resamples (so: paired).

    Patients are drawn as :func:`resampled_weights` says. The model is not refitted, so an interval speaks
    of these patients' predictions, not of another training run.

    Source: Efron & Tibshirani 1993, ch. 13.
    """
    drawn: dict[str, list[Float64]] = {name: [] for name in measures}
    for weights in resampled_weights(labels, folds, resamples, seed):
        for name, measure in measures.items():
            drawn[name].append(np.round(measure(weights), DECIMALS))
    once = np.ones((1, len(labels)))
    return {
        name: _percentiles(round(float(measure(once)[0]), DECIMALS), np.concatenate(drawn[name]))
        for name, measure in measures.items()
    }


def _percentiles(value: float, drawn: Float64) -> Estimate:
    # A measure may be undefined in a resample (no positive prediction, hence no precision).
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return Estimate(value, np.nan, np.nan)
    lower, upper = np.quantile(defined, (0.025, 0.975))
    return Estimate(value, float(lower), float(upper))
