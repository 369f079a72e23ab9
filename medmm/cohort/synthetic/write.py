"""Writing the synthetic cohort to a folder: DICOM files, tables, cohort.yaml and the truth."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from medmm.cohort.synthetic import disposition, phantoms, studies
from medmm.cohort.synthetic.disposition import dispositions
from medmm.cohort.synthetic.studies import Study
from medmm.cohort.synthetic.subjects import (
    MISSING_SLICE,
    PLANTED,
    STANDARDISED,
    TWO_STUDIES,
    Subject,
    limits,
    subjects,
)
from medmm.cohort.synthetic.tables import tables
from medmm.errors import UNUSABLE_PATH, ConfigError, OutputError, told

FEWEST = 40
"""Below this, a fold of three may hold one class only, and the special patients crowd out the others."""
MOST = 100_000

_VERSION = 2
"""Raise it whenever the bytes written for a seed change."""
_LOST_SLICE = 8


def synthesize(
    out: Path, *, patients: int = 240, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a synthetic cohort into a new folder; the bytes depend on ``patients`` and ``seed`` alone.

    The folder holds ``dicom/``, ``records.csv``, ``biomarkers.csv``, ``notes.csv``, ``labels.csv``,
    ``followup.csv``, ``disposition.csv``, ``cohort.yaml`` and ``truth.json``. It appears complete or not at
    all. A folder that already holds this very cohort is left as it is.

    Args:
        out: where; must not exist, be empty, or hold the same cohort.
        patients: how many people the records list, at least 40.
        seed: every random stream derives from it.
        progress: called with (patients written, patients).

    Returns:
        The folder.

    Raises:
        ConfigError: if the number of patients is out of range.
        OutputError: if the folder holds something else or cannot be written.
    """
    if not FEWEST <= patients <= MOST or seed < 0:
        raise ConfigError(
            f"a synthetic cohort has {FEWEST} to {MOST} patients and a seed of 0 or more,"
            f" not {patients} patients with seed {seed}"
        )
    try:
        out = Path(out).resolve()
    except UNUSABLE_PATH as error:
        raise OutputError(f"no cohort can be written there ({told(error)}); choose a new folder") from None
    made = {"generator": _VERSION, "patients": patients, "seed": seed}
    if _holds(out, made):
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".synthetic-") as scratch:
            folder = Path(scratch) / "cohort"
            _write(folder, subjects(patients, seed), made, progress)
            folder.replace(out)
    except OSError as error:
        raise OutputError(
            f"cannot write the synthetic cohort to {out}: {error.strerror}; choose a new or empty folder"
        ) from None
    return out


