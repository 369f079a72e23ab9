"""Two models on the same patients: DeLong's test of their AUROCs, and the gain in net benefit.

Both stand beside the paired bootstrap of :mod:`medmm.evaluation.comparison`; where the three disagree, the
cohort is too small for any of them. Out-of-fold scores are ranked inside the fold whose model gave them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from medmm.arrays import Bools, Float64, Ints
from medmm.errors import DataError
from medmm.evaluation.discrimination import NORMAL_95, auroc_measure, midranks
from medmm.evaluation.resampling import (
    RESAMPLES,
    Estimate,
    Measure,
    binary_labels,
    bootstrap,
    checked_folds,
    checked_scores,
)

TREAT_ALL, TREAT_NONE = "treat all", "treat none"
"""The two policies that need no model."""


@dataclass(frozen=True, slots=True)
class DeLong:
    """DeLong's comparison of two AUROCs.

    Attributes:
        gain: AUROC of the one less that of the other; its interval is NaN where a fold has one event or one
            non-event only, for their spread is then unknown.
        p: two-sided, of no difference; NaN with the interval.
    """

    gain: Estimate
    p: float


@dataclass(frozen=True, slots=True)
class Benefit:
    """Net benefit of one policy, and what the fused model gains over it, per patient.

    Attributes:
        patients: who are scored by both.
        own: net benefit of the policy.
        fused: net benefit of the fused model on the same patients.
        gain: ``fused`` less ``own``, paired.
    """

    patients: int
    own: Estimate
    fused: Estimate
    gain: Estimate


def layered(values: npt.ArrayLike) -> npt.NDArray[np.generic]:
    """Return what is given per patient, or per repeat and patient, as ``[repeat, patient]``."""
    return np.atleast_2d(np.asarray(values))


def averaged(measures: Sequence[Measure]) -> Measure:
    """Return the mean of one measure over repeats of a cross-validation, as a function of patient weights.

    The weights are of patients, not of predictions: repeats make no patients.
    """
    if len(measures) == 1:
        return measures[0]
    return lambda weights: np.asarray(np.mean([measure(weights) for measure in measures], axis=0))


def auroc_of_repeats(labels: Bools, scores: Float64, folds: Ints) -> Measure:
    """Return the AUROC within folds, averaged over repeats, as a function of patient weights.

    Args:
        labels: ``[patient]``.
        scores: ``[repeat, patient]``.
        folds: ``[repeat, patient]``.
    """
    return averaged([auroc_measure(labels, one, of) for one, of in zip(scores, folds, strict=True)])


def less(one: Measure, other: Measure) -> Measure:
    """Return the difference of two measures on the same patient weights."""
    return lambda weights: np.asarray(one(weights) - other(weights))


def delong_difference(
    labels: npt.ArrayLike,
    one: npt.ArrayLike,
    other: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    *,
    comparisons: int = 1,
) -> DeLong:
    """Compare the AUROCs of two models on the same patients.

    The AUROC within folds is a mean of the folds' AUROCs, weighted by their pairs, and folds share no
    patient, so their variances add up. Over repeats a patient's components are averaged before they are
    squared: the patient remains one.

    Args:
        labels: ``[patient]``, 0 or 1.
        one: ``[patient]`` or ``[repeat, patient]``, any finite scale.
        other: the same, of the model to compare with.
        folds: of the shape of the scores; without them, all scores are of one model each.
        comparisons: how many are made in one go; the interval is then Bonferroni's, and all of them hold
            together with 95 %. The p value is of this comparison alone.

    Source: DeLong et al. 1988, with the ranks of Sun & Xu 2014.

    Raises:
        DataError: if no fold has both classes, or an array is malformed.
    """
    truth = binary_labels(labels)
    repeats = len(layered(one))
    groups = np.zeros((repeats, len(truth)), np.int64) if folds is None else layered(folds)
    gains, components = [], []
    for mine, theirs, of in zip(layered(one), layered(other), groups, strict=True):
        parts = checked_folds(of, len(truth))
        first, second = (_components(truth, checked_scores(s, len(truth)), parts) for s in (mine, theirs))
        gains.append(first[0] - second[0])
        components.append(first[1] - second[1])
    gain = float(np.mean(gains))
    error = float(np.sqrt(np.square(np.mean(components, axis=0)).sum()))
    wide = (NORMAL_95 if comparisons == 1 else NormalDist().inv_cdf(1 - 0.025 / comparisons)) * error
    return DeLong(Estimate(gain, gain - wide, gain + wide), _p_value(gain, error))


def _components(truth: Bools, scores: Float64, folds: Ints) -> tuple[float, Float64]:
    """Return the AUROC within folds, and each patient's part in its error, ``[patient]``."""
    found = []
    for fold in np.unique(folds):
        events, others = np.flatnonzero((folds == fold) & truth), np.flatnonzero((folds == fold) & ~truth)
        if len(events) and len(others):
            found.append((events, others, *_placements(scores[events], scores[others])))
    pairs = sum(len(events) * len(others) for events, others, *_ in found)
    if not pairs:
        raise DataError("no fold has both an event and a non-event, so no pair can be compared")
    area, parts = 0.0, np.zeros(len(truth))
    for events, others, by_event, by_other in found:
        weight = len(events) * len(others) / pairs
        area += weight * float(by_event.mean())
        for members, values in ((events, by_event), (others, by_other)):
            count = len(members)
            spread = np.sqrt(count / (count - 1)) / count if count > 1 else np.nan
            parts[members] = weight * spread * (values - values.mean())
    return area, parts


