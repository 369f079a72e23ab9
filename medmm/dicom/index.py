"""The index of a DICOM folder: every file once, every series once, nothing decoded."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from medmm.dicom import tags
from medmm.dicom.elements import Elements
from medmm.dicom.header import Header, kind_of, mask_kind
from medmm.dicom.parse import parse
from medmm.dicom.references import MaskReference, reference_of
from medmm.dicom.walk import UNREADABLE, walk
from medmm.errors import DicomRefusal, OutputError

CACHE_VERSION = 5
PROGRESS_EVERY = 200
"""Files between two calls of ``progress``."""

Progress = Callable[[int, int], None]
_Common = tuple[Any, ...]
_Facts = tuple[_Common, str]
"""What the index keeps of a file: what the files of a series share, stored once, and when it was acquired."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file on disk and what became of it.

    Attributes:
        path: relative to the scanned root, as stored, with forward slashes.
        size: bytes.
        mtime_ns: modification time in nanoseconds.
        status: "series", "set_aside" or "refused".
        reason: reason code when not "series" ("not_dicom", "unsupported_sop", …).
    """

    path: str
    size: int
    mtime_ns: int
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """One SeriesInstanceUID of one study and one patient, as its headers describe it.

    Attributes:
        orientation: the six direction cosines of ImageOrientationPatient, or ().
        burned_in: "YES" where any file says so, else "NO" or "".
        study_date: DICOM text "YYYYMMDD" or ""; this and every time below is the latest of the files: a
            series is not known before its last image is.
        series_datetime: DICOM text "YYYYMMDD[HHMMSS.FFFFFF]" or "".
        acquisition_datetime: as ``series_datetime``.
        longitudinal_offset_days: LongitudinalTemporalOffsetFromEvent (0012,0052).
        longitudinal_event: LongitudinalTemporalEventType (0012,0053).
        files: paths relative to the scanned root, sorted.
        patient_ids: every PatientID seen under this UID; a series with more than one does not load.
        timezone_offset: TimezoneOffsetFromUTC (0008,0201), "&ZZXX" of every time above that has none of its
            own, or "" (PS3.3 C.12.1.1.8).
        frames: how many frames all files hold; a file that states no number holds one.
    """

    patient_id: str
    issuer: str
    study_uid: str
    series_uid: str
    modality: str
    sop_class: str
    body_part: str
    description: str
    image_type: tuple[str, ...]
    burned_in: str
    rows: int
    columns: int
    thickness_mm: float | None
    orientation: tuple[float, ...]
    study_date: str
    series_datetime: str
    acquisition_datetime: str
    longitudinal_offset_days: float | None
    longitudinal_event: str
    files: tuple[str, ...]
    patient_ids: tuple[str, ...]
    timezone_offset: str = ""
    frames: int = 1


@dataclass(frozen=True, slots=True)
class MaskEntry:
    """One segmentation or structure set; its file is set aside, because it is no image.

    Attributes:
        path: relative to the scanned root.
        reference: its kind, what it was drawn on and its structures.
        drawn_datetime: DICOM text; StructureSetDate, ContentDate or SeriesDate with its time, or "".
        sop_uid: SOPInstanceUID.
        timezone_offset: as of a series.
    """

    patient_id: str
    issuer: str
    study_uid: str
    path: str
    reference: MaskReference
    drawn_datetime: str = ""
    sop_uid: str = ""
    timezone_offset: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """What a scan found.

    Attributes:
        root: the folder that was scanned, resolved.
        files: every file on disk, once, sorted by path.
        series: sorted by (patient_id, study_uid, series_uid).
        opened: files whose header was read in this scan; unchanged ones are not.
        masks: segmentations and structure sets, sorted by path.
    """

    root: Path
    files: tuple[FileEntry, ...]
    series: tuple[SeriesEntry, ...]
    opened: int
    masks: tuple[MaskEntry, ...] = ()

    def of_patient(self, patient_id: str) -> tuple[SeriesEntry, ...]:
        """Return the series under which a PatientID was seen."""
        return tuple(entry for entry in self.series if patient_id in entry.patient_ids)

    def masks_of(self, series: SeriesEntry) -> tuple[MaskEntry, ...]:
        """Return the masks that name a series as what they were drawn on, of the same patient."""
        owner = (series.patient_id, series.issuer)
        return tuple(
            mask
            for mask in self.masks
            if series.series_uid in mask.reference.series_uids and (mask.patient_id, mask.issuer) == owner
        )


def scan(root: Path, *, cache: Path | None = None, progress: Progress | None = None) -> Index:
    """Index a folder: read the header of every file that is new or has changed, decode no pixel.

    Args:
        root: the folder; links inside it that lead out of it are set aside, never followed.
        cache: one file (JSON, mode 0600: it holds patient ids) that makes the next scan incremental.
        progress: called with (files done, files in all).

    Raises:
        DicomRefusal: ``no_dicom`` when there is no such folder, or it cannot be read.
        OutputError: when the cache cannot be written.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise DicomRefusal("no_dicom", "there is no such folder")
    known = _read_cache(cache, root)
    files: list[FileEntry] = []
    facts: list[_Facts | None] = []
    shared: dict[_Common, _Common] = {}
    opened = 0
    found = sorted(walk(root), reverse=True)
    total = len(found)
    while found:
        path, size, mtime_ns, unread = found.pop()
        old = known.get(path)
        if unread:
            entry, fact = FileEntry(path, size, mtime_ns, *unread), None
        elif old is not None and _same(old[0], size, mtime_ns):
            entry, fact = old
        else:
            opened += 1
            entry, fact = _examined(root, path, size, mtime_ns)
        files.append(entry)
        facts.append(fact and (shared.setdefault(fact[0], fact[0]), fact[1]))
        if progress is not None and (len(files) % PROGRESS_EVERY == 1 or not found):
            progress(len(files) if not found else len(files) - 1, total)
    if progress is not None and not total:
        progress(0, 0)
    if cache is not None and (opened or len(known) != total):
        _write_cache(cache, root, files, facts)
    pairs = zip(files, facts, strict=True)
    masks = [_mask(entry.path, fact) for entry, fact in pairs if fact and entry.status == "set_aside"]
    return Index(root, tuple(files), tuple(_series(files, facts)), opened, tuple(masks))


