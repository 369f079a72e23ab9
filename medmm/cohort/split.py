"""Who trains, who is held out, and in which fold: whole subjects, stratified, decided by (seed, id).

Subjects are sorted by stratum and, inside it, by a hash of seed and id. Every k-th one is held out and the
rest are dealt to the folds in turn, so each stratum is divided as evenly as it can be, whatever the order of
rows, files or processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medmm.cohort.link import Cohort
from medmm.errors import DataError, OutputError
from medmm.sample import Patient, SeriesSource

TRAIN, HELD_OUT = "train", "held_out"


@dataclass(frozen=True, slots=True)
class Splits:
    """An assignment of every subject of a cohort.

    Attributes:
        seed: the seed of the cohort's specification.
        folds: number of folds of the training subjects.
        of: per subject, its split and its fold (-1 when held out).
    """

    seed: int
    folds: int
    of: Mapping[str, tuple[str, int]]

    @property
    def digest(self) -> str:
        """Sha256 of the assignment."""
        text = json.dumps([self.seed, self.folds, sorted((s, *place) for s, place in self.of.items())])
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the assignment with its digest; it holds real ids, so the file's mode is 0600.

        Raises:
            OutputError: if the folder cannot be written.
        """
        body = {
            "schema_version": 1,
            "digest": self.digest,
            "seed": self.seed,
            "folds": self.folds,
            "subjects": {subject: list(place) for subject, place in sorted(self.of.items())},
        }
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(body, file)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"{path} cannot be written ({error.strerror}); name another folder") from error


def load_splits(path: Path) -> Splits:
    """Read an assignment back.

    Raises:
        DataError: if the file is missing, no such assignment, or its digest does not fit.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        of = {subject: (str(split), int(fold)) for subject, (split, fold) in body["subjects"].items()}
        splits = Splits(int(body["seed"]), int(body["folds"]), of)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no file of splits ({type(error).__name__}); divide the cohort again"
        ) from None
    if body.get("digest") != splits.digest:
        raise DataError(f"{path} was changed after it was written; divide the cohort again")
    return splits


def divide(cohort: Cohort) -> Splits:
    """Divide a cohort as its specification says.

    Raises:
        DataError: if an outcome has one class only, or a class with fewer subjects than folds.
    """
    settings = cohort.spec.splits
    _check_classes(cohort)
    ordered = sorted(cohort.patients, key=lambda p: (_stratum(cohort, p), _rank(settings.seed, p.subject_id)))
    of: dict[str, tuple[str, int]] = {}
    place = 0
    for position, patient in enumerate(ordered):
        # systematic sampling along the strata: each gives its share, rounded
        if int((position + 1) * settings.held_out + 0.5) > int(position * settings.held_out + 0.5):
            of[patient.subject_id] = (HELD_OUT, -1)
        else:
            of[patient.subject_id] = (TRAIN, place % settings.folds)
            place += 1
    return Splits(settings.seed, settings.folds, of)


def assign(cohort: Cohort, splits: Splits) -> Cohort:
    """Return the cohort with every patient's split and fold.

    Raises:
        DataError: if the splits are of other subjects, or one DICOM file would be on both sides.
    """
    subjects = {patient.subject_id for patient in cohort.patients}
    if subjects != set(splits.of):
        raise DataError(
            f"the splits are of another cohort: {len(subjects - set(splits.of))} subjects have none and"
            f" {len(set(splits.of) - subjects)} are not in it; divide the cohort again"
        )
    placed = []
    for patient in cohort.patients:
        split, fold = splits.of[patient.subject_id]
        placed.append(replace(patient, split=split, fold=fold))
    _check_disjoint(placed)
    return replace(cohort, patients=tuple(placed))


def _check_classes(cohort: Cohort) -> None:
    for name in cohort.spec.outcomes:
        counts = Counter(p.targets[name] for p in cohort.patients if name in p.targets)
        if len(counts) < 2:
            found = "no labels" if not counts else f"{sum(counts.values())} labels of one class"
            raise DataError(
                f"outcome {name!r}: {found}; a model needs both, so check `positive` and who is in the cohort"
            )
        if name in cohort.spec.splits.stratify and min(counts.values()) < cohort.spec.splits.folds:
            raise DataError(
                f"outcome {name!r}: the rarer class has {min(counts.values())} subjects for"
                f" {cohort.spec.splits.folds} folds; lower splits.folds"
            )


def _stratum(cohort: Cohort, patient: Patient) -> tuple[str, ...]:
    words = []
    for word in cohort.spec.splits.stratify:
        if word in cohort.spec.outcomes:
            words.append(f"{patient.targets.get(word, '')}")
        elif word in cohort.spec.images:
            words.append("present" if isinstance(patient.sources[word], SeriesSource) else "absent")
        else:
            words.append(patient.subgroups.get(word, ""))
    return tuple(words)


def _rank(seed: int, subject_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{subject_id}".encode()).digest()


def _check_disjoint(patients: list[Patient]) -> None:
    owner: dict[Path, tuple[str, int]] = {}
    for patient in patients:
        for source in patient.sources.values():
            for file in source.files if isinstance(source, SeriesSource) else ():
                place = (patient.split, patient.fold)
                if owner.setdefault(file, place) != place:
                    raise DataError(
                        "one DICOM file belongs to subjects of two splits or folds; repair the crosswalk"
                    )
