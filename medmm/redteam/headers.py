"""What the DICOM headers say besides the picture: scanner, protocol, size, dates, file. No identifiers.

Every text and number of the standard's acquisition, equipment and image groups is read from one file of
each chosen series. What describes the person (sex, age) serves to find copies and is no predictor here;
what identifies (UIDs, ids, names) is never read, and of the private elements none is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from medmm.dicom import tags
from medmm.dicom.elements import Elements
from medmm.dicom.parse import parse
from medmm.errors import DicomRefusal
from medmm.redteam.columns import Cell, Family

GROUPS = (0x0008, 0x0018, 0x0019, 0x0020, 0x0028, 0x0032, 0x0040, 0x0054, 0x2050)
_TEXT = frozenset({"CS", "LO", "SH", "DS", "IS", "ST", "LT", "AE"})
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_PERSON = ("Patient", "Physician", "Operator", "Requesting", "Referring", "Performing")
_IDENTIFIER = (
    "UID",
    "AccessionNumber",
    "StudyID",
    "Identifier",
    "InstanceNumber",
    "FillerOrder",
    "PlacerOrder",
)
_NOT_ACQUISITION = (
    "Deidentification",
    "SpecificCharacterSet",
    "ImagePositionPatient",
    "SliceLocation",
    "Longitudinal",
)
_SCANNER = (
    "Manufacturer", "Model", "Station", "Software", "Device", "KVP", "Kernel", "Detector", "Filter", "Coil",
    "FieldStrength", "Plate", "Generator", "Grid", "Focal",
)  # fmt: skip
_SIZE = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "Spacing",
    "SliceThickness",
    "FieldOfView",
    "ReconstructionDiameter",
    "AcquisitionMatrix",
)
_SITE = ("Institution", "TimezoneOffset", "Issuer")
_DATES = (tags.STUDY_DATE, tags.SERIES_DATE, tags.ACQUISITION_DATE)
_TIMES = (0x00080030, tags.SERIES_TIME, tags.ACQUISITION_TIME)
_WHO = {"PatientBirthDate": 0x00100030, "PatientSex": 0x00100040, "PatientAge": 0x00101010}
"""Compared between patients to find one person under two ids; never tried as predictors, never shown."""
_LONGEST = 64


def facts_of(path: Path, files: int) -> dict[str, tuple[Family, Cell]]:
    """Return what the header of one file, and the file itself, say: name → (family, value).

    Args:
        path: one file of the series.
        files: how many files the series has.

    Raises:
        DicomRefusal: if the header cannot be read.
    """
    wanted = _wanted()
    parsed = parse(path, frozenset({*wanted, *_WHO.values(), tags.TRANSFER_SYNTAX}))
    elements = parsed.elements
    facts: dict[str, tuple[Family, Cell]] = {}
    for tag, (keyword, vr) in wanted.items():
        cell = _cell(elements, tag, vr)
        if cell is not None:
            facts[keyword] = (_family(keyword), cell)
    facts["files of the series"] = ("size", float(files))
    facts["TransferSyntax"] = ("file", parsed.transfer_syntax)
    facts["bytes of a file"] = ("file", float(path.stat().st_size))
    facts |= {name: ("person", text) for name, tag in _WHO.items() if (text := elements.text(tag)[:_LONGEST])}
    return facts | _clock(elements)


def columns_of(
    series: Sequence[Sequence[Path] | None], *, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, tuple[Family, list[Cell]]], int]:
    """Return the header facts of many patients as columns, and how many headers could not be read.

    Args:
        series: per patient, the files of the chosen series, or None.
        progress: called with (done, total).
    """
    rows: list[Mapping[str, tuple[Family, Cell]]] = []
    unread = 0
    for done, files in enumerate(series):
        try:
            rows.append({} if files is None else facts_of(min(files), len(files)))
        except (DicomRefusal, OSError):
            rows.append({})
            unread += 1
        if progress is not None:
            progress(done + 1, len(series))
    names = sorted({name for row in rows for name in row})
    families = {name: next(row[name][0] for row in rows if name in row) for name in names}
    return {
        name: (families[name], [row[name][1] if name in row else None for row in rows]) for name in names
    }, unread


@cache
def _wanted() -> Mapping[int, tuple[str, str]]:
    """Return the standard's elements that are looked at: tag → (keyword, value representation)."""
    from pydicom.datadict import DicomDictionary

    return (
        {
            tag: (keyword, vr)
            for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
            if tag >> 16 in GROUPS
            and (vr in _TEXT or vr in _BINARY)
            and keyword
            and not any(word in keyword for word in (*_PERSON, *_IDENTIFIER, *_NOT_ACQUISITION))
        }
        | {tag: (f"date {tag:08x}", "DA") for tag in _DATES}
        | {tag: (f"time {tag:08x}", "TM") for tag in _TIMES}
    )


def _cell(elements: Elements, tag: int, vr: str) -> Cell:
    value = elements.values.get(tag, b"")
    if vr in ("DA", "TM") or not value:
        return None
    if vr in _BINARY:
        size = struct.calcsize(_BINARY[vr])
        if len(value) < size:
            return None
        return float(struct.unpack_from((">" if elements.big_endian else "<") + _BINARY[vr], value)[0])
    return elements.text(tag)[:_LONGEST] or None


def _clock(elements: Elements) -> dict[str, tuple[Family, Cell]]:
    """Return year, weekday and hour of the acquisition, where the header says when it was."""
    from datetime import date

    day = next((text for tag in _DATES if (text := elements.text(tag)[:8]).isdigit() and len(text) == 8), "")
    hour = next((text for tag in _TIMES if (text := elements.text(tag)[:2]).isdigit()), "")
    facts: dict[str, tuple[Family, Cell]] = {}
    if day:
        try:
            when = date(int(day[:4]), int(day[4:6]), int(day[6:]))
        except ValueError:
            return facts
        facts["acquisition date"] = ("date", float(when.toordinal()))
        facts["weekday of acquisition"] = ("date", when.strftime("%a"))
    if hour:
        facts["hour of acquisition"] = ("date", float(hour))
    return facts


def _family(keyword: str) -> Family:
    for family, words in (("size", _SIZE), ("site", _SITE), ("scanner", _SCANNER)):
        if any(word in keyword for word in words):
            return family  # type: ignore[return-value]
    return "header"
