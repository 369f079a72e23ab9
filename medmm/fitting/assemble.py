"""From a linked cohort and a recipe to a problem: loaded rows, prepared images, labels, folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.bundle import sha256_of
from medmm.cohort.link import Cohort
from medmm.cohort.outcomes import OutcomeSpec
from medmm.cohort.split import whole
from medmm.columns import ImageSpec, Status
from medmm.errors import ConfigError, DataError, FittingError
from medmm.fitting.candidates import Problem
from medmm.fitting.inputs import Prepared, prepare_images
from medmm.fitting.loop import OnEpoch
from medmm.fitting.pretraining import bundle as pretrained
from medmm.fitting.pretraining.pool import Unlabelled
from medmm.fitting.refusals import refused_series
from medmm.modality import Declaration, Modality
from medmm.outcome import Task, check_labels, intervals
from medmm.recipe import Recipe, varied
from medmm.sample import Absence, Patient, Source

Progress = Callable[[str, int, int], None]

MOST_VALUES = 1 << 29
"""Of one batch of images: 2 GB; the first layer's activations take as much again."""


def training_patients(cohort: Cohort, recipe: Recipe) -> list[Patient]:
    """Return the patients who are trained on: in the training split, with a known label of some outcome.

    Raises:
        DataError: if nothing can be learned of an outcome, or they are of one class only.
    """
    names = recipe.asked
    patients = [p for p in cohort.patients if p.split == "train" and any(name in p.targets for name in names)]
    for name in names:
        known = [p.targets[name] for p in patients if name in p.targets]
        if cohort.spec.outcomes[name].kind == "binary":
            positives = sum(value == 1 for value in known)
            if positives in (0, len(known)):
                raise DataError(
                    f"outcome {name}: {positives} of {len(known)} training patients are positive; "
                    "a model needs both classes. Look at `positive` in cohort.yaml"
                )
        else:
            check_labels(_task(name, cohort.spec.outcomes[name], recipe, np.array([])), np.array(known))
    return patients


def tasks_of(recipe: Recipe, cohort: Cohort, patients: Sequence[Patient]) -> tuple[Task, ...]:
    """Return the outcomes as the network predicts them; scales and intervals are the training patients'.

    A fit has scales of its own (:func:`medmm.fitting.scaling.scaled`); these are the ones it is told in.
    """
    return tuple(
        _task(name, cohort.spec.outcomes[name], recipe, _labels(patients, name)) for name in recipe.asked
    )


def _task(name: str, spec: OutcomeSpec, recipe: Recipe, labels: Float64) -> Task:
    known = labels[np.isfinite(labels)]
    times = spec.kind == "survival"
    quantity = spec.kind == "regression" and len(known) > 0
    return Task(
        name=name,
        kind="cox" if times and recipe.hazards == "cox" else spec.kind,
        label=spec.label or "",
        classes=spec.names,
        ends=(spec.ends or intervals(known)) if times and len(known) else (),
        unit=spec.unit or "",
        centre=float(known.mean()) if quantity else 0.0,
        spread=float(known.std()) if quantity else 1.0,
    )


def _labels(patients: Sequence[Patient], name: str) -> Float64:
    return np.array([patient.targets.get(name, np.nan) for patient in patients], dtype=np.float64)


def assemble(
    recipe: Recipe,
    cohort: Cohort,
    patients: Sequence[Patient],
    *,
    work: Path,
    cache: Path,
    progress: Progress | None = None,
    on_epoch: OnEpoch | None = None,
) -> Problem:
    """Load the tables and prepare the images of the patients, in their order.

    Where the recipe pretrains, the same of the training split's unlabelled patients; where it begins with
    pretrained encoders, these.

    Raises:
        ConfigError: if a batch of images would not fit into memory, or pretrained encoders do not fit.
        BundleError: if pretrained encoders are damaged or altered.
        FittingError: if a modality is absent for everybody.
    """
    modalities = recipe.build(dict(cohort.declarations))
    _check_batches(recipe, modalities, len(patients))
    folder = recipe.pretrained_folder
    begun = None if folder is None else pretrained.load(folder, modalities)
    labels = np.stack([_labels(patients, name) for name in recipe.asked], axis=1)
    rows, images = _loaded(modalities, patients, cache, progress)
    for name in modalities:
        found = (
            images[name].absent
            if name in images
            else [_reason(patient.sources[name]) for patient in patients]
        )
        told = refused_series(modalities[name], images[name]) if name in images else ""
        _anybody(name, found, told)
    others = _unlabelled(recipe, cohort, patients)
    return Problem(
        recipe=recipe,
        modalities=modalities,
        rows=rows,
        images=images,
        labels=labels[:, 0] if labels.shape[1] == 1 else labels,
        tasks=tasks_of(recipe, cohort, patients),
        keys=[patient.subject_id for patient in patients],
        pseudonyms=[patient.pseudonym for patient in patients],
        work=work,
        on_epoch=on_epoch,
        unlabelled=Unlabelled(
            *_loaded(modalities, others, cache, progress),
            wholes=[whole(cohort, patient) for patient in others],
            beside=[whole(cohort, patient) for patient in patients],
        )
        if others
        else None,
        pretrained=begun,
    )


