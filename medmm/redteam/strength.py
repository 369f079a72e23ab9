"""How well a column, or several together, predict the outcome of patients they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.evaluation.discrimination import auroc_measure
from medmm.evaluation.resampling import Estimate, bootstrap
from medmm.evaluation.screening import family_bound, score_interval, within_folds
from medmm.fitting.partition import deal
from medmm.redteam.columns import Column

FOLDS = 5
REPEATS = 3
"""Deals of the folds over which an AUROC is averaged: on few patients one deal is a matter of luck."""
SMOOTHING = 2.0
"""Patients at the overall rate that are added to each level."""
MIN_CLASS = 5
"""With fewer patients of either class nothing can be said."""
MOST = 4000
"""Patients whom a model on several columns is asked of; more would make it slower, hardly surer."""
RIDGE = 0.3
"""Inverse penalty of the logistic model on several columns."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Whose outcome is predicted.

    Attributes:
        labels: ``[patient]``.
        keys: ids, by which folds are dealt, so that the order of rows does not matter.
        folds: ``[patient]``, the cohort's own folds; -1 for the held-out.
    """

    labels: Bools
    keys: Sequence[str]
    folds: Ints


@dataclass(frozen=True, slots=True)
class Strength:
    """How well something predicts, out of fold.

    Attributes:
        auroc: with its own 95 % interval.
        patients: asked of how many.
        events: of them with the outcome.
        folds: parts that were fitted and predicted in turn.
    """

    auroc: Estimate
    patients: int
    events: int
    folds: int

    def at_least(self, looked_at: int) -> float:
        """Return the lower bound that holds though this is one of ``looked_at``."""
        others = self.patients - self.events
        return family_bound(self.auroc.value, self.events, others, looked_at=looked_at, folds=self.folds)


def strength(question: Question, columns: Sequence[Column]) -> Strength | None:
    """Predict the outcome from some columns alone; None where nobody, or one class only, can be asked."""
    asked = _asked(question, columns)
    if len(columns) > 1:
        asked = some(question, asked)
    labels = question.labels[asked]
    events = int(labels.sum())
    folds = min(FOLDS, events, len(labels) - events)
    if folds < 2 or min(events, len(labels) - events) < MIN_CLASS:
        return None
    areas = []
    for repeat in range(REPEATS):
        dealt = _dealt(question, asked, folds, repeat)
        areas.append(within_folds(labels, _out_of_fold(columns, asked, labels, dealt), dealt))
    area = float(np.mean(areas))
    return Strength(
        score_interval(area, events, len(labels) - events, folds=folds), len(labels), events, folds
    )


def gain(question: Question, column: Column, rest: Sequence[Column]) -> Estimate:
    """Return by how much one column alone outranks all others together: AUROC difference, 95 % interval.

    Without others, the column is compared with tossing a coin.
    """
    asked = some(question, _asked(question, [column]))
    labels = question.labels[asked]
    folds = min(FOLDS, int(labels.sum()), int((~labels).sum()))
    dealt = _dealt(question, asked, folds, 0)
    alone = auroc_measure(labels, _out_of_fold([column], asked, labels, dealt), dealt)
    together = np.zeros(len(labels)) if not rest else _out_of_fold(rest, asked, labels, dealt)
    others = auroc_measure(labels, together, dealt)
    measures = {"gain": lambda weights: alone(weights) - others(weights)}
    return bootstrap(measures, labels, dealt, resamples=500)["gain"]


def some(question: Question, asked: Ints) -> Ints:
    """Return at most :data:`MOST` patients, both classes in their shares, whatever the order of rows."""
    parts = -(-len(asked) // MOST)
    return asked if parts <= 1 else asked[_dealt(question, asked, parts, 0) == 0]


def _asked(question: Question, columns: Sequence[Column]) -> Ints:
    eligible = np.ones(len(question.labels), dtype=bool)
    for column in columns:
        if column.eligible is not None:
            eligible &= column.eligible
    return np.flatnonzero(eligible)


def _dealt(question: Question, asked: Ints, folds: int, seed: int) -> Ints:
    strata = [str(label) for label in question.labels[asked]]
    return deal(strata, [question.keys[place] for place in asked], folds=folds, seed=seed)


def _out_of_fold(columns: Sequence[Column], asked: Ints, labels: Bools, dealt: Ints) -> Float64:
    """Return the score of each patient asked, by a model of the other folds."""
    scores = np.zeros(len(asked))
    for fold in range(int(dealt.max()) + 1):
        train, test = np.flatnonzero(dealt != fold), np.flatnonzero(dealt == fold)
        coded = [column.coded(asked[train]) for column in columns]
        if len(columns) == 1:
            codes, levels = coded[0][0][asked], coded[0][1]
            scores[test] = _rates(codes[train], labels[train], levels)[codes[test]]
        else:
            wide = np.concatenate([np.eye(levels)[codes[asked]] for codes, levels in coded], axis=1)
            scores[test] = _logistic(wide[train], labels[train], wide[test])
    return scores


def _rates(codes: Ints, labels: Bools, levels: int) -> Float64:
    """Return each level's smoothed share of events."""
    events = np.bincount(codes, weights=labels, minlength=levels)
    sizes = np.bincount(codes, minlength=levels)
    return np.asarray((events + SMOOTHING * labels.mean()) / (sizes + SMOOTHING))


def _logistic(train: Float64, labels: Bools, test: Float64) -> Float64:
    from sklearn.linear_model import LogisticRegression

    varying = train.std(axis=0) > 0
    if not varying.any():
        return np.zeros(len(test))
    model = LogisticRegression(C=RIDGE, max_iter=300).fit(train[:, varying], labels)
    return np.asarray(model.decision_function(test[:, varying]), dtype=np.float64)
