"""How well scores separate events from non-events, with 95 % intervals.

Logits of different folds' models are not on one scale, so ranking measures compare patients only inside
the fold whose model scored them, each fold weighing by its pairs (AUROC) or its events (AUPRC).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medmm.arrays import Bools, Float64, Ints
from medmm.calibration import sigmoid
from medmm.errors import DataError
from medmm.evaluation.resampling import (
    RESAMPLES,
    Estimate,
    Measure,
    bootstrap,
    checked_folds,
    checked_labels,
    checked_scores,
)

NORMAL_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""

SMALLEST_PROBABILITY = 1e-15
"""Probabilities are kept this far from 0 and 1 in the log loss."""


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike, folds: npt.ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: the share of (event, non-event) pairs ranked rightly, ties half.

    Args:
        labels: ``[patient]``, 0 or 1.
        scores: ``[patient]``, any finite scale; higher means an event is likelier.
        folds: ``[patient]``, the fold whose model gave the score; pairs are compared inside a fold only.

    Raises:
        DataError: if there is no pair to compare, or an array is malformed.
    """
    truth, values, groups = _checked(labels, scores, folds)
    return float(auroc_measure(truth, values, groups)(np.ones((1, len(truth))))[0])


def auprc(labels: npt.ArrayLike, scores: npt.ArrayLike, folds: npt.ArrayLike | None = None) -> float:
    """Return the average precision (step-wise area under the precision-recall curve), between 0 and 1.

    Args:
        labels: ``[patient]``, 0 or 1.
        scores: ``[patient]``, any finite scale.
        folds: ``[patient]``; precision is taken inside a fold, folds weigh by their events.

    Raises:
        DataError: if an array is malformed or of one class.
    """
    truth, values, groups = _checked(labels, scores, folds)
    return float(auprc_measure(truth, values, groups)(np.ones((1, len(truth))))[0])


