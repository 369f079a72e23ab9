"""A cohort's page for any outcomes but a single binary one: how good the model is, what it goes by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.cohort.link import Cohort
from medmm.errors import DataError
from medmm.evaluation.discrimination import performance
from medmm.evaluation.kinds import IN_WORDS, confused, figures
from medmm.evaluation.resampling import Estimate
from medmm.evaluation.subgroups import SMALL_CELL, availability
from medmm.explain.explainer import Explainer
from medmm.explain.patient import provenance
from medmm.held_out import open_held_out
from medmm.outcome import Task, part, scored, width
from medmm.report.cohort import CohortPage, Share
from medmm.report.facts import FlowStep, Table
from medmm.report.outcomes import confusion_table, figure_tables
from medmm.sample import Patient
from medmm.scorer import Observed

Progress = Callable[[str, int, int], None]

EXPLAINED = 100
"""Patients whose modalities are explained, for each component."""


def kinds_page(
    explainer: Explainer, cohort: Cohort, *, held_out: bool, progress: Progress | None = None
) -> CohortPage:
    """Judge and explain the held-out patients, or the training patients out-of-fold, for every outcome.

    Raises:
        DataError: as :func:`medmm.explain.cohort.cohort_page`.
    """
    if held_out:
        patients, _ = open_held_out(explainer.bundle, cohort)
        folds: Ints = np.zeros(len(patients), dtype=np.int64)
    else:
        patients, folds = _trained_on(explainer, cohort)
    observed = [explainer.scorer.observe(patient) for patient in patients]
    logits = _scored(explainer, observed, progress) if held_out else _from_record(explainer, patients)
    found: list[tuple[str, Table]] = []
    for index, task in enumerate(explainer.bundle.tasks):
        own = part(
            logits if width(explainer.bundle.tasks) > 1 else logits[:, 0], explainer.bundle.tasks, index
        )
        found += _tables(explainer, task, own, patients, folds, held_out=held_out)
    description = explainer.description
    return CohortPage(
        title=description.name,
        question=description.question,
        intended_use=description.intended_use,
        source="held-out patients" if held_out else "out-of-fold scores of the training patients",
        patients=len(patients),
        events=0,
        provenance=provenance(explainer),
        flow=_flow(cohort, len(patients), held_out=held_out),
        shares=_shares(explainer, observed, progress),
        refused=tuple(sorted(_absences(observed).items())),
        outcomes=tuple(found) + _patterns(explainer, observed),
        verdicts=() if held_out else _verdicts(explainer),
    )


def _trained_on(explainer: Explainer, cohort: Cohort) -> tuple[list[Patient], Ints]:
    record = explainer.training
    if record is None:
        raise DataError("out-of-fold scores stay where the model was trained; they are not in the bundle")
    known = {patient.pseudonym: patient for patient in cohort.patients}
    rows = [index for index, pseudonym in enumerate(record.pseudonyms) if pseudonym in known]
    if not rows:
        raise DataError(
            f"none of the {len(record.pseudonyms)} training patients is in cohort {cohort.spec.name} under "
            "this site's key; explain where the bundle was trained"
        )
    return [known[record.pseudonyms[index]] for index in rows], record.folds[rows]


def _scored(explainer: Explainer, observed: Sequence[Observed], progress: Progress | None) -> Float64:
    logits = np.full((len(observed), width(explainer.bundle.tasks)), np.nan)
    for done, seen in enumerate(observed):
        if not explainer.scorer.refusal(seen):
            logits[done] = explainer.scorer.logits(explainer.scorer.encode(seen))
        if progress:
            progress("scoring", done + 1, len(observed))
    return logits


def _from_record(explainer: Explainer, patients: Sequence[Patient]) -> Float64:
    """Return the folds' own logits of training patients, ``[patient, output]``."""
    record = explainer.training
    assert record is not None
    place = {pseudonym: index for index, pseudonym in enumerate(record.pseudonyms)}
    fused = record.logits["fused"].reshape(len(record.pseudonyms), -1)
    return np.asarray(fused[[place[patient.pseudonym] for patient in patients]])


