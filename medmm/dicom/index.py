"""The index of a DICOM folder: every file once, every series once, nothing decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
        burned_in: "YES", "NO" or "".
        study_date: DICOM text "YYYYMMDD" or "".
        series_datetime: DICOM text "YYYYMMDD[HHMMSS.FFFFFF]" or "".
        acquisition_datetime: as ``series_datetime``, of the first slice acquired.
        longitudinal_offset_days: LongitudinalTemporalOffsetFromEvent (0012,0052).
        longitudinal_event: LongitudinalTemporalEventType (0012,0053).
        files: paths relative to the scanned root, sorted.
        patient_ids: every PatientID seen under this UID; a series with more than one does not load.
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


@dataclass(frozen=True, slots=True)
class Index:
    """What a scan found.

    Attributes:
        root: the folder that was scanned, resolved.
        files: every file on disk, once, sorted by path.
        series: sorted by (patient_id, study_uid, series_uid).
        opened: files whose header was read in this scan; unchanged ones are not.
    """

    root: Path
    files: tuple[FileEntry, ...]
    series: tuple[SeriesEntry, ...]
    opened: int

    def of_patient(self, patient_id: str) -> tuple[SeriesEntry, ...]:
        """Return the series under which a PatientID was seen."""
        return tuple(entry for entry in self.series if patient_id in entry.patient_ids)
