"""How many patients of each kind a fit needs at the least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.errors import FittingError
from medmm.outcome import CLASSES, TIMES, Task


def enough(tasks: Sequence[Task], labels: Float64, job: str) -> None:
    """Refuse to fit where an outcome has too few patients of a kind.

    Args:
        labels: ``[patient, task]`` of those who would be fitted on.
        job: what is to be fitted, for the message.

    Raises:
        FittingError: naming the outcome and what to do.
    """
    for task, own in zip(tasks, labels.T, strict=True):
        known = own[np.isfinite(own)]
        if task.kind == "binary":
            positives = int(known.sum())
            if min(positives, len(known) - positives) < 2:
                raise FittingError(
                    f"{job}: {positives} positive of {len(known)} patients; a network needs two of each"
                    " class. Use fewer folds, or drop the modality that few patients have"
                )
        elif task.kind in CLASSES:
            counts = [int((known == place).sum()) for place in range(len(task.classes))]
            if min(counts) < 2:
                rarest = task.classes[int(np.argmin(counts))]
                raise FittingError(
                    f"{job}: {min(counts)} of {len(known)} patients are {rarest!r}; a network needs two of"
                    " each class. Use fewer folds, or drop the modality that few patients have"
                )
        elif task.kind in TIMES and (known > 0).sum() < 2:
            raise FittingError(
                f"{job}: {int((known > 0).sum())} events of {task.name} among {len(known)} patients; a"
                " network needs two. Use fewer folds, or drop the modality that few patients have"
            )
        elif len(np.unique(known)) < 2:
            raise FittingError(
                f"{job}: {task.name} is the same for all {len(known)} patients; use fewer folds"
            )


def smallest_class(labels: Float64, present: Bools, folds: Ints) -> int:
    """Return the smallest count of one class, among the holders of one modality, in one fold."""
    counts = [
        int(((labels == label) & present[:, column] & (folds == fold)).sum())
        for label in (0, 1)
        for column in range(present.shape[1])
        for fold in range(folds.max() + 1)
    ]
    return min(counts)
