"""Opening the held-out patients: the bundle measured on people that nothing was chosen on, and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medmm.bundle import load
from medmm.cohort.access import open_cohort
from medmm.evaluation.discrimination import performance
from medmm.held_out import CLAIM, open_held_out
from medmm.scorer import Scorer

Progress = Callable[[str, int, int], None]


def evaluate(
    bundle: Path, cohort: Path, *, root: Path | None = None, progress: Progress | None = None
) -> list[str]:
    """Score the held-out patients and return figures with 95 % intervals, as lines for a terminal.

    Raises:
        DataError: if nobody was held out, it cannot be known who was, or they are of one class.
    """
    loaded = load(bundle)
    linked = open_cohort(cohort, root, progress=progress)
    scorer = Scorer(loaded, linked.declarations)
    patients, opening = open_held_out(loaded, linked)
    outcome = loaded.description.outcome
    logits, labels = [], []
    for done, patient in enumerate(patients):
        score = scorer.score(patient)
        if score.status == "scored":
            logits.append(score.outcomes[outcome].calibrated_logit)
            labels.append(patient.targets[outcome])
        if progress:
            progress("scoring", done + 1, len(patients))
    figures = performance(np.array(labels), np.array(logits), threshold=loaded.description.threshold or 0.5)
    events, refused = int(sum(labels)), len(patients) - len(labels)
    return [
        f"held out {len(patients)} = {len(labels)} scored + {refused} refused; {events} positive",
        *(f"{name:<12} {figure}" for name, figure in figures.items()),
        *([f"fewer than {CLAIM} events: an indication, not a claim"] if events < CLAIM else []),
        f"this was opening {opening} of the held-out patients by this bundle",
    ]
