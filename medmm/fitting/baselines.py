"""The rivals on the same folds: gradient-boosted trees and logistic regression on the tables alone.

They are comparators, never shipped. Their settings are the library's defaults, moderated for cohorts of
hundreds of patients and tuned on nothing.
"""

from __future__ import annotations

import numpy as np

from medmm.arrays import Float32, Float64
from medmm.outcome import CLASSES, TIMES, Task

TREES = {
    "learning_rate": 0.05,
    "max_iter": 150,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 10,
    "l2_regularization": 1.0,
}


RIDGE = 1.0
"""Penalty on the squared coefficients of the linear rivals of quantities, levels and times."""


def rival(name: str, task: Task, train: Float32, labels: Float64, test: Float32, *, seed: int) -> Float64:
    """Return a rival's logits for one outcome, ``[patient]`` or ``[patient, output]``, as a network's.

    Args:
        name: ``trees``, or ``logistic`` for the linear one whatever the outcome's kind.
        task: the outcome. Times to an event are ranked: trees regress the martingale residuals of the null
            model (Therneau et al. 1990), and the linear rival regresses them too.
        train: ``[patient, feature]``.
        labels: ``[patient]``, NaN where not known.
        test: ``[patient, feature]``.
        seed: of the trees.
    """
    rows = np.isfinite(labels)
    given, known = train[rows], labels[rows]
    if task.kind in ("binary", "multiclass"):
        logits = trees(given, known, test, seed=seed) if name == "trees" else logistic(given, known, test)
        return logits - logits.mean(axis=1, keepdims=True) if task.kind == "multiclass" else logits
    if task.kind in TIMES:
        known = martingale(known)
    elif task.kind not in CLASSES:
        known = (known - task.centre) / task.spread
    found = _quantity(name, given, known, test, seed)
    return np.repeat(found[:, None], task.outputs, axis=1) if task.outputs > 1 else found


def martingale(labels: Float64) -> Float64:
    """Return events seen minus events expected of each patient, by the Nelson-Aalen estimate of everybody.

    Args:
        labels: ``[patient]``, times to the event, negative where censored.
    """
    times, events = np.abs(labels), labels > 0
    at = np.unique(times[events])
    hazard = np.array([(times[events] == t).sum() / (times >= t).sum() for t in at])
    cumulated = np.concatenate([[0.0], np.cumsum(hazard)])
    return np.asarray(events - cumulated[np.searchsorted(at, times, side="right")])


def _quantity(name: str, train: Float32, labels: Float64, test: Float32, seed: int) -> Float64:
    if name == "trees":
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(**TREES, early_stopping=False, random_state=seed)
    else:
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=RIDGE)
    return np.asarray(model.fit(train, labels).predict(test), dtype=np.float64)


def trees(train: Float32, labels: Float64, test: Float32, *, seed: int) -> Float64:
    """Return test logits ``[patient]`` of boosted trees fitted on ``train`` ``[patient, feature]``."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(**TREES, early_stopping=False, random_state=seed).fit(
        train, labels
    )
    return np.asarray(model.decision_function(test), dtype=np.float64)


def logistic(train: Float32, labels: Float64, test: Float32) -> Float64:
    """Return test logits ``[patient]`` of a logistic regression on ``train`` ``[patient, feature]``."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=2000).fit(train, labels)
    return np.asarray(model.decision_function(test), dtype=np.float64)
