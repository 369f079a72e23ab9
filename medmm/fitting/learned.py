"""Whether the modalities alone have learned anything: a network that tells everybody the same has not.

A verdict on such an image is one on its fit; a reader must know it.
"""

from __future__ import annotations

import numpy as np

from medmm.arrays import Float64
from medmm.fitting.candidates import Problem
from medmm.fitting.crossval import OutOfFold
from medmm.outcome import columns

HARDLY = 0.01
"""Standard deviation of logits below which patients are alike; of a quantity, as a share of its own."""


def unlearned(problem: Problem, out_of_fold: OutOfFold) -> tuple[str, ...]:
    """Return a sentence about each modality whose own network tells the patients of most folds the same.

    Args:
        problem: as fitted.
        out_of_fold: its logits; of repeats, the first.
    """
    folds = range(int(out_of_fold.folds.max()) + 1)
    scale = np.array([task.spread for task in problem.tasks for _ in range(task.outputs)])
    found = []
    for name in problem.modalities:
        if name not in out_of_fold.logits:
            continue
        logits = columns(out_of_fold.logits[name]) / scale
        alike = sum(_alike(logits[out_of_fold.folds == fold]) for fold in folds)
        if 2 * alike > len(folds):
            found.append(
                f"{name}: its own network hardly tells patients apart in {alike} of {len(folds)} folds,"
                " so it has learned nothing, and what it could add is not known; fit longer"
                " (`fitting.epochs`), or let it see less beside what matters (`shape`, `window`, `mask`)"
            )
    return tuple(found)


def _alike(logits: Float64) -> bool:
    """Whether the logits ``[patient, output]`` of a fold hardly differ, of those that are known."""
    known = logits[np.isfinite(logits).all(axis=1)]
    return len(known) > 1 and float(known.std(axis=0).max()) < HARDLY