def _placements(events: Float64, others: Float64) -> tuple[Float64, Float64]:
    """Return each event's share of non-events ranked below it, and each non-event's of events above it."""
    m, n = len(events), len(others)
    ranks = midranks(np.concatenate([events, others]))
    return (ranks[:m] - midranks(events)) / n, 1 - (ranks[m:] - midranks(others)) / m


def _p_value(gain: float, error: float) -> float:
    if not math.isfinite(error):
        return math.nan
    if error == 0:
        return 1.0 if gain == 0 else math.nan
    return math.erfc(abs(gain) / error / math.sqrt(2))


def benefit_of_deciding(labels: npt.ArrayLike, positive: npt.ArrayLike, odds: npt.ArrayLike) -> Float64:
    """Return each patient's part in the net benefit of a policy, ``[patient]``: 1, minus the odds, or 0.

    Args:
        labels: ``[patient]``, 0 or 1.
        positive: ``[patient]``, or ``[repeat, patient]`` and then averaged: whom the policy treats.
        odds: of the threshold, of the shape of ``positive`` or one number.

    Source: Vickers & Elkin 2006.
    """
    truth = binary_labels(labels)
    worth = np.where(truth, 1.0, -np.asarray(odds, dtype=np.float64))
    return np.asarray(np.atleast_2d(np.where(positive, worth, 0.0)).mean(axis=0))


def net_benefit_gains(
    labels: npt.ArrayLike,
    fused: Float64,
    others: Mapping[str, Float64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Benefit]:
    """Return the net benefit of each policy, and what the fused model gains over it, with 95 % intervals.

    Patients are redrawn by class, not inside folds: a weak model decides the same for a whole fold, and its
    net benefit would seem to be known without error.

    Args:
        labels: ``[patient]``, 0 or 1.
        fused: ``[patient]``, parts in the net benefit from :func:`benefit_of_deciding`.
        others: per policy the same; NaN where it cannot decide, and then neither is counted there.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    truth = binary_labels(labels)
    found = {}
    for name, values in others.items():
        both = np.isfinite(values)
        if not both.any():
            continue
        one, other = fused[both], values[both]
        measures = {"own": _mean(other), "fused": _mean(one), "gain": _mean(one - other)}
        drawn = bootstrap(
            measures, truth[both], checked_folds(None, int(both.sum())), resamples=resamples, seed=seed
        )
        found[name] = Benefit(int(both.sum()), drawn["own"], drawn["fused"], drawn["gain"])
    return found


def _mean(values: Float64) -> Measure:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))
