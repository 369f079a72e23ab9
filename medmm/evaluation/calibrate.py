"""Fitting a calibration, and measuring how well risks agree with what happened.

No Hosmer–Lemeshow: it has no power in small cohorts and rejects everything in large ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medmm.arrays import Float64, Ints
from medmm.calibration import Platt, sigmoid
from medmm.evaluation.discrimination import NORMAL_95
from medmm.evaluation.resampling import Estimate, checked_folds, checked_labels, checked_scores

NEWTON_STEPS = 100
"""At most; Newton's method on a convex likelihood of two parameters needs about six."""

CURVE_POINTS = 51
"""Points of the smoothed calibration curve."""

CURVE_SPAN = 0.75
"""Share of the patients that weigh in at a point of the curve (Austin & Steyerberg 2014)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well risks agree with outcomes (Van Calster et al. 2019).

    Attributes:
        observed: share of events.
        expected: mean risk; calibration in the large compares it with ``observed``.
        intercept: of a logistic regression with the logit as offset, in log-odds; 0 is ideal.
        slope: of a logistic regression on the logit; 1 is ideal, below 1 means too extreme risks; NaN
            where the logits are constant or separate the classes perfectly.
        brier: mean squared error of the risk.
        curve_risk: ``[point]``, risks at which the curve is drawn.
        curve_observed: ``[point]``, smoothed share of events there.
    """

    observed: float
    expected: float
    intercept: Estimate
    slope: Estimate
    brier: float
    curve_risk: Float64
    curve_observed: Float64


def fit_platt(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Platt:
    """Fit Platt scaling by maximum likelihood on smoothed targets, which keeps separable data finite.

    Targets are (events + 1) / (events + 2) and 1 / (non-events + 2); a slope that would be negative, which
    would turn the ranking around, becomes 0 (everyone gets the prevalence).

    Args:
        logits: ``[patient]``, uncalibrated log-odds on patients the model was not fitted on.
        labels: ``[patient]``, 0 or 1.

    Source: Platt 1999; Lin, Lin & Weng 2007.

    Raises:
        DataError: if the labels are of one class or an array is malformed.
    """
    truth = checked_labels(labels)
    values = checked_scores(logits, len(truth))
    events, others = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (events + 1) / (events + 2), 1 / (others + 2))
    # Fitting on the standardised logit makes the result independent of the logit's scale.
    centre, spread = float(values.mean()), float(values.std())
    if spread > 0:
        (level, steepness), _ = _logistic(
            np.stack([np.ones_like(values), (values - centre) / spread], 1), targets
        )
        if steepness > 0:
            return Platt(float(steepness / spread), float(level - steepness * centre / spread))
    share = float(targets.mean())
    return Platt(0.0, float(np.log(share / (1 - share))))


def cross_fitted(logits: npt.ArrayLike, labels: npt.ArrayLike, folds: npt.ArrayLike) -> Float64:
    """Return calibrated logits ``[patient]``, each fold calibrated by a map fitted on the other folds.

    So pooled out-of-fold risks are calibrated without a patient calibrating himself.

    Raises:
        DataError: if an array is malformed, there is one fold only, or the other folds are of one class.
    """
    truth = checked_labels(labels)
    values, groups = checked_scores(logits, len(truth)), checked_folds(folds, len(truth))
    calibrated = np.empty_like(values)
    for fold in np.unique(groups):
        own = groups == fold
        calibrated[own] = fit_platt(values[~own], truth[~own]).apply(values[own])
    return calibrated


def calibrated_by_repeat(logits: Float64, labels: Float64, folds: Ints) -> Float64:
    """Return log-odds calibrated by the other folds of the same repeat, ``[repeat, patient]``; NaN stays.

    Args:
        logits: ``[repeat, patient]``, NaN where a model cannot score the patient.
        labels: ``[patient]``, 0 or 1.
        folds: ``[repeat, patient]``.
    """
    found = np.full(logits.shape, np.nan)
    for repeat, (own, of) in enumerate(zip(logits, folds, strict=True)):
        known = np.isfinite(own)
        found[repeat, known] = cross_fitted(own[known], labels[known], of[known])
    return found


