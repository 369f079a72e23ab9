"""Fitting the calibration of classes, levels, quantities and times; a binary outcome's: ``calibrate``.

Each is of maximum likelihood under a weak pull of the slope to 1 and of what is free to 0, which keeps
separable data finite, as Platt's smoothed targets do. A slope never falls below 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.calibration import Shifted
from medmm.evaluation.times import at_risk, lived_and_happened
from medmm.outcome import Task, levels, sigmoid

PULL = 0.5
"""Strength of the pull, about that of half a patient."""


def fit_map(task: Task, logits: Float64, labels: Float64) -> Shifted:
    """Return the calibration of one outcome that is not binary.

    Args:
        task: the outcome.
        logits: ``[patient]`` or ``[patient, output]``, of patients the model was not fitted on.
        labels: ``[patient]``, all known.
    """
    if task.kind == "regression":
        return _line(logits, labels)
    return {"multiclass": _classes, "ordinal": _levels, "survival": _hazards, "cox": _cox}[task.kind](
        task, logits, labels
    )


def cross_fitted_map(task: Task, logits: Float64, labels: Float64, folds: Ints) -> Float64:
    """Return calibrated logits, each fold calibrated by a map fitted on the other folds."""
    parts: dict[int, Float64] = {}
    for fold in np.unique(folds):
        own = folds == fold
        parts[int(fold)] = fit_map(task, logits[~own], labels[~own]).apply(logits[own])
    first = next(iter(parts.values()))
    calibrated = np.empty((len(labels), *first.shape[1:]))
    for fold, values in parts.items():
        calibrated[folds == fold] = values
    return calibrated


def _line(logits: Float64, labels: Float64) -> Shifted:
    centred = logits - logits.mean()
    variance = float((centred**2).mean())
    slope = max(0.0, float((centred * (labels - labels.mean())).mean()) / variance) if variance > 0 else 0.0
    return Shifted(slope, (float(labels.mean() - slope * logits.mean()),))


def _classes(task: Task, logits: Float64, labels: Float64) -> Shifted:
    one_hot = np.eye(len(task.classes))[labels.astype(int)]

    def loss(slope: float, offsets: Float64) -> float:
        shifted = slope * logits + offsets
        top = shifted.max(axis=1, keepdims=True)
        norm = top[:, 0] + np.log(np.exp(shifted - top).sum(axis=1))
        return float((norm - (one_hot * shifted).sum(axis=1)).sum())

    slope, offsets = _fitted(loss, np.zeros(len(task.classes)))
    return Shifted(slope, tuple((offsets - offsets.mean()).tolist()))


def _levels(task: Task, logits: Float64, labels: Float64) -> Shifted:
    counts = np.bincount(labels.astype(int), minlength=len(task.classes)) + 0.5
    above = 1 - np.cumsum(counts / counts.sum())[:-1]
    start = np.log(above / (1 - above))  # falling from level to level

    def offsets_of(free: Float64) -> Float64:
        steps = np.concatenate([free[:1], -np.exp(free[1:])])
        return np.asarray(start[0] + np.cumsum(steps))

    def loss(slope: float, free: Float64) -> float:
        share = levels(sigmoid(slope * logits[:, None] + offsets_of(free)))
        return float(-np.log(np.clip(share[np.arange(len(labels)), labels.astype(int)], 1e-12, None)).sum())

    begin = np.concatenate([[0.0], np.log(np.clip(-np.diff(start), 1e-3, None))])
    slope, free = _fitted(loss, begin)
    return Shifted(slope, tuple(offsets_of(free).tolist()), spread=True)


def _hazards(task: Task, logits: Float64, labels: Float64) -> Shifted:
    lived, happened = lived_and_happened(labels, task.ends)
    there = np.maximum(lived, happened)

    def loss(slope: float, offsets: Float64) -> float:
        shifted = slope * logits + offsets
        return float((there * (np.logaddexp(0, shifted) - happened * shifted)).sum())

    slope, offsets = _fitted(loss, np.zeros(len(task.ends)))
    return Shifted(slope, tuple(offsets.tolist()))


def _cox(task: Task, logits: Float64, labels: Float64) -> Shifted:
    times, events = np.abs(labels), labels > 0
    waiting = at_risk(times)

    def loss(slope: float, _: Float64) -> float:
        scores = slope * logits
        top = scores.max()
        log_risk = top + np.log(waiting @ np.exp(scores - top))
        return float((log_risk - scores)[events].sum())

    slope, _ = _fitted(loss, np.zeros(0))
    risk = waiting @ np.exp(slope * logits)  # Breslow's baseline: 1 over the risk of all who were still there
    hazard = np.array([(1 / risk[events & (times <= end)]).sum() for end in task.ends])
    return Shifted(slope, tuple(np.log(np.clip(hazard, 1e-9, None)).tolist()), spread=True)


def _fitted(loss: Callable[[float, Float64], float], start: Float64) -> tuple[float, Float64]:
    """Return the slope and the free numbers of least penalised loss."""
    from scipy.optimize import minimize

    def penalised(values: Float64) -> float:
        pull = (values[0] - 1) ** 2 + ((values[1:] - start) ** 2).sum()
        return loss(float(values[0]), values[1:]) + PULL * float(pull)

    bounds = [(0.0, None), *([(None, None)] * len(start))]
    found = minimize(penalised, np.concatenate([[1.0], start]), bounds=bounds, method="L-BFGS-B")
    return float(found.x[0]), np.asarray(found.x[1:], dtype=np.float64)