def _same(old: FileEntry, size: int, mtime_ns: int) -> bool:
    """Whether a file is as it was; one that could not be read may be readable now, and does not show it."""
    return (old.size, old.mtime_ns) == (size, mtime_ns) and (old.status, old.reason) != UNREADABLE


def _examined(root: Path, path: str, size: int, mtime_ns: int) -> tuple[FileEntry, _Facts | None]:
    """Read one header; return what becomes of the file and what its series needs to know."""
    place = root / path
    try:
        header = Header(place, parse(place, tags.INDEXED, first_items=_FIRST_ONLY))
        kind = kind_of(header)
        if kind not in ("image", "waveform"):
            aside = FileEntry(path, size, mtime_ns, "set_aside", kind)
            return aside, _mask_facts(header) if mask_kind(header) else None
        if not header.text(tags.SERIES_INSTANCE) or not header.text(tags.STUDY_INSTANCE):
            raise DicomRefusal("missing_tags", "no StudyInstanceUID or SeriesInstanceUID")
        facts = _facts(header)
    except DicomRefusal as refusal:
        if not os.access(place, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            return FileEntry(path, size, mtime_ns, *UNREADABLE), None
        status = "set_aside" if refusal.reason == "not_dicom" else "refused"
        return FileEntry(path, size, mtime_ns, status, refusal.reason), None
    return FileEntry(path, size, mtime_ns, "series", ""), facts


_FIRST_ONLY = {tags.PER_FRAME_GROUPS: 1}
"""Of the functional groups the index needs the first frame's only."""


def _facts(header: Header) -> _Facts:
    """Return what the index keeps of one file, in the order of :func:`_entry`."""
    elements = header.elements
    patient_id, issuer = header.patient
    per_frame = elements.first(tags.PER_FRAME_GROUPS) or Elements()
    shared = elements.first(tags.SHARED_GROUPS) or Elements()
    measures = per_frame.first(tags.PIXEL_MEASURES) or shared.first(tags.PIXEL_MEASURES) or elements
    plane = per_frame.first(tags.PLANE_ORIENTATION) or shared.first(tags.PLANE_ORIENTATION) or elements
    acquired = elements.text(tags.ACQUISITION_DATETIME) or _datetime(
        elements, tags.ACQUISITION_DATE, tags.ACQUISITION_TIME
    )
    common = (
        (elements.text(tags.STUDY_INSTANCE), elements.text(tags.SERIES_INSTANCE)),
        (patient_id, issuer),
        elements.text(tags.MODALITY),
        header.sop_class,
        elements.text(tags.BODY_PART),
        header.label(tags.SERIES_DESCRIPTION),
        elements.texts(tags.IMAGE_TYPE),
        elements.text(tags.BURNED_IN),
        elements.integer(tags.ROWS) or 0,
        elements.integer(tags.COLUMNS) or 0,
        _finite(measures.numbers(tags.SLICE_THICKNESS)[:1]),
        _finite(plane.numbers(tags.IMAGE_ORIENTATION)),
        elements.text(tags.STUDY_DATE),
        _datetime(elements, tags.SERIES_DATE, tags.SERIES_TIME),
        _finite(elements.numbers(tags.LONGITUDINAL_OFFSET)[:1]),
        elements.text(tags.LONGITUDINAL_EVENT),
        elements.text(tags.TIMEZONE_OFFSET),
        elements.integer(tags.NUMBER_OF_FRAMES) or 1,
    )
    return common, acquired


def _mask_facts(header: Header) -> _Facts:
    """Return what the index keeps of a mask, in the order of :func:`_mask`."""
    found = reference_of(header)
    drawn = (found.kind, found.frames_of_reference, found.series_uids, found.structures)
    elements = header.elements
    stated = (
        (tags.STRUCTURE_SET_DATE, tags.STRUCTURE_SET_TIME),
        (tags.CONTENT_DATE, tags.CONTENT_TIME),
        (tags.SERIES_DATE, tags.SERIES_TIME),
    )
    when = next(filter(None, (_datetime(elements, date, time) for date, time in stated)), "")
    own = (elements.text(tags.SOP_INSTANCE), elements.text(tags.TIMEZONE_OFFSET))
    return (header.patient, header.text(tags.STUDY_INSTANCE), drawn, own), when


def _mask(path: str, facts: _Facts) -> MaskEntry:
    ((patient_id, issuer), study, drawn, (sop_uid, zone)), when = facts
    return MaskEntry(patient_id, issuer, study, path, MaskReference(*drawn), when, sop_uid, zone)


def _datetime(elements: Elements, date: int, time: int) -> str:
    """Return date and time as one DICOM text; a time without a date says nothing."""
    day = elements.text(date)
    return day + elements.text(time) if day else ""


def _finite(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(number, 6) for number in numbers) if all(map(math.isfinite, numbers)) else ()


def _series(files: list[FileEntry], facts: list[_Facts | None]) -> list[SeriesEntry]:
    """Return the series that the files make up, sorted."""
    members: dict[tuple[str, str], list[tuple[str, _Facts]]] = defaultdict(list)
    for entry, fact in zip(files, facts, strict=True):
        if fact is not None and entry.status == "series":
            members[fact[0][0]].append((entry.path, fact))
    series = [_entry(uids, files_of) for uids, files_of in members.items()]
    return sorted(series, key=lambda entry: (entry.patient_id, entry.study_uid, entry.series_uid))


def _entry(uids: tuple[str, str], members: list[tuple[str, _Facts]]) -> SeriesEntry:
    """Return one series; where its files disagree, most of them speak, so that file order does not.

    A localizer among other images speaks for none of them: it is set aside when the series is loaded.
    """
    counts = Counter(common for _, (common, _) in members)
    images = [common for common in counts if "LOCALIZER" not in common[6]] or list(counts)
    first = min(images, key=lambda common: (-counts[common], common))
    patients = sorted({common[1] for common in counts})
    return SeriesEntry(
        patient_id=patients[0][0],
        issuer=patients[0][1],
        study_uid=uids[0],
        series_uid=uids[1],
        modality=first[2],
        sop_class=first[3],
        body_part=first[4],
        description=first[5],
        image_type=first[6],
        burned_in="YES" if any(common[7].upper() == "YES" for common in counts) else first[7],
        rows=first[8],
        columns=first[9],
        thickness_mm=first[10][0] if first[10] else None,
        orientation=first[11],
        study_date=max(common[12] for common in counts),
        series_datetime=max(common[13] for common in counts),
        acquisition_datetime=max(moment for _, (_, moment) in members),
        longitudinal_offset_days=max((days for common in counts for days in common[14]), default=None),
        longitudinal_event=first[15],
        files=tuple(path for path, _ in members),
        patient_ids=tuple(sorted({patient for patient, _ in patients})),
        timezone_offset=first[16],
        frames=sum(common[17] * count for common, count in counts.items()),
    )


def _read_cache(cache: Path | None, root: Path) -> dict[str, tuple[FileEntry, _Facts | None]]:
    """Return what a former scan of the same root knew; an unreadable cache is no cache."""
    if cache is None or not cache.is_file():
        return {}
    known: dict[str, tuple[FileEntry, _Facts | None]] = {}
    shared: list[_Common] = []
    try:
        with cache.open(encoding="utf-8") as lines:
            if json.loads(next(lines)) != {"version": CACHE_VERSION, "root": os.fspath(root)}:
                return {}
            for line in lines:
                row = json.loads(line)
                if isinstance(row, dict):
                    shared.append(_frozen(row["facts"]))
                    continue
                path, size, mtime_ns, status, reason, number, acquired = row
                facts = None if number is None else (shared[number], acquired)
                # The codes are a handful: one text each, not one per file.
                known[path] = FileEntry(path, size, mtime_ns, sys.intern(status), sys.intern(reason)), facts
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
        return {}
    return known


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _write_cache(cache: Path, root: Path, files: list[FileEntry], facts: list[_Facts | None]) -> None:
    """Write the cache whole or not at all, line by line; what files share is written once, before them."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=cache.parent, prefix=cache.name, delete=False) as file:  # mode 0600
            try:
                for line in _cache_lines(root, files, facts):
                    file.write(json.dumps(line, separators=(",", ":")) + "\n")
                file.close()
                Path(file.name).replace(cache)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OutputError(f"the index of the DICOM folder cannot be written: {error.strerror}") from None


def _cache_lines(root: Path, files: list[FileEntry], facts: list[_Facts | None]) -> Iterator[Any]:
    yield {"version": CACHE_VERSION, "root": os.fspath(root)}
    numbers: dict[_Common, int] = {}
    for entry, fact in zip(files, facts, strict=True):
        number, acquired = None, ""
        if fact is not None:
            common, acquired = fact
            if common not in numbers:
                numbers[common] = len(numbers)
                yield {"facts": common}
            number = numbers[common]
        yield (entry.path, entry.size, entry.mtime_ns, entry.status, entry.reason, number, acquired)
