"""The synthetic studies as DICOM files: CT series and radiographs, in the variety a real archive has.

Elements follow the CT Image IOD (DICOM PS3.3 A.3) and the Digital X-Ray Image IOD (A.26).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from medmm.arrays import Array, Float64
from medmm.cohort.synthetic.phantoms import CT_SHAPE, CT_SPACING_MM, RADIOGRAPH_MAXIMUM, RADIOGRAPH_SPACING_MM
from medmm.cohort.synthetic.subjects import Subject

_SYNTAXES = (
    *(ExplicitVRLittleEndian,) * 4,
    *(ImplicitVRLittleEndian,) * 2,
    RLELossless,
    JPEG2000Lossless,
)
_PADDING = -2000
"""Stored outside the reconstruction circle by some scanners; no HU."""
_IMPLEMENTATION = "2.25.302746203486112867041234190876543210987"
"""Of this writer (PS3.7 D.3.3.2); pydicom's own would change the bytes with its version."""
_TABLE_MM = (3.0, -12.0, 40.0)
"""Centre of every CT volume in the scanner's coordinates, LPS+; not the origin, to catch who assumes so."""


@dataclass(frozen=True, slots=True)
class Study:
    """One study of one subject, with one series.

    Attributes:
        name: tells the studies of one subject apart; UIDs and file names derive from it.
        taken_at: start of the acquisition.
    """

    subject: Subject
    name: str
    taken_at: datetime

    def uid(self, *what: object) -> str:
        """Return a UID under 2.25 that depends on the study and on ``what`` alone (PS3.5 B.2)."""
        key = repr((self.subject.key, self.subject.subject_id, self.name, *what))
        return f"2.25.{int.from_bytes(hashlib.sha256(key.encode()).digest()[:15], 'big')}"

    def path(self, folder: Path, uid: str) -> Path:
        """Return where an instance lies: names say nothing of patient, order or modality."""
        study, instance = (hashlib.sha256(word.encode()).hexdigest() for word in (self.uid("study"), uid))
        suffix = ".dcm" if self.subject.position % 3 else ""
        return folder / study[:8] / f"{instance[:12]}{suffix}"


def ct_origin_mm() -> tuple[float, float, float]:
    """Return the centre of the first voxel of every CT, LPS+: x, y, z."""
    half = [(n - 1) / 2 * step for n, step in zip(CT_SHAPE, CT_SPACING_MM, strict=True)][::-1]
    x, y, z = (centre - extent for centre, extent in zip(_TABLE_MM, half, strict=True))
    return x, y, z


def ct_files(
    study: Study, volume: Float64, *, localizer: bool, without: int | None
) -> Iterator[tuple[Dataset, str]]:
    """Yield the instances of an axial CT series, and the transfer syntax of each.

    Args:
        study: whose CT this is.
        volume: ``[slice, row, column]`` in HU.
        localizer: whether a coronal scout lies in the same series.
        without: a slice that was lost, or None.
    """
    padded = study.subject.position % 5 == 2
    stored = _outside_padded(volume) if padded else volume + 1024
    x, y, z = ct_origin_mm()
    for number, plane in enumerate(stored):
        if number == without:
            continue
        instance = _ct_instance(study, number, signed=padded)
        instance.ImagePositionPatient = [x, y, round(z + number * CT_SPACING_MM[0], 3)]
        instance.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        instance.SliceLocation = instance.ImagePositionPatient[2]
        _set_pixels(instance, plane.astype(np.int16 if padded else np.uint16))
        yield instance, _syntax(study)
    if localizer:
        yield _localizer(study, volume), ExplicitVRLittleEndian


def radiograph_file(study: Study, image: Float64) -> tuple[Dataset, str]:
    """Return a radiograph and its transfer syntax; a third of the detectors store MONOCHROME1.

    Args:
        study: whose radiograph this is.
        image: ``[row, column]``, 0 to 4095, bright where the body absorbs.
    """
    inverted = study.subject.position % 3 == 1
    instance = _instance(study, DigitalXRayImageStorageForPresentation, "DX", 0)
    instance.SeriesDescription = "Chest PA"
    instance.PatientOrientation = ["L", "F"]
    instance.ViewPosition = "PA"
    instance.PresentationIntentType = "FOR PRESENTATION"
    instance.ImagerPixelSpacing = list(RADIOGRAPH_SPACING_MM)
    if study.subject.position % 2:
        instance.PixelSpacing = list(RADIOGRAPH_SPACING_MM)
    instance.PixelIntensityRelationship = "LOG"
    instance.PixelIntensityRelationshipSign = -1 if inverted else 1
    instance.RescaleIntercept, instance.RescaleSlope, instance.RescaleType = 0, 1, "US"
    instance.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    instance.BurnedInAnnotation = "NO"
    _set_pixels(instance, (RADIOGRAPH_MAXIMUM - image if inverted else image).astype(np.uint16))
    instance.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    return instance, _syntax(study)


