"""Late stacking: L2 logistic regression on [m_k l_k, m_k] over calibrated out-of-fold logits.

The penalty pulls the weight of a calibrated logit to 1, not to 0: calibrated log-odds of modalities that
are independent given the outcome add up, so that is what a stack knows before it has seen a patient, and
on a hundred patients it is most of what it knows. Weights stay at or above 0, as in stacked regressions:
a base that ranks patients is never turned around.

Sources: Huang et al. 2020, https://doi.org/10.1038/s41598-020-78888-w (late fusion);
Breiman 1996, https://doi.org/10.1007/BF00117832 (stacked regressions, non-negative weights).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medmm.arrays import Float64
from medmm.calibration import Platt
from medmm.network.fusion import Stack


def fit_stack(
    logits: Mapping[str, Float64], calibrations: Sequence[Platt], labels: Float64, *, l2: float
) -> Stack:
    """Fit the stack on out-of-fold logits.

    Args:
        logits: ``[patient]`` per modality, uncalibrated, NaN where the modality is absent.
        calibrations: one per modality, fitted on the same logits.
        labels: ``[patient]``, 0 or 1.
        l2: strength of the penalty ``l2 / 2 · (Σ (w_k - 1)² + Σ v_k²)``; the intercept is free.
    """
    columns, presence = [], []
    for values, calibration in zip(logits.values(), calibrations, strict=True):
        known = np.isfinite(values)
        columns.append(np.where(known, calibration.apply(np.where(known, values, 0.0)), 0.0))
        presence.append(known.astype(np.float64))
    count = len(columns)
    design = np.stack([np.ones_like(labels), *columns, *presence], axis=1)
    prior = np.concatenate([[0.0], np.ones(count), np.zeros(count)])
    fitted = _penalised(design, labels, prior=prior, penalty=np.concatenate([[0.0], np.full(2 * count, l2)]))
    return Stack.of(
        slope=[calibration.slope for calibration in calibrations],
        shift=[calibration.intercept for calibration in calibrations],
        weight=fitted[1 : count + 1].tolist(),
        presence_weight=fitted[count + 1 :].tolist(),
        intercept=float(fitted[0]),
    )


def _penalised(design: Float64, labels: Float64, *, prior: Float64, penalty: Float64) -> Float64:
    """Return the coefficients of greatest penalised likelihood; those with a prior of 1 are at least 0."""
    from scipy.optimize import minimize

    def loss(coefficients: Float64) -> tuple[float, Float64]:
        logit = design @ coefficients
        distance = coefficients - prior
        value = np.logaddexp(0.0, logit).sum() - labels @ logit + 0.5 * penalty @ distance**2
        slope = design.T @ (1 / (1 + np.exp(-logit)) - labels) + penalty * distance
        return float(value), slope

    bounds = [(0.0, None) if centre else (None, None) for centre in prior]
    found = minimize(loss, prior, jac=True, bounds=bounds, method="L-BFGS-B", options={"gtol": 1e-8})
    return np.asarray(found.x, dtype=np.float64)
