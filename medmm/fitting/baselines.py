"""The rivals on the same folds: gradient-boosted trees and logistic regression on the tables alone.

They are comparators, never shipped. Their settings are the library's defaults, moderated for cohorts of
hundreds of patients and tuned on nothing.
"""

from __future__ import annotations

import numpy as np

from medmm.arrays import Float32, Float64

TREES = {
    "learning_rate": 0.05,
    "max_iter": 150,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 10,
    "l2_regularization": 1.0,
}


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