def brier(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean squared error of probabilities ``[patient]``; 0 is perfect (Brier 1950)."""
    truth = checked_labels(labels)
    return float(np.mean((checked_scores(probabilities, len(truth)) - truth) ** 2))


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood of probabilities ``[patient]``, in nats."""
    truth = checked_labels(labels)
    return float(np.mean(_losses(truth, checked_scores(probabilities, len(truth)))))


def delong(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Estimate:
    """Return the pooled AUROC with DeLong's 95 % interval, clipped to [0, 1].

    For scores of one model; out-of-fold scores take :func:`performance`.

    Source: DeLong et al. 1988, with the ranks of Sun & Xu 2014.

    Raises:
        DataError: if an array is malformed or of one class.
    """
    truth, values, _ = _checked(labels, scores, None)
    events, others = values[truth], values[~truth]
    ranks = midranks(np.concatenate([events, others]))
    m, n = len(events), len(others)
    by_event = (ranks[:m] - midranks(events)) / n
    by_other = 1 - (ranks[m:] - midranks(others)) / m
    variance = (by_event.var(ddof=1) / m if m > 1 else 0) + (by_other.var(ddof=1) / n if n > 1 else 0)
    area, half = float(by_event.mean()), NORMAL_95 * float(np.sqrt(variance))
    return Estimate(area, max(0.0, area - half), min(1.0, area + half))


def performance(
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    *,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return the usual measures with bootstrap 95 % intervals (patients redrawn within fold × class).

    Args:
        labels: ``[patient]``, 0 or 1.
        logits: ``[patient]``, calibrated log-odds.
        folds: ``[patient]``, the fold whose model gave the logit, or None for one model.
        threshold: probability at or above which a patient counts as predicted positive.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        auroc, auprc, brier, log_loss, accuracy, recall, specificity, precision, f1.

    Raises:
        DataError: if an array is malformed, of one class, or no fold has a pair to compare.
    """
    truth, values, groups = _checked(labels, logits, folds)
    measures = usual_measures(truth, values, groups, threshold=threshold)
    return bootstrap(measures, truth, groups, resamples=resamples, seed=seed)


def usual_measures(
    truth: Bools, values: Float64, folds: Ints, *, threshold: float = 0.5
) -> dict[str, Measure]:
    """Return the measures of :func:`performance` as functions of patient weights.

    Args:
        truth: ``[patient]``.
        values: ``[patient]``, log-odds.
        folds: ``[patient]``.
        threshold: probability at or above which a patient counts as predicted positive.
    """
    risk = sigmoid(values)
    return {
        "auroc": auroc_measure(truth, values, folds),
        "auprc": auprc_measure(truth, values, folds),
        "brier": _mean_measure((risk - truth) ** 2),
        "log_loss": _mean_measure(_losses(truth, risk)),
        **_threshold_measures(truth, risk >= threshold),
    }


def has_pair(labels: Bools, folds: Ints) -> bool:
    """Whether some fold has both an event and a non-event, so that an AUROC within folds exists."""
    return bool(np.isin(folds[labels], folds[~labels]).any())


def auroc_measure(labels: Bools, scores: Float64, folds: Ints) -> Measure:
    """Return the within-fold AUROC as a function of patient weights ``[resample, patient]``.

    Raises:
        DataError: if no fold has both an event and a non-event.
    """
    ranked = []
    for fold in np.unique(folds):
        events, others = np.flatnonzero((folds == fold) & labels), np.flatnonzero((folds == fold) & ~labels)
        if len(events) and len(others):
            others = others[np.argsort(scores[others], kind="stable")]
            below = np.searchsorted(scores[others], scores[events], side="left")
            ranked.append(
                (events, others, below, np.searchsorted(scores[others], scores[events], side="right"))
            )
    if not ranked:
        raise DataError("no fold has both an event and a non-event, so no pair can be compared")

    def measure(weights: Float64) -> Float64:
        rightly, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for events, others, below, through in ranked:
            passed = np.zeros((len(weights), len(others) + 1))
            np.cumsum(weights[:, others], axis=1, out=passed[:, 1:])
            rightly += (weights[:, events] * (passed[:, below] + passed[:, through])).sum(axis=1) / 2
            pairs += weights[:, events].sum(axis=1) * passed[:, -1]
        # a resample may hold no pair where the only events of a fold were not drawn
        return _ratio(rightly, pairs, otherwise=np.nan)

    return measure


def auprc_measure(labels: Bools, scores: Float64, folds: Ints) -> Measure:
    """Return the within-fold average precision as a function of patient weights."""
    ranked = []
    for fold in np.unique(folds[labels]):
        members = np.flatnonzero(folds == fold)
        members = members[np.argsort(-scores[members], kind="stable")]
        last_of_tie = np.flatnonzero(np.append(np.diff(scores[members]) != 0, True))
        ranked.append((members, last_of_tie))

    def measure(weights: Float64) -> Float64:
        area, total = np.zeros(len(weights)), np.zeros(len(weights))
        for members, last_of_tie in ranked:
            flagged = np.cumsum(weights[:, members], axis=1)[:, last_of_tie]
            found = np.cumsum(weights[:, members] * labels[members], axis=1)[:, last_of_tie]
            precision = _ratio(found, flagged, otherwise=0.0)
            area += (np.diff(found, axis=1, prepend=0.0) * precision).sum(axis=1)
            total += found[:, -1]
        return np.asarray(area / total)

    return measure


def _threshold_measures(truth: Bools, positive: Bools) -> dict[str, Measure]:
    return {
        "accuracy": _mean_measure((truth == positive).astype(np.float64)),
        "recall": _share_measure(truth & positive, truth),
        "specificity": _share_measure(~truth & ~positive, ~truth),
        "precision": _share_measure(truth & positive, positive),
        "f1": lambda weights: _ratio(
            2 * weights @ (truth & positive), weights @ truth + weights @ positive, otherwise=0.0
        ),
    }


def _mean_measure(values: Float64) -> Measure:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _share_measure(part: Bools, whole: Bools) -> Measure:
    return lambda weights: _ratio(weights @ part, weights @ whole, otherwise=np.nan)


def _ratio(part: Float64, whole: Float64, *, otherwise: float) -> Float64:
    empty = np.full(np.shape(part), otherwise)
    return np.asarray(np.divide(part, whole, out=empty, where=whole > 0))


def _losses(truth: Bools, risk: Float64) -> Float64:
    of_truth = np.where(truth, risk, 1 - risk)
    return np.asarray(-np.log(np.clip(of_truth, SMALLEST_PROBABILITY, None)))


def midranks(values: Float64) -> Float64:
    """Return the rank of each value, 1 … n; equal values share the mean of their ranks."""
    ordered = np.sort(values)
    below, through = np.searchsorted(ordered, values), np.searchsorted(ordered, values, side="right")
    return np.asarray((below + through + 1) / 2)


def _checked(
    labels: npt.ArrayLike, scores: npt.ArrayLike, folds: npt.ArrayLike | None
) -> tuple[Bools, Float64, Ints]:
    truth = checked_labels(labels)
    return truth, checked_scores(scores, len(truth)), checked_folds(folds, len(truth))
