"""What a threshold on the risk does: the table of thresholds, and net benefit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medmm.arrays import Float64
from medmm.errors import DataError
from medmm.evaluation.discrimination import NORMAL_95
from medmm.evaluation.resampling import Estimate, checked_labels, checked_scores

TREAT_ALL = "treat all"
"""The curve of a policy that treats everybody; treating nobody has a net benefit of 0."""


@dataclass(frozen=True, slots=True)
class Operating:
    """What deciding at one risk gives.

    Attributes:
        threshold: risk at or above which a patient is positive, above 0 and below 1.
        sensitivity: share of the events that are positive.
        specificity: share of the non-events that are negative.
        ppv: share of the positive who have the event; None when nobody is positive.
        npv: share of the negative who do not; None when nobody is negative.
        above_per_100: positive patients of 100.
    """

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate | None
    npv: Estimate | None
    above_per_100: float


def threshold_table(
    labels: npt.ArrayLike, risks: npt.ArrayLike, thresholds: Sequence[float]
) -> tuple[Operating, ...]:
    """Return one row per threshold, with Wilson's 95 % intervals.

    Args:
        labels: ``[patient]``, 0 or 1.
        risks: ``[patient]``, calibrated, between 0 and 1.
        thresholds: risks, each above 0 and below 1.

    Source: Wilson 1927.

    Raises:
        DataError: if an array is malformed, of one class, or a risk or threshold cannot be one.
    """
    truth = checked_labels(labels)
    values = _checked_risks(risks, len(truth))
    _check_thresholds(thresholds)
    rows = []
    for threshold in thresholds:
        positive = values >= threshold
        sensitivity = _share(int((positive & truth).sum()), int(truth.sum()))
        specificity = _share(int((~positive & ~truth).sum()), int((~truth).sum()))
        if sensitivity is None or specificity is None:
            raise AssertionError("checked labels have both classes")
        rows.append(
            Operating(
                threshold=float(threshold),
                sensitivity=sensitivity,
                specificity=specificity,
                ppv=_share(int((positive & truth).sum()), int(positive.sum())),
                npv=_share(int((~positive & ~truth).sum()), int((~positive).sum())),
                above_per_100=100 * float(positive.mean()),
            )
        )
    return tuple(rows)


def net_benefit(
    labels: npt.ArrayLike, risks: Mapping[str, npt.ArrayLike], thresholds: Sequence[float]
) -> dict[str, Float64]:
    """Return net benefit per patient ``[threshold]`` by predictor, and of treating everybody.

    ``TP/n - FP/n · t/(1-t)``: true positives, less false positives at the exchange rate that the
    threshold itself states.

    Args:
        labels: ``[patient]``, 0 or 1.
        risks: per predictor, calibrated risks ``[patient]``, between 0 and 1.
        thresholds: risks, each above 0 and below 1.

    Source: Vickers & Elkin 2006.

    Raises:
        DataError: if an array is malformed, of one class, or a risk or threshold cannot be one.
    """
    truth = checked_labels(labels)
    _check_thresholds(thresholds)
    at = np.asarray(thresholds, dtype=np.float64)
    exchange = at / (1 - at)
    curves: dict[str, Float64] = {}
    for name, values in risks.items():
        positive = _checked_risks(values, len(truth))[None, :] >= at[:, None]
        curves[name] = (positive & truth).mean(axis=1) - exchange * (positive & ~truth).mean(axis=1)
    curves[TREAT_ALL] = truth.mean() - exchange * (~truth).mean()
    return curves


def _share(part: int, whole: int) -> Estimate | None:
    """Return a proportion with Wilson's interval, which stays within [0, 1] and has no zero width."""
    if whole == 0:
        return None
    share, z2 = part / whole, NORMAL_95**2
    centre = (share + z2 / (2 * whole)) / (1 + z2 / whole)
    half = NORMAL_95 * np.sqrt(share * (1 - share) / whole + z2 / (4 * whole**2)) / (1 + z2 / whole)
    # Rounding must not put the bound beyond the share itself where that is 0 or 1.
    return Estimate(share, min(share, float(centre - half)), max(share, float(centre + half)))


def _checked_risks(risks: npt.ArrayLike, patients: int) -> Float64:
    values = checked_scores(risks, patients)
    if ((values < 0) | (values > 1)).any():
        raise DataError("risks must lie between 0 and 1; a logit is no risk")
    return values


def _check_thresholds(thresholds: Sequence[float]) -> None:
    if not all(0 < threshold < 1 for threshold in thresholds):
        raise DataError(f"thresholds must be risks above 0 and below 1, not {list(thresholds)}")