def _calibrated(
    explainer: Explainer, task: Task, logits: Float64, patients: Sequence[Patient], *, held_out: bool
) -> Float64:
    """Return calibrated logits: by the bundle's map, or as each fold was calibrated by the others."""
    if held_out:
        return explainer.bundle.calibrations[task.name].apply(logits)
    file = explainer.bundle.folder.parent / "local" / "training.json"
    record = json.loads(file.read_text())
    values = np.array(record["outcomes"][task.name], dtype=np.float64)
    place = {pseudonym: index for index, pseudonym in enumerate(record["pseudonyms"])}
    return np.asarray(values[[place[patient.pseudonym] for patient in patients]])


def _tables(
    explainer: Explainer,
    task: Task,
    logits: Float64,
    patients: Sequence[Patient],
    folds: Ints,
    *,
    held_out: bool,
) -> list[tuple[str, Table]]:
    labels = np.array([patient.targets.get(task.name, np.nan) for patient in patients], dtype=np.float64)
    calibrated = _calibrated(explainer, task, logits, patients, held_out=held_out)
    rows = np.isfinite(labels) & scored(logits) & scored(calibrated)
    truth, own = labels[rows], calibrated[rows]
    found: Mapping[str, Estimate]
    if task.kind == "binary":
        threshold = explainer.description.threshold_of(task.name) or 0.5
        found = performance(truth, own, folds[rows], threshold=threshold)
    else:
        raw = own if task.kind == "regression" else logits[rows]
        found = figures(task, truth, (raw, own), folds[rows])
    tables = figure_tables(task.named, {"fused": found}, {"fused": int(rows.sum())}, IN_WORDS)
    counts = confused(task, truth, own)
    return tables + ([] if counts is None else [confusion_table(task.named, task.classes, counts.tolist())])


def _patterns(explainer: Explainer, observed: Sequence[Observed]) -> tuple[tuple[str, Table], ...]:
    names = explainer.description.modalities
    present = np.array([[name in seen.inputs for name in names] for seen in observed])
    counted = Counter(availability(present, names))
    rows = tuple(
        (pattern, str(count) if count >= SMALL_CELL else f"fewer than {SMALL_CELL}")
        for pattern, count in sorted(counted.items())
    )
    return (("Modalities available", Table(("modalities", "patients"), rows)),)


def _verdicts(explainer: Explainer) -> tuple[tuple[str, str], ...]:
    told = explainer.bundle.metrics["outcomes"]
    return tuple(
        (task.named, told[task.name]["verdict"]["sentence"])
        for task in explainer.bundle.tasks
        if told[task.name]["verdict"]
    )


def _flow(cohort: Cohort, count: int, *, held_out: bool) -> tuple[FlowStep, ...]:
    subjects = cohort.flow.subjects
    left = tuple((reason, number) for reason, number in subjects.parts.items() if reason != "kept")
    kept = subjects.parts.get("kept", 0)
    out = (("in another split, or without label or data", kept - count),) if kept > count else ()
    return (
        FlowStep("subjects in any source", subjects.total, left),
        FlowStep("in the cohort", kept, out),
        FlowStep("held out" if held_out else "trained on and scored out-of-fold", count),
    )


def _shares(
    explainer: Explainer, observed: Sequence[Observed], progress: Progress | None
) -> tuple[Share, ...]:
    """Return the mean absolute share of each modality in each component, of up to 100 patients."""
    usable = [seen for seen in observed if not explainer.scorer.refusal(seen)]
    order = np.random.default_rng(explainer.description.seed).permutation(len(usable))[:EXPLAINED]
    found = []
    several = len(explainer.scorer.components) > 1
    for done, component in enumerate(explainer.scorer.components):
        values = np.abs([explainer.shares(usable[index], component).values for index in np.sort(order)])
        for column, name in enumerate(explainer.description.modalities):
            label = f"{component.name}: {name}" if several else name
            found.append(Share(label, float(values[:, column].mean()), len(values)))
        if progress:
            progress("explaining", done + 1, len(explainer.scorer.components))
    return tuple(found)


def _absences(observed: Sequence[Observed]) -> Counter[str]:
    return Counter(
        f"{name}: {reason.replace('_', ' ')}" for seen in observed for name, reason in seen.absent.items()
    )
