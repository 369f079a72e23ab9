"""The image blocks of a draft: what belongs together, what the headers and some loaded series show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmm.cohort.draft.guess import Line, slug
from medmm.cohort.draft.profile import Folder, Survey
from medmm.cohort.draft.sequences import kinds, several
from medmm.cohort.draft.waveforms import Recordings, look
from medmm.cohort.fingerprint import Progress, measured, spread_evenly
from medmm.dicom.waveform import WAVEFORMS
from medmm.planning.fingerprint import ImagePrint, image_print

if TYPE_CHECKING:
    from medmm.columns import VolumeElement
    from medmm.dicom.index import SeriesEntry

FRAMES = 4
"""Of a loop, frames that are drafted."""
MOST_PICTURES = 16
"""Places of a bag that are drafted at most."""
FEW = 5
"""Series of a block that are asked whether they hold several volumes."""


@dataclass(frozen=True, slots=True)
class Block:
    """One image block.

    Attributes:
        modality: DICOM's; "" for radiographs of any kind.
        description: the regular expression that its series' descriptions fit; "" where all are meant.
        image: what was measured of some series.
        recordings: what was seen of waveforms; None of images.
        volume: of series of several volumes, the one that is proposed.
        volumes: what tells these volumes apart, and its values.
    """

    name: str
    folder: Folder
    modality: str
    entries: Sequence[SeriesEntry]
    image: ImagePrint
    description: str = ""
    recordings: Recordings | None = None
    volume: Mapping[VolumeElement, float | str] = field(default_factory=dict)
    volumes: Sequence[float | str] = ()

    @property
    def pictures(self) -> dict[str, int]:
        """The places of a bag, and frames of a loop: nine of ten studies have no more; {} for one image."""
        if self.image.aspect is None or self.image.kind != "intensity":
            return {}
        studies = Counter[str]()
        for entry in self.entries:
            studies[entry.study_uid] += len(entry.files)
        counts = sorted(studies.values())
        most = counts[9 * (len(counts) - 1) // 10]
        if 2 * sum(entry.frames > len(entry.files) for entry in self.entries) > len(self.entries):
            return {"frames": FRAMES, "images": min(FRAMES * most, MOST_PICTURES)}
        return {"images": min(most, MOST_PICTURES)} if counts[len(counts) // 2] > 1 else {}


def image_block(block: Block, *, dated: bool) -> Line:
    """Draft one block.

    Where most studies have several 2-D images, all of them are taken: views, or sides.
    """
    value: dict[str, Any] = {"dir": block.folder.name, "match": "PatientID"}
    value |= {"modality": block.modality} if block.modality else {}
    value |= {"description": block.description} if block.description else {}
    questions = []
    if block.volume:
        (element, _), *_ = block.volume.items()
        value["volume"] = dict(block.volume)
        told = ", ".join(one if isinstance(one, str) else f"{one:g}" for one in block.volumes)
        questions.append(f"a series holds volumes of {element} {told}; which one is meant?")
    value["choose"] = "all" if block.pictures else "nearest"
    if not block.pictures and (asked := several(block.entries)):
        questions.append(asked)
    value |= _dates(block.entries, questions, dated=dated)
    burned = sum(entry.burned_in.upper() == "YES" for entry in block.entries)
    if burned:
        questions.append(f"{burned} series say that text is burned in; allow_burned_in?")
    value |= _kind(block, questions)
    value["required"] = False
    return Line(value, "; ".join(questions))


def _dates(entries: Sequence[SeriesEntry], questions: list[str], *, dated: bool) -> dict[str, Any]:
    """Return where the time of a series stands; ask about series without one."""
    offsets = sum(entry.longitudinal_offset_days is not None for entry in entries)
    when = sum(
        bool(entry.study_date or entry.series_datetime or entry.acquisition_datetime) for entry in entries
    )
    if not dated:
        when = offsets
    if when < len(entries):
        questions.append(
            f"{len(entries) - when} of {len(entries)} series have no usable date; if acquired in time,"
            " undated: {assume_known: why}"
        )
    return {"time": "longitudinal_offset"} if offsets and not dated else {}


def _kind(block: Block, questions: list[str]) -> dict[str, Any]:
    if not (block.recordings.seen if block.recordings else block.image.series):
        questions.append("no series of a few loads; `medmm dicom inspect` says why")
    if block.image.kind == "intensity":
        return {"kind": "intensity"}
    questions.append("few different values: is it a label map, and are these all its labels?")
    return {"kind": "label_map", "labels": list(block.image.labels)}


def image_blocks(survey: Survey, *, progress: Progress | None = None) -> tuple[Block, ...]:
    """Return every image block of a survey, some of its series measured.

    Args:
        progress: called with (done, total) series of a block.
    """
    return tuple(_measured(survey, *found, progress) for found in _divided(survey))


_Found = tuple[str, Folder, str, str, Sequence["SeriesEntry"]]
"""Name, folder, modality, description and series."""


def _divided(survey: Survey) -> Iterator[_Found]:
    """Yield what is a block of its own: a modality of a folder, of MR a sequence."""
    for folder in survey.folders:
        for modality, entries in folder.by_modality().items():
            sequences = kinds(entries) if modality == "MR" else {}
            parts = sequences or {slug(modality or "radiograph").lower(): ("", entries)}
            for name, (description, own) in parts.items():
                named = name if len(survey.folders) == 1 else slug(f"{folder.name}_{name}")
                yield named, folder, modality, description, own


def _measured(
    survey: Survey,
    name: str,
    folder: Folder,
    modality: str,
    description: str,
    entries: Sequence[SeriesEntry],
    progress: Progress | None,
) -> Block:
    files = [[folder.index.root / file for file in entry.files] for entry in entries]
    patients = len({entry.patient_id for entry in entries} & survey.subjects)
    if modality in WAVEFORMS:
        nothing = image_print([], patients=patients)
        recordings = look(files, progress=progress)
        return Block(name, folder, modality, entries, nothing, description, recordings)
    volume, volumes = _volume(files)
    image = image_print(measured(files, volume=volume, progress=progress), patients=patients)
    return Block(name, folder, modality, entries, image, description, None, volume, volumes)


def _volume(
    series: Sequence[Sequence[Path]],
) -> tuple[dict[VolumeElement, float | str], Sequence[float | str]]:
    """Propose a volume where the most of a few series hold several: the highest b-value, else the first.

    Returns:
        The element and its value, and the values that these series have in common; empty where most hold
        one volume.
    """
    from medmm.dicom.wanted import volumes_of

    looked = spread_evenly(series, FEW)
    found = [choices for files in looked if (choices := volumes_of(files))]
    if 2 * len(found) <= len(looked):
        return {}, ()
    for element in found[0]:
        if all(element in choices for choices in found):
            common = [value for value in found[0][element] if all(value in other[element] for other in found)]
            if common:
                value = common[-1] if element == "DiffusionBValue" else common[0]
                return {element: value}, common
    return {}, ()