def _holds(out: Path, made: Mapping[str, int]) -> bool:
    """Return whether ``out`` already is this cohort.

    Raises:
        OutputError: if it is anything else that writing would destroy.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise OutputError(f"cannot write the synthetic cohort to {out}: it is a file; choose a new folder")
    if _made(out) == made:
        return True
    if any(out.iterdir()):
        raise OutputError(f"{out} is not empty and holds another cohort or other files; choose a new folder")
    return False


def _made(out: Path) -> object:
    """Return what the truth beside a cohort says of how it was made; None where none is to be read."""
    try:
        return json.loads((out / "truth.json").read_text())["made"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(
    folder: Path,
    people: Sequence[Subject],
    made: Mapping[str, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    archive = folder / "dicom"
    archive.mkdir(parents=True)
    shown = {}
    for done, subject in enumerate(people, 1):
        shown[subject.subject_id] = _studies(archive, subject)
        if progress is not None:
            progress(done, len(people))
    _strays(archive, people[0])
    for name, content in tables(people, made["seed"]).items():
        (folder / name).write_bytes(content)
    (folder / "disposition.csv").write_bytes(dispositions(people))
    (folder / "cohort.yaml").write_bytes(declaration())
    (folder / "truth.json").write_text(json.dumps(_truth(people, shown, made), indent=1) + "\n")


def declaration() -> bytes:
    """Return the cohort.yaml of every synthetic cohort."""
    return files(__package__).joinpath("cohort.yaml").read_bytes()


def _studies(archive: Path, subject: Subject) -> dict[str, Any]:
    """Write the studies of one subject; return what each image block shows at the prediction time."""
    shown: dict[str, Any] = {}
    if "ct" in subject.imaged:
        shown["ct"] = _ct(archive, subject)
    elif subject.position % 5 == 3:
        _later_ct(archive, subject, subject.stream("later ct"))
    if "radiograph" in subject.imaged:
        shown["radiograph"] = _radiograph(archive, subject)
    return shown


def _ct(archive: Path, subject: Subject) -> dict[str, Any]:
    rng = subject.stream("ct")
    radius_mm = subject.radius_mm["ct"]
    place = phantoms.place_in_ct(rng, radius_mm)
    index = Study(subject, "ct", studies.taken(subject, hours=rng.uniform(-6, -0.5)))
    lost = _LOST_SLICE if subject.position == MISSING_SLICE else None
    _write_ct(archive, index, place, localizer=subject.position % 9 == 4, without=lost)
    if subject.position == TWO_STUDIES or rng.random() < 0.06:
        before = phantoms.Finding(place.centre_mm, round(radius_mm / 2, 1))
        _write_ct(
            archive,
            Study(subject, "earlier ct", studies.taken(subject, hours=rng.uniform(-4000, -200))),
            before,
        )
    if rng.random() < 0.08:
        _later_ct(archive, subject, rng)
    return {"usable": lost is None, "findings": [_in_ras(place)] if radius_mm else []}


def _later_ct(archive: Path, subject: Subject, rng: np.random.Generator) -> None:
    """Write a CT from after the prediction time, whose finding tells the outcome."""
    place = phantoms.place_in_ct(rng, 36.0 if subject.labels["deterioration"] else 0.0)
    when = studies.taken(subject, hours=rng.uniform(5, 90))
    _write_ct(archive, Study(subject, "later ct", when), place)


def _write_ct(
    archive: Path,
    study: Study,
    finding: phantoms.Finding,
    *,
    localizer: bool = False,
    without: int | None = None,
) -> None:
    rng = study.subject.stream(study.name + " pixels")
    volume = phantoms.chest_ct(rng, finding if finding.radius_mm else None)
    for instance, syntax in studies.ct_files(study, volume, localizer=localizer, without=without):
        studies.write(instance, syntax, study.path(archive, instance.SOPInstanceUID))


def _in_ras(finding: phantoms.Finding) -> dict[str, Any]:
    """Return where a finding lies: mm in RAS+, and the voxel of the RAS+ array ``[x, y, z]``."""
    origin = studies.ct_origin_mm()
    steps = phantoms.CT_SPACING_MM[::-1]
    counts = phantoms.CT_SHAPE[::-1]
    indices = [
        offset / step + (count - 1) / 2
        for offset, step, count in zip(finding.centre_mm, steps, counts, strict=True)
    ]
    x, y, z = (start + index * step for start, index, step in zip(origin, indices, steps, strict=True))
    i, j, k = indices
    return {
        "centre_ras_mm": [round(-x, 3), round(-y, 3), round(z, 3)],
        "centre_voxel": [round(counts[0] - 1 - i, 3), round(counts[1] - 1 - j, 3), round(k, 3)],
        "radius_mm": finding.radius_mm,
    }


def _radiograph(archive: Path, subject: Subject) -> dict[str, Any]:
    rng = subject.stream("radiograph")
    radius_mm = subject.radius_mm["radiograph"]
    place = phantoms.place_in_radiograph(rng, radius_mm)
    index = Study(subject, "radiograph", studies.taken(subject, hours=rng.uniform(-20, -0.3)))
    _write_radiograph(archive, index, place)
    if rng.random() < 0.15:
        after = phantoms.Finding(place.centre_mm, 38.0 if subject.labels["pneumonia"] else 0.0)
        later = Study(subject, "radiograph later", studies.taken(subject, hours=rng.uniform(4, 60)))
        _write_radiograph(archive, later, after)
    return {"usable": True, "findings": [_in_pixels(place)] if radius_mm else []}


def _write_radiograph(archive: Path, study: Study, finding: phantoms.Finding) -> None:
    rng = study.subject.stream(study.name + " pixels")
    image = phantoms.chest_radiograph(rng, finding if finding.radius_mm else None)
    instance, syntax = studies.radiograph_file(study, image)
    studies.write(instance, syntax, study.path(archive, instance.SOPInstanceUID))


def _in_pixels(finding: phantoms.Finding) -> dict[str, Any]:
    """Return where a finding lies in the array ``[row, column]``, in pixels and in mm from the first."""
    indices = [
        offset / step + (count - 1) / 2
        for offset, step, count in zip(
            finding.centre_mm, phantoms.RADIOGRAPH_SPACING_MM, phantoms.RADIOGRAPH_SHAPE, strict=True
        )
    ]
    mm = [index * step for index, step in zip(indices, phantoms.RADIOGRAPH_SPACING_MM, strict=True)]
    return {
        "centre_pixel": [round(index, 3) for index in indices],
        "centre_mm": [round(value, 3) for value in mm],
        "radius_mm": finding.radius_mm,
    }


def _strays(archive: Path, subject: Subject) -> None:
    """Write what every archive has: a file that is no DICOM, and a study of somebody not in the records."""
    (archive / "export.log").write_text("export finished\n")
    rng = subject.stream("stray")
    study = Study(subject, "stray radiograph", subject.assessed_at)
    instance, syntax = studies.radiograph_file(study, phantoms.chest_radiograph(rng, None))
    instance.PatientID = "X00002"
    studies.write(instance, syntax, study.path(archive, instance.SOPInstanceUID))


def _truth(people: Sequence[Subject], shown: Mapping[str, Any], made: Mapping[str, int]) -> dict[str, Any]:
    best = limits(made["seed"])
    return {
        "made": dict(made),
        "outcomes": {
            name: {
                "image": planted.image,
                "intercept": planted.intercept,
                "log_odds_per_10_mm_radius": planted.finding,
                "log_odds_per_standardised_field": dict(planted.fields),
                "limit_auroc": best[name],
            }
            for name, planted in PLANTED.items()
        },
        "disposition": disposition.truth(),
        "standardised": dict(STANDARDISED),
        "subjects": {subject.subject_id: dict(_true(subject, shown)) for subject in people},
    }


def _true(subject: Subject, shown: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "images", shown[subject.subject_id]
    yield "fields", dict(subject.fields)
    shares = {name: round(share, 6) for name, share in disposition.probabilities(subject).items()}
    yield "disposition", {"label": disposition.disposition(subject), "probabilities": shares}
    for outcome, (image, from_tables) in subject.parts.items():
        yield (
            outcome,
            {
                "label": subject.labels[outcome],
                "logit": round(subject.logit(outcome), 6),
                "from_image": round(image, 6),
                "from_tables": round(from_tables, 6),
            },
        )
