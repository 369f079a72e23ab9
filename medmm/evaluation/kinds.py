"""The measures of each kind of outcome, with 95 % intervals; a binary outcome's are in ``discrimination``."""

from __future__ import annotations

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.evaluation.classes import confusion, cut_measure, decided_measures, ovr_measures
from medmm.evaluation.resampling import RESAMPLES, Estimate, Measure, bootstrap
from medmm.evaluation.times import concordance_measure, integrated_brier, pairs_measure
from medmm.outcome import TIMES, Task, read, softmax

RANKING = {
    "binary": "auroc",
    "multiclass": "auroc",
    "ordinal": "auroc",
    "regression": "r2",
    "survival": "c_index",
    "cox": "c_index",
}
"""The measure by which models are compared, per kind."""

IN_WORDS = {
    "auroc": "AUROC",
    "r2": "R²",
    "c_index": "C-index",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "brier": "Brier score",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "bias": "mean error",
    "mean_level_error": "mean error in levels",
    "ibs": "integrated Brier score",
}
"""Measures as a reader meets them."""


def figures(
    task: Task,
    labels: Float64,
    logits: tuple[Float64, Float64],
    folds: Ints,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return every measure of one model for one outcome, ranking on uncalibrated logits, the rest calibrated.

    Args:
        task: the outcome; not a binary one.
        labels: ``[patient]``, all known.
        logits: uncalibrated, and calibrated by the other folds; each ``[patient, ...]``.
        folds: ``[patient]``, the fold whose model gave the logits.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    raw, calibrated = logits
    said = read(task, calibrated)
    measures = {RANKING[task.kind]: ranking(task, labels, raw, folds)}
    if task.kind in ("multiclass", "ordinal"):
        places = labels.astype(np.int64)
        if task.kind == "multiclass":
            measures |= ovr_measures(places, softmax(raw), folds, task.classes)
        else:
            expected = said @ np.arange(len(task.classes))
            measures["mean_level_error"] = _mean(np.abs(expected - labels))
        measures |= decided_measures(places, said, task.classes)
    elif task.kind in TIMES:
        measures["ibs"] = _mean(integrated_brier(labels, said, task.ends))
    else:
        measures["r2"] = _explained(labels, said)
        measures["mae"] = _mean(np.abs(said - labels))
        measures["rmse"] = _root(_mean((said - labels) ** 2))
        measures["bias"] = _mean(said - labels)
        measures["c_index"] = pairs_measure(labels[:, None] > labels[None, :], raw, folds)
    strata = task.strata(labels).astype(np.int64)
    return bootstrap(measures, strata, folds, resamples=resamples, seed=seed)


def ranking(task: Task, labels: Float64, raw: Float64, folds: Ints) -> Measure:
    """Return the measure by which models of one outcome are compared, as a function of weights.

    Mean one-versus-rest AUROC of classes; mean AUROC over the cuts between levels; R² of a quantity;
    Harrell's C of a time. A quantity's logits must have been calibrated for it.
    """
    places = labels.astype(np.int64)
    if task.kind == "multiclass":
        return ovr_measures(places, softmax(raw), folds, task.classes)["auroc"]
    if task.kind == "ordinal":
        return cut_measure(places, raw, folds, len(task.classes))
    if task.kind in TIMES:
        score = raw if raw.ndim == 1 else task.component(raw, 0)
        return concordance_measure(labels, score, folds)
    return _explained(labels, raw)


def confused(task: Task, labels: Float64, calibrated: Float64) -> Ints | None:
    """Return the confusion matrix ``[true class, likeliest class]``; None for outcomes without classes."""
    if task.kind not in ("multiclass", "ordinal"):
        return None
    return confusion(labels.astype(np.int64), read(task, calibrated))


def _mean(values: Float64) -> Measure:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _root(measure: Measure) -> Measure:
    return lambda weights: np.asarray(np.sqrt(measure(weights)))


def _explained(labels: Float64, said: Float64) -> Measure:
    """R²: 1 minus the squared error over that of the mean of these patients."""

    def measure(weights: Float64) -> Float64:
        total = weights.sum(axis=1)
        mean = weights @ labels / total
        spread = weights @ labels**2 / total - mean**2
        error = weights @ (labels - said) ** 2 / total
        return np.asarray(1 - np.divide(error, spread, out=np.full(len(total), np.nan), where=spread > 1e-12))

    return measure
