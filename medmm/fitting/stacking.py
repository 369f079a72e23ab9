"""Late stacking: L2 logistic regression on [m_k l_k, m_k] over calibrated out-of-fold logits.

Source: Huang et al. 2020, https://doi.org/10.1038/s41598-020-78888-w.
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
        l2: strength of the penalty on the coefficients.
    """
    from sklearn.linear_model import LogisticRegression

    columns, presence = [], []
    for values, calibration in zip(logits.values(), calibrations, strict=True):
        known = np.isfinite(values)
        columns.append(np.where(known, calibration.apply(np.where(known, values, 0.0)), 0.0))
        presence.append(known.astype(np.float64))
    design = np.stack(columns + presence, axis=1)
    model = LogisticRegression(C=1.0 / l2, max_iter=2000).fit(design, labels)
    count = len(columns)
    coefficients = [float(value) for value in model.coef_[0]]
    return Stack.of(
        slope=[calibration.slope for calibration in calibrations],
        shift=[calibration.intercept for calibration in calibrations],
        weight=coefficients[:count],
        presence_weight=coefficients[count:],
        intercept=float(model.intercept_[0]),
    )