def write(instance: Dataset, syntax: str, path: Path) -> None:
    """Write one instance as a DICOM file (PS3.10), compressed where the syntax says so."""
    instance.file_meta = FileMetaDataset()
    instance.file_meta.ImplementationClassUID = _IMPLEMENTATION
    instance.file_meta.ImplementationVersionName = "MEDMM"
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if _compressed(syntax) else syntax
    if _compressed(syntax):
        instance.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    instance.save_as(path, enforce_file_format=True)


def _compressed(syntax: str) -> bool:
    return syntax in (RLELossless, JPEG2000Lossless)


def _syntax(study: Study) -> str:
    shift = 3 if study.name.startswith("radiograph") else 0
    return str(_SYNTAXES[(study.subject.position + shift) % len(_SYNTAXES)])


def _instance(study: Study, sop_class: str, modality: str, number: int) -> Dataset:
    """Return the elements that every instance of the cohort has."""
    subject, at = study.subject, study.taken_at
    instance = Dataset()
    instance.SOPClassUID, instance.SOPInstanceUID = sop_class, study.uid("instance", number)
    instance.PatientName, instance.PatientID = "Synthetic^Subject", subject.subject_id
    age = int(float(subject.fields["records.age"]))
    instance.PatientBirthDate = f"{subject.assessed_at.year - age}0101"
    instance.PatientSex = str(subject.fields["records.sex"])[0].upper()
    instance.StudyInstanceUID, instance.SeriesInstanceUID = study.uid("study"), study.uid("series")
    instance.StudyID, instance.SeriesNumber, instance.InstanceNumber = "1", 1, number + 1
    instance.AccessionNumber, instance.ReferringPhysicianName = "", ""
    for moment in ("Study", "Series", "Acquisition", "Content"):
        setattr(instance, f"{moment}Date", f"{at:%Y%m%d}")
        setattr(instance, f"{moment}Time", f"{at:%H%M%S}")
    instance.Modality, instance.Manufacturer, instance.BodyPartExamined = modality, "Synthetic", "CHEST"
    instance.ImageType = ["ORIGINAL", "PRIMARY"]
    return instance


def _ct_instance(study: Study, number: int, *, signed: bool) -> Dataset:
    instance = _instance(study, CTImageStorage, "CT", number)
    instance.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    instance.SeriesDescription = "Chest"
    instance.FrameOfReferenceUID, instance.PositionReferenceIndicator = study.uid("frame"), ""
    instance.PixelSpacing = [CT_SPACING_MM[1], CT_SPACING_MM[2]]
    instance.SliceThickness = CT_SPACING_MM[0]
    instance.KVP, instance.AcquisitionNumber, instance.PatientPosition = 120, 1, "HFS"
    instance.RescaleIntercept, instance.RescaleSlope, instance.RescaleType = (0 if signed else -1024), 1, "HU"
    if signed:
        instance.PixelRepresentation = 1
        instance.PixelPaddingValue = _PADDING
    return instance


def _localizer(study: Study, volume: Float64) -> Dataset:
    """Return a coronal scout: the mean over the rows, feet at the bottom."""
    instance = _ct_instance(study, len(volume), signed=False)
    instance.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    x, y, z = ct_origin_mm()
    instance.ImagePositionPatient = [x, y, round(z + (len(volume) - 1) * CT_SPACING_MM[0], 3)]
    instance.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    instance.PixelSpacing = [CT_SPACING_MM[0], CT_SPACING_MM[2]]
    _set_pixels(instance, np.rint(volume.mean(axis=1)[::-1] + 1024).astype(np.uint16))
    return instance


def _outside_padded(volume: Float64) -> Float64:
    rows, columns = np.ogrid[: volume.shape[1], : volume.shape[2]]
    radius = (volume.shape[1] - 1) / 2
    outside = np.hypot(rows - radius, columns - radius) > radius + 0.5
    return np.where(outside, _PADDING, volume)


def _set_pixels(instance: Dataset, pixels: Array) -> None:
    signed = pixels.dtype.kind == "i"
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
    instance.Rows, instance.Columns = pixels.shape
    instance.BitsAllocated = 16
    instance.BitsStored = 16 if signed else 12
    instance.HighBit = instance.BitsStored - 1
    instance.PixelRepresentation = int(signed)
    instance.PixelData = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()


def taken(subject: Subject, *, hours: float) -> datetime:
    """Return a moment so many hours after the prediction time, to the second."""
    return subject.assessed_at + timedelta(seconds=round(hours * 3600))
