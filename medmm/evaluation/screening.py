"""Statistics for looking at many single predictors at once: an interval that holds at 1, and pure levels.

An AUROC near 1 on few patients has no spread to bootstrap, and a cohort has dozens of columns, so one of
them always looks well. Newcombe's score interval stays honest at both ends; its one-sided bound is taken
at ``0.05 / (number of predictors looked at)`` (Bonferroni), so that of all the bounds of a cohort without
any signal none exceeds 0.5 in 95 of 100 such cohorts.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.evaluation.resampling import Estimate

FAMILY_ERROR = 0.05
"""Chance that any of all predictors looked at is named though none has to do with the outcome."""


def score_interval(area: float, events: int, others: int, *, folds: int = 1) -> Estimate:
    """Return an AUROC with its two-sided 95 % interval.

    Args:
        area: the AUROC, between 0 and 1.
        events: patients with the outcome.
        others: patients without.
        folds: parts inside which pairs were compared, evenly filled.

    Source: Newcombe 2006, Statistics in Medicine 25:559-573, method 5.
    """
    z = NormalDist().inv_cdf(0.975)
    below = _bound(area, events, others, folds, -z)
    return Estimate(area, below, _bound(area, events, others, folds, z))


def family_bound(area: float, events: int, others: int, *, looked_at: int, folds: int = 1) -> float:
    """Return the lower bound of an AUROC that was one of ``looked_at``, at a family error of 5 %.

    Source: Newcombe 2006, method 5; Bonferroni.
    """
    z = NormalDist().inv_cdf(1 - FAMILY_ERROR / max(1, looked_at))
    return _bound(area, events, others, folds, -z)


def pure_level(size: int, patients: int, events: int, *, all_events: bool) -> float:
    """Return the chance that a level of ``size`` patients is of one class by the luck of the draw.

    Args:
        size: patients with the level.
        patients: all patients.
        events: of them with the outcome.
        all_events: whether everybody of the level has the outcome, or nobody.

    Source: the hypergeometric distribution (Fisher's exact test, one-sided, of an empty cell).
    """
    of_class = events if all_events else patients - events
    if size > of_class:
        return 0.0
    log = math.lgamma(of_class + 1) - math.lgamma(of_class - size + 1)
    log -= math.lgamma(patients + 1) - math.lgamma(patients - size + 1)
    return math.exp(log)


def within_folds(labels: Bools, scores: Float64, folds: Ints) -> float:
    """Return the AUROC over the pairs inside folds, ties half; 0.5 where there is no pair.

    Args:
        labels: ``[patient]``.
        scores: ``[patient]``.
        folds: ``[patient]``, the fold whose model gave the score.
    """
    rightly = pairs = 0.0
    for fold in np.unique(folds):
        events, others = scores[(folds == fold) & labels], np.sort(scores[(folds == fold) & ~labels])
        below = np.searchsorted(others, events, side="left")
        rightly += float((below + np.searchsorted(others, events, side="right")).sum()) / 2
        pairs += len(events) * len(others)
    return rightly / pairs if pairs else 0.5


def _bound(area: float, events: int, others: int, folds: int, z: float) -> float:
    """Return the AUROC from which ``area`` is ``z`` of its standard errors away, by bisection."""
    if not events or not others:
        return 0.0 if z < 0 else 1.0
    inside, outside = area, 0.0 if z < 0 else 1.0
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(area - middle) <= abs(z) * _standard_error(middle, events, others, folds):
            inside = middle
        else:
            outside = middle
    return inside


def _standard_error(area: float, events: int, others: int, folds: int) -> float:
    """Return the standard error at a true area; pairs inside folds are fewer by the number of folds."""
    m, n = events / folds, others / folds
    half = max((m + n) / 2 - 1, 0.0)
    spread = 1 + half * (1 - area) / (2 - area) + half * area / (1 + area)
    return math.sqrt(area * (1 - area) * spread / (m * n) / folds)
