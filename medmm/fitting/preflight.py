"""What is looked at before the first epoch: nothing that can be known to fail is found out an hour later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmm.arrays import Ints
from medmm.errors import FittingError
from medmm.fitting.candidates import Problem
from medmm.fitting.inputs import Inputs
from medmm.fitting.pretraining import beginning
from medmm.fitting.refusals import refused_series
from medmm.modality import Modality

FEWEST = 2
"""Patients of each class that a network needs, among those who have its modality."""


def preflight(problem: Problem, folds: Ints) -> tuple[str, ...]:
    """Refuse what cannot be fitted; return what can, and is odd, in words for a reader.

    Args:
        problem: the patients and their modalities.
        folds: ``[patient]``, 0 … K-1.

    Raises:
        FittingError: if a fold lacks a class, or leaves too few patients of a class to a modality.
        ConfigError: if pretrained weights are not those of their encoder, or what is to be pretrained cannot.
    """
    modalities, inputs = problem.fitted(np.arange(len(problem.labels)))
    _check_classes(problem, inputs, folds)
    for modality in modalities.values():
        modality.warm_start(modality.encoder())
    refused = tuple(filter(None, (_refused(problem, name) for name in problem.images)))
    return (
        refused
        + beginning.check(problem, modalities, inputs)
        + tuple(
            f"{name}: {label} is the same for every training patient, so it carries nothing"
            for name, modality in modalities.items()
            if name in problem.tabular
            for label in _constant(modality, inputs, name)
        )
    )


def _check_classes(problem: Problem, inputs: Inputs, folds: Ints) -> None:
    strata, present = problem.strata, inputs.present
    classes = np.unique(strata[strata >= 0])
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        if not np.isin(classes, strata[test]).all():
            raise FittingError(f"fold {fold + 1} lacks a class among its {int(test.sum())}; use fewer folds")
        for column, name in enumerate(inputs.names):
            held = strata[~test & present[:, column]]
            smallest = min(int((held == each).sum()) for each in classes)
            if smallest < FEWEST:
                raise FittingError(
                    f"{name}: without fold {fold + 1}, {smallest} of {len(held)} patients who have it are in"
                    f" the smallest class, and a network needs {FEWEST} of each. Use fewer folds, or leave"
                    f" it out{_because(problem, name)}"
                )


def _refused(problem: Problem, name: str) -> str:
    return refused_series(problem.modalities[name], problem.images[name])


def _because(problem: Problem, name: str) -> str:
    """Return why an image is there for fewer patients than were chosen; "" where none was refused."""
    told = _refused(problem, name) if name in problem.images else ""
    return f". {told}" if told else ""


def _constant(modality: Modality, inputs: Inputs, name: str) -> Sequence[str]:
    """Return the labels of fields whose columns never differ among the patients who have the table."""
    entry = inputs.prepared[name]
    rows = np.asarray(entry.array[entry.row_of[entry.row_of >= 0]])
    varied = np.ptp(rows, axis=0) > 0
    return [player.label for player in modality.players() if not varied[list(player.columns)].any()]
