"""An image block from what the headers and one loaded series show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medmm.cohort.draft.guess import Line
from medmm.cohort.draft.profile import Folder
from medmm.errors import DicomRefusal

if TYPE_CHECKING:
    from medmm.dicom.index import SeriesEntry
    from medmm.dicom.volume import Volume

FEW_VALUES = 12
"""An image of no more different values than this is a label map, not a measurement."""
MAX_SIDE = 64
"""A first recipe sees no more voxels per axis: enough to train on a workstation."""
CT_WINDOW = [-1000, 1000]


def image_block(folder: Folder, modality: str, entries: Sequence[SeriesEntry], *, dated: bool) -> Line:
    """Draft the block of one modality of one folder."""
    value: dict[str, Any] = {"dir": folder.name, "match": "PatientID"}
    if modality:
        value["modality"] = modality
    value["choose"] = "nearest"
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
    value |= _kind(folder, entries, questions)
    value["required"] = False
    return Line(value, "; ".join(questions))


def recipe_block(folder: Folder, entries: Sequence[SeriesEntry]) -> dict[str, Any]:
    """Draft the modality's block of a recipe: no more than :data:`MAX_SIDE` voxels per axis."""
    volume = _sample(folder, entries)
    if volume is None:
        return {"kind": "image", "shape": [MAX_SIDE, MAX_SIDE]}
    sides = volume.array.shape[: volume.valid.ndim]
    block: dict[str, Any] = {"kind": "image", "shape": [min(MAX_SIDE, 8 * math.ceil(s / 8)) for s in sides]}
    if volume.spacing_mm is not None and len(sides) == 3:
        shrink = [max(1.0, side / MAX_SIDE) for side in sides]
        block["spacing_mm"] = [round(mm * f, 2) for mm, f in zip(volume.spacing_mm, shrink, strict=True)]
    else:
        block["spacing_mm"] = "fit"
    if entries[0].modality == "CT" and np.unique(volume.array).size > FEW_VALUES:
        block["window"] = CT_WINDOW
    return block


def _kind(folder: Folder, entries: Sequence[SeriesEntry], questions: list[str]) -> dict[str, Any]:
    volume = _sample(folder, entries)
    if volume is None:
        questions.append("the first series does not load; `medmm dicom inspect` says why")
        return {"kind": "intensity"}
    values = np.unique(volume.array)
    if values.size > FEW_VALUES:
        return {"kind": "intensity"}
    labels = [int(value) for value in values if value != 0 and float(value).is_integer()]
    questions.append("few different values: is it a label map, and are these all its labels?")
    return {"kind": "label_map", "labels": labels} if labels else {"kind": "intensity"}


def _sample(folder: Folder, entries: Sequence[SeriesEntry]) -> Volume | None:
    from medmm.dicom.loading import load_files

    entry = max(entries, key=lambda found: (len(found.files), found.series_uid))
    try:
        return load_files([folder.index.root / name for name in entry.files])
    except DicomRefusal:
        return None
