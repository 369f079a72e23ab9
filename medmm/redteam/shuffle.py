"""Shuffled labels: the cohort's own folds must then predict nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmm.arrays import Float32, Ints
from medmm.evaluation.resampling import Estimate
from medmm.evaluation.screening import within_folds
from medmm.fitting.baselines import logistic
from medmm.redteam.columns import Column
from medmm.redteam.strength import Question, some

SHUFFLES = 20


def shuffled(
    question: Question, columns: Sequence[Column], people: Ints, *, seed: int = 0
) -> Estimate | None:
    """Return the mean AUROC of the rival on the tables over shuffled labels, with its 95 % interval.

    The folds are the cohort's own. Those who are taken for one person keep one label between them: where
    such a person stands in two folds, the mean rises above 0.5.

    Args:
        question: labels and folds; -1 never occurs, the held-out are a fold of their own.
        columns: the inputs.
        people: ``[patient]``, the first patient who is the same person.
        seed: of the shuffles.

    Returns:
        None where a fold lacks a class.
    """
    kept = some(question, np.arange(len(question.labels)))
    if len(kept) < len(question.labels):
        columns = [Column(c.name, c.family, [c.cells[place] for place in kept]) for c in columns]
        first: dict[int, int] = {}
        people = np.array([first.setdefault(int(who), row) for row, who in enumerate(people[kept])])
        keys = [question.keys[place] for place in kept]
        question = Question(question.labels[kept], keys, question.folds[kept])
    folds = np.unique(question.folds)
    if len(folds) < 2:
        return None
    parts = [
        (np.flatnonzero(question.folds != fold), np.flatnonzero(question.folds == fold)) for fold in folds
    ]
    rows = [_rows(columns, train) for train, _ in parts]
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(SHUFFLES):
        labels = question.labels[rng.permutation(len(question.labels))][people]
        scores = np.zeros(len(labels))
        for (train, test), wide in zip(parts, rows, strict=True):
            if len(np.unique(labels[train])) < 2:
                return None
            scores[test] = logistic(wide[train], labels[train].astype(np.float64), wide[test])
        areas.append(within_folds(labels, scores, question.folds))
    mean, error = float(np.mean(areas)), float(np.std(areas, ddof=1)) / SHUFFLES**0.5
    return Estimate(mean, mean - 1.96 * error, mean + 1.96 * error)


def _rows(columns: Sequence[Column], train: Ints) -> Float32:
    coded = [column.coded(train) for column in columns]
    wide = np.concatenate([np.eye(levels, dtype=np.float32)[codes] for codes, levels in coded], axis=1)
    return np.asarray(wide, dtype=np.float32)
