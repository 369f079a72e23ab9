"""An image block from what the headers and some loaded series show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medmm.cohort.draft.guess import Line, slug
from medmm.cohort.draft.profile import Folder, Survey
from medmm.cohort.fingerprint import Progress, measured
from medmm.planning.fingerprint import ImagePrint, image_print

if TYPE_CHECKING:
    from medmm.dicom.index import SeriesEntry


FRAMES = 4
"""Of a loop, frames that are drafted."""
MOST_PICTURES = 16
"""Places of a bag that are drafted at most."""


def image_block(
    folder: Folder, modality: str, entries: Sequence[SeriesEntry], image: ImagePrint, *, dated: bool
) -> Line:
    """Draft the block of one modality of one folder.

    Where most studies have several 2-D images, all of them are taken: views, or sides.
    """
    value: dict[str, Any] = {"dir": folder.name, "match": "PatientID"}
    if modality:
        value["modality"] = modality
    value["choose"] = "all" if _pictures(entries, image) else "nearest"
    questions = []
    offsets = sum(entry.longitudinal_offset_days is not None for entry in entries)
    when = sum(
        bool(entry.study_date or entry.series_datetime or entry.acquisition_datetime) for entry in entries
    )
    if not dated and offsets:
        value["time"] = "longitudinal_offset"
        when = offsets
    elif not dated:
        when = 0
    if when < len(entries):
        questions.append(
            f"{len(entries) - when} of {len(entries)} series have no usable date; if acquired in time,"
            " undated: {assume_known: why}"
        )
    burned = sum(entry.burned_in.upper() == "YES" for entry in entries)
    if burned:
        questions.append(f"{burned} series say that text is burned in; allow_burned_in?")
    value |= _kind(image, questions)
    value["required"] = False
    return Line(value, "; ".join(questions))


def pictures(survey: Survey, prints: Mapping[str, ImagePrint]) -> dict[str, dict[str, int]]:
    """Return the places of a bag, and frames of a loop, of the blocks whose studies have several pictures."""
    found = {name: _pictures(entries, prints[name]) for name, _, _, entries in blocks(survey)}
    return {name: places for name, places in found.items() if places}


def _pictures(entries: Sequence[SeriesEntry], image: ImagePrint) -> dict[str, int]:
    """Return how many 2-D images, or loops, nine of ten studies have at most; {} where one image is usual."""
    if image.aspect is None or image.kind != "intensity":
        return {}
    studies = Counter[str]()
    for entry in entries:
        studies[entry.study_uid] += len(entry.files)
    counts = sorted(studies.values())
    most = counts[9 * (len(counts) - 1) // 10]
    if 2 * sum(entry.frames > len(entry.files) for entry in entries) > len(entries):
        return {"frames": FRAMES, "images": min(FRAMES * most, MOST_PICTURES)}
    return {"images": min(most, MOST_PICTURES)} if counts[len(counts) // 2] > 1 else {}


def measure_images(survey: Survey, *, progress: Progress | None = None) -> dict[str, ImagePrint]:
    """Measure some series of every image block and return what they say, by block.

    Args:
        progress: called with (done, total) series of a block.
    """
    prints = {}
    for name, folder, _, entries in blocks(survey):
        files = [[folder.index.root / file for file in entry.files] for entry in entries]
        patients = {entry.patient_id for entry in entries} & survey.subjects
        prints[name] = image_print(measured(files, progress=progress), patients=len(patients))
    return prints


def blocks(survey: Survey) -> Iterator[tuple[str, Folder, str, list[SeriesEntry]]]:
    """Yield the image blocks of a survey: name, folder, modality and series."""
    for folder in survey.folders:
        for modality, entries in folder.by_modality().items():
            name = slug(modality or "radiograph").lower()
            yield (
                name if len(survey.folders) == 1 else slug(f"{folder.name}_{name}"),
                folder,
                modality,
                entries,
            )


def _kind(image: ImagePrint, questions: list[str]) -> dict[str, Any]:
    if not image.series:
        questions.append("no series of a few loads; `medmm dicom inspect` says why")
    if image.kind == "intensity":
        return {"kind": "intensity"}
    questions.append("few different values: is it a label map, and are these all its labels?")
    return {"kind": "label_map", "labels": list(image.labels)}