def agreement(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Agreement:
    """Measure calibration of calibrated ``logits`` ``[patient]`` on patients who did not fit them.

    Intervals are Wald's, 95 %.

    Raises:
        DataError: if an array is malformed or of one class.
    """
    truth = checked_labels(labels)
    values = checked_scores(logits, len(truth))
    risk, targets = sigmoid(values), truth.astype(np.float64)
    one = np.ones_like(values)[:, None]
    (shift,), (shift_error,) = _logistic(one, targets, offset=values)
    (_, slope), (_, slope_error) = _logistic(np.hstack([one, values[:, None]]), targets)
    at, share = smoothed_curve(truth, risk)
    return Agreement(
        observed=float(targets.mean()),
        expected=float(risk.mean()),
        intercept=_wald(shift, shift_error),
        slope=_wald(slope, slope_error),
        brier=float(np.mean((risk - targets) ** 2)),
        curve_risk=at,
        curve_observed=share,
    )


def smoothed_curve(labels: npt.ArrayLike, risk: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Return (risks ``[point]``, smoothed share of events ``[point]``), both between 0 and 1.

    Local linear regression with tricube weights over the nearest 75 % of the patients (loess).

    Source: Austin & Steyerberg 2014.

    Raises:
        DataError: if an array is malformed or of one class.
    """
    truth = checked_labels(labels)
    values = checked_scores(risk, len(truth))
    at = np.linspace(values.min(), values.max(), CURVE_POINTS)
    reach = max(2, int(np.ceil(CURVE_SPAN * len(values))))
    distance = np.abs(values[None, :] - at[:, None])
    width = np.partition(distance, reach - 1, axis=1)[:, reach - 1 : reach]
    weights = np.clip(1 - (distance / np.maximum(width, 1e-12)) ** 3, 0, None) ** 3 + 1e-12
    weights /= weights.sum(axis=1, keepdims=True)
    mean_risk, mean_event = weights @ values, weights @ truth
    centred = values[None, :] - mean_risk[:, None]
    variance = (weights * centred**2).sum(axis=1)
    slope = (weights * centred * (truth - mean_event[:, None])).sum(axis=1) / np.maximum(variance, 1e-12)
    return at, np.clip(mean_event + slope * (at - mean_risk), 0, 1)


def _wald(value: float, error: float) -> Estimate:
    return Estimate(float(value), float(value - NORMAL_95 * error), float(value + NORMAL_95 * error))


def _logistic(design: Float64, targets: Float64, offset: Float64 | float = 0.0) -> tuple[Float64, Float64]:
    """Return coefficients and standard errors of a logistic regression; NaN without a finite maximum.

    Newton's method with step halving.
    """
    beta = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        risk = sigmoid(design @ beta + offset)
        gradient = design.T @ (targets - risk)
        information = (design * (risk * (1 - risk))[:, None]).T @ design
        if np.linalg.cond(information) > 1e12:
            break
        step = np.asarray(np.linalg.solve(information, gradient), dtype=np.float64)
        if np.abs(step).max() < 1e-10:
            return beta, np.sqrt(np.diag(np.linalg.inv(information)))
        beta = beta + _halved(step, beta, design, targets, offset)
    undefined = np.full(len(beta), np.nan)
    return undefined, undefined


def _halved(
    step: Float64, beta: Float64, design: Float64, targets: Float64, offset: Float64 | float
) -> Float64:
    def likelihood(coefficients: Float64) -> float:
        logit = design @ coefficients + offset
        return float(np.sum(targets * logit - np.logaddexp(0, logit)))

    start = likelihood(beta)
    while likelihood(beta + step) < start - 1e-12 * abs(start) and np.abs(step).max() > 1e-12:
        step = step / 2
    return step