def _loaded(
    modalities: Mapping[str, Modality], patients: Sequence[Patient], cache: Path, progress: Progress | None
) -> tuple[dict[str, list[Any]], dict[str, Prepared]]:
    """Return what tables hold of the patients, and their prepared images."""
    rows: dict[str, list[Any]] = {}
    images: dict[str, Prepared] = {}
    for name, modality in modalities.items():
        sources = [patient.sources[name] for patient in patients]
        if isinstance(modality.declaration, ImageSpec):
            stage = _stage(progress, f"preparing {name}")
            images[name] = prepare_images(modality, sources, cache, progress=stage)
        else:
            rows[name] = [s if isinstance(s, Absence) else modality.load(s) for s in sources]
    return rows, images


def _unlabelled(recipe: Recipe, cohort: Cohort, patients: Sequence[Patient]) -> list[Patient]:
    """Return who may join the pretraining of a split: trained on, unlabelled, and not there yet."""
    settings = recipe.pretrained_within
    if settings is None or not settings.unlabelled:
        return []
    there = {patient.subject_id for patient in patients}
    return [
        patient
        for patient in cohort.patients
        if patient.split == "train"
        and not any(name in patient.targets for name in recipe.asked)
        and patient.subject_id not in there
    ]


def weights_named(recipe: Recipe, declarations: Mapping[str, Declaration]) -> list[str]:
    """Return the digest of each file of weights that a recipe names, or its search may take, in their order.

    Where there is no such file it is an empty text: who reads it says what is wrong.
    """
    files: dict[Path, None] = {}
    for each in (
        recipe,
        *(varied(recipe, chosen) for chosen in (recipe.search.corners() if recipe.search else ())),
    ):
        files |= {m.weights: None for m in each.build(dict(declarations)).values() if m.weights is not None}
    return [sha256_of(file) if file.is_file() else "" for file in files]


def outer_folds(patients: Sequence[Patient]) -> Ints:
    """Return the outer fold of each patient, ``[patient]``."""
    return np.array([patient.fold for patient in patients], dtype=np.int64)


def _check_batches(recipe: Recipe, modalities: Mapping[str, Modality], patients: int) -> None:
    batch = min(recipe.fitting.batch_size, patients)
    for name, modality in modalities.items():
        if isinstance(modality.declaration, ImageSpec) and batch * prod(modality.shape) > MOST_VALUES:
            raise ConfigError(
                f"recipe {recipe.name}, {name}: {batch} images of {modality.shape} in one batch take "
                f"{4 * batch * prod(modality.shape) / 2**30:.0f} GB; lower fitting.batch_size or the shape"
            )


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)


def _reason(source: Source) -> str:
    """Return why nothing of a table is known of a patient; an empty text where something is."""
    if isinstance(source, Mapping):
        known = any(value.status is Status.KNOWN for value in source.values())
        return "" if known else "no_known_value"
    return source.reason if isinstance(source, Absence) else ""


def _anybody(name: str, absent: Sequence[str], told: str) -> None:
    if all(absent):
        reasons = sorted(set(absent))
        raise FittingError(
            f"{name} is absent for all {len(absent)} training patients ({', '.join(reasons)}); "
            "look at `medmm cohort check`, or leave it out of the recipe" + (f". {told}" if told else "")
        )
