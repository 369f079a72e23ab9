"""Opening the held-out patients: the bundle measured on people that nothing was chosen on, and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medmm.arrays import Float64
from medmm.bundle import Bundle, load
from medmm.calibration import flat_told
from medmm.cohort.access import open_cohort
from medmm.evaluation.discrimination import performance
from medmm.evaluation.kinds import confused
from medmm.evaluation.kinds import figures as kind_figures
from medmm.held_out import CLAIM, open_held_out
from medmm.outcome import TIMES, Task, check_labels, part, scored, width
from medmm.report.outcomes import taken_for
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
    logits = np.full((len(patients), width(loaded.tasks)), np.nan)
    routes = [scorer.fused] * len(patients)
    for done, patient in enumerate(patients):
        observed = scorer.observe(patient)
        if not scorer.refusal(observed):
            encoded = scorer.encode(observed)
            routes[done], logits[done] = encoded.route, scorer.logits(encoded)
        if progress:
            progress("scoring", done + 1, len(patients))
    found = []
    for index, task in enumerate(loaded.tasks):
        labels = np.array([patient.targets.get(task.name, np.nan) for patient in patients], dtype=np.float64)
        own = part(logits if logits.shape[1] > 1 else logits[:, 0], loaded.tasks, index)
        found += [f"outcome      {task.name}"] if len(loaded.tasks) > 1 else []
        found += _lines(loaded, task, (own, scorer.calibrated(task, own, routes)), labels)
    return [*found, f"this was opening {opening} of the held-out patients by this bundle"]


def _lines(bundle: Bundle, task: Task, found: tuple[Float64, Float64], labels: Float64) -> list[str]:
    """Return the figures of one outcome, on the held-out patients with a label of it.

    Args:
        found: uncalibrated and calibrated logits; NaN of whoever was refused.
    """
    logits, labelled = found[0], np.isfinite(labels)
    rows = scored(logits) & labelled
    truth, calibrated = labels[rows], found[1][rows]
    head = f"held out {labelled.sum()} = {rows.sum()} scored + {(labelled & ~rows).sum()} refused"
    events = int((truth > 0).sum())
    if task.kind == "binary":
        threshold = bundle.description.threshold_of(task.name) or 0.5
        figures = performance(truth, calibrated, threshold=threshold)
        counted, fewest = f"; {events} positive", events
    else:
        check_labels(task, truth)
        ranked = calibrated if task.kind == "regression" else logits[rows]
        figures = kind_figures(task, truth, (ranked, calibrated), np.zeros(len(truth), np.int64))
        counted = f"; {events} events" if task.kind in TIMES else ""
        fewest = events if task.kind in TIMES else len(truth)
    confusion = confused(task, truth, calibrated)
    return [
        head + counted,
        *flat_told({task.name: bundle.calibrations[task.name]}),
        *(f"{name:<12} {figure}" for name, figure in figures.items()),
        *(taken_for(task.classes, confusion.tolist()) if confusion is not None else []),
        *([f"fewer than {CLAIM} events: an indication, not a claim"] if fewest < CLAIM else []),
    ]
