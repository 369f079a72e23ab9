"""Who was held out when a bundle was trained; every look at them is counted before it is taken."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from medmm.bundle import Bundle
from medmm.cohort.link import Cohort
from medmm.cohort.split import divide, load_splits
from medmm.cohort.wholes import HELD_OUT
from medmm.errors import DataError, OutputError
from medmm.sample import Patient

CLAIM = 50
"""Events below which a held-out figure is an indication, not a claim."""


def open_held_out(bundle: Bundle, cohort: Cohort) -> tuple[list[Patient], int]:
    """Return the held-out patients with a known label of some outcome, and which opening of them this is.

    Who was held out is read from the run that trained the bundle; patients who came since then are on
    neither side. Without the run, the cohort must be the very one that was trained on.

    Raises:
        DataError: if nobody was held out, or it cannot be known any more who was.
        OutputError: if the opening cannot be noted beside the bundle.
    """
    outcomes = [task.name for task in bundle.tasks]
    sides = _sides(bundle, cohort)
    patients = [
        patient
        for patient in cohort.patients
        if sides.get(patient.subject_id) == HELD_OUT and any(name in patient.targets for name in outcomes)
    ]
    if not patients:
        raise DataError(
            f"cohort {cohort.spec.name} held nobody out (splits.held_out in cohort.yaml); the honest figures "
            "are the out-of-fold ones: `medmm explain … --folds`"
        )
    return patients, _count(bundle)


def _sides(bundle: Bundle, cohort: Cohort) -> dict[str, str]:
    file = bundle.folder.parent / "splits.json"
    if file.is_file():
        return {subject: side for subject, (side, _) in load_splits(file).of.items()}
    if cohort.digest != bundle.description.cohort_digest:
        raise DataError(
            f"cohort {cohort.spec.name} is not as it was when the bundle was trained, and the run's "
            "splits.json is not beside the bundle: nobody can tell who was held out"
        )
    return {subject: side for subject, (side, _) in divide(cohort).of.items()}


def _count(bundle: Bundle) -> int:
    """Note this opening beside the bundle, whose own bytes never change, and return which one it is."""
    file: Path = bundle.folder.with_name("openings.jsonl")
    line = {"bundle": bundle.sha256, "opened": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        with file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return sum(bundle.sha256 in line for line in file.read_text().splitlines())
    except OSError as error:
        raise OutputError(
            f"the opening of the held-out patients cannot be counted in {file.parent}: {error.strerror}"
        ) from error
