"""How well a model tells classes, or levels, apart; every measure is a function of patient weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.evaluation.discrimination import auroc_measure, has_pair
from medmm.evaluation.resampling import Measure


def ovr_measures(labels: Ints, scores: Float64, folds: Ints, names: Sequence[str]) -> dict[str, Measure]:
    """Return the AUROC of each class against all others, and their mean, within folds.

    A class that no fold can compare has none, and is left out of the mean.

    Args:
        labels: ``[patient]``, positions of classes.
        scores: ``[patient, class]``; higher means likelier, of one model per fold.
        folds: ``[patient]``.
        names: of the classes.
    """
    each = {
        f"auroc.{name}": auroc_measure(labels == place, scores[:, place], folds)
        for place, name in enumerate(names)
        if has_pair(labels == place, folds)
    }
    return {"auroc": mean_of(list(each.values())), **each}


def cut_measure(labels: Ints, scores: Float64, folds: Ints, count: int) -> Measure:
    """Return the mean AUROC of one score over the cuts between ordered levels, within folds."""
    cuts = [labels > level for level in range(count - 1)]
    return mean_of([auroc_measure(cut, scores, folds) for cut in cuts if has_pair(cut, folds)])


def mean_of(measures: Sequence[Measure]) -> Measure:
    """Return the mean of measures; NaN where there is none."""

    def measure(weights: Float64) -> Float64:
        if not measures:
            return np.full(len(weights), np.nan)
        return np.asarray(np.mean([each(weights) for each in measures], axis=0))

    return measure


def decided_measures(labels: Ints, probabilities: Float64, names: Sequence[str]) -> dict[str, Measure]:
    """Return what deciding for the likeliest class gives, and how good the probabilities are.

    ``balanced_accuracy`` is the mean recall of the classes, also printed as ``macro_recall``; ``macro_f1``
    the mean of their F1, 0 for a class that is neither there nor named; ``brier`` adds the squared errors of
    all classes.

    Args:
        labels: ``[patient]``.
        probabilities: ``[patient, class]``.
        names: of the classes.
    """
    chosen = probabilities.argmax(axis=1)
    truth = labels[:, None] == np.arange(len(names))
    named = chosen[:, None] == np.arange(len(names))
    of_truth = np.clip(probabilities[np.arange(len(labels)), labels], 1e-15, None)
    recalls = [_ratio(truth[:, k] & named[:, k], truth[:, k]) for k in range(len(names))]
    f1s = [_f1(truth[:, k], named[:, k]) for k in range(len(names))]
    squared = ((probabilities - truth) ** 2).sum(axis=1)
    return {
        "accuracy": _mean((chosen == labels).astype(np.float64)),
        "balanced_accuracy": mean_of(recalls),
        "macro_recall": mean_of(recalls),
        "macro_f1": mean_of(f1s),
        "log_loss": _mean(-np.log(of_truth)),
        "brier": _mean(squared),
        **{f"recall.{name}": recall for name, recall in zip(names, recalls, strict=True)},
    }


def confusion(labels: Ints, probabilities: Float64) -> Ints:
    """Return counts ``[true class, likeliest class]``."""
    count = probabilities.shape[1]
    return np.bincount(labels * count + probabilities.argmax(axis=1), minlength=count**2).reshape(
        count, count
    )


def _mean(values: Float64) -> Measure:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _ratio(part: Ints, whole: Ints) -> Measure:
    def measure(weights: Float64) -> Float64:
        total = weights @ whole
        return np.asarray(
            np.divide(weights @ part, total, out=np.full(len(weights), np.nan), where=total > 0)
        )

    return measure


def _f1(truth: Ints, named: Ints) -> Measure:
    def measure(weights: Float64) -> Float64:
        total = weights @ truth + weights @ named
        return np.asarray(
            np.divide(2 * (weights @ (truth & named)), total, out=np.zeros(len(weights)), where=total > 0)
        )

    return measure
