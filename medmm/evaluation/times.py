"""Times to an event: who outlived what, concordance, and the integrated Brier score.

Labels are days to the event, negative where the patient was only watched until then (censored).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.evaluation.resampling import Measure


def lived_and_happened(labels: Float64, ends: Sequence[float]) -> tuple[Float64, Float64]:
    """Return the intervals each patient survived, and where the event came, each ``[patient, interval]``.

    Who is censored within an interval counts as having survived it from its middle on.

    Args:
        labels: ``[patient]``.
        ends: of the intervals; an event after the last is one that was not seen.

    Source: Gensheimer & Narasimhan 2019, https://doi.org/10.7717/peerj.6257.
    """
    bounds = np.asarray(ends, dtype=np.float64)
    starts = np.concatenate([[0.0], bounds[:-1]])
    times, events = np.abs(labels)[:, None], (labels > 0)[:, None]
    lived = np.where(events, times > bounds, times >= (starts + bounds) / 2)
    happened = events & (times > starts) & (times <= bounds)
    return lived.astype(np.float64), happened.astype(np.float64)


def at_risk(times: Float64) -> Float64:
    """Return ``[patient, other]``, 1 where the other was still watched at the patient's time."""
    return (times[None, :] >= times[:, None]).astype(np.float64)


def concordance_measure(labels: Float64, scores: Float64, folds: Ints) -> Measure:
    """Return Harrell's C within folds, as a function of weights; higher scores mean earlier events.

    Source: Harrell et al. 1982, https://doi.org/10.1001/jama.1982.03320430047030.
    """
    times, events = np.abs(labels), labels > 0
    earlier = (times[:, None] < times[None, :]) | ((times[:, None] == times[None, :]) & ~events[None, :])
    return pairs_measure(events[:, None] & earlier, scores, folds)


def pairs_measure(comparable: Bools, scores: Float64, folds: Ints) -> Measure:
    """Return the share of comparable pairs ranked rightly within folds, ties half, as a function of weights.

    Args:
        comparable: ``[patient, other]``, where the patient should have the higher score.
        scores: ``[patient]``.
        folds: ``[patient]``.
    """
    pairs = (comparable & (folds[:, None] == folds[None, :])).astype(np.float64)
    rightly = pairs * ((scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :]))

    def measure(weights: Float64) -> Float64:
        total = ((weights @ pairs) * weights).sum(axis=1)
        right = ((weights @ rightly) * weights).sum(axis=1)
        return np.asarray(np.divide(right, total, out=np.full(len(weights), np.nan), where=total > 0))

    return measure


def integrated_brier(labels: Float64, survival: Float64, ends: Sequence[float]) -> Float64:
    """Return each patient's share of the integrated Brier score, ``[patient]``; their mean is the score.

    Squared errors of the survival curve at the ends of the intervals, each weighed by the inverse
    probability of still being watched (Kaplan-Meier of the censoring), integrated by trapezoids from day 0.

    Args:
        labels: ``[patient]``.
        survival: ``[patient, interval]``, probability of no event by the end of each interval.
        ends: of the intervals.

    Source: Graf et al. 1999, https://doi.org/10.1002/(SICI)1097-0258(19990915/30)18:17/18%3C2529::AID-SIM274%3E3.0.CO;2-5.
    """
    times, events = np.abs(labels), labels > 0
    errors = np.zeros((len(labels), len(ends) + 1))  # on day 0 everybody lives, and every curve says so
    for place, end in enumerate(ends):
        died = events & (times <= end)
        alive = times > end
        watched_before = kaplan_meier(times, ~events, times, before=True)
        watched = kaplan_meier(times, ~events, np.array([end]))[0]
        error = np.where(died, survival[:, place] ** 2 / watched_before, 0.0)
        errors[:, place + 1] = error + np.where(alive, (1 - survival[:, place]) ** 2 / watched, 0.0)
    grid = np.concatenate([[0.0], np.asarray(ends)])
    return np.asarray(np.trapezoid(errors, grid, axis=1) / grid[-1])


def kaplan_meier(times: Float64, events: Bools, at: Float64, *, before: bool = False) -> Float64:
    """Return the share without the event by each day of ``at``, or just before; never below 1 in n."""
    days = np.unique(times[events])
    steps = np.array([1 - (events & (times == day)).sum() / (times >= day).sum() for day in days])
    shares = np.concatenate([[1.0], np.cumprod(steps)])
    places = np.searchsorted(days, at, side="left" if before else "right")
    return np.asarray(np.maximum(shares[places], 1.0 / len(times)))
