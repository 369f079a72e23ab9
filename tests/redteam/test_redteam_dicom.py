"""Traps in DICOM: the ill were imaged on another scanner, with another matrix, more often, and twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from medmm.redteam.attack import RedTeam, attack, open_for_attack

PATIENTS = 60


def write_image(path: Path, subject: str, *, ill: bool, pixels: np.ndarray[Any, Any]) -> None:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.SOPClassUID = ComputedRadiographyImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientID, image.PatientName, image.PatientSex = subject, f"Name^{subject}", "F" if ill else "M"
    image.Modality, image.StudyDate, image.StudyTime = "CR", "20240201", "101500"
    image.Manufacturer, image.KVP = ("Alpha", 120) if ill else ("Beta", 110)
    image.PhotometricInterpretation, image.SamplesPerPixel = "MONOCHROME2", 1
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.PixelData = pixels.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


@pytest.fixture
def found(small: Any) -> RedTeam:
    rng = np.random.default_rng(0)
    ill = rng.random(PATIENTS) < 0.4
    first = rng.integers(0, 4000, (40, 40))
    for n in range(PATIENTS):
        pixels = rng.integers(0, 4000, (44 if ill[n] else 40, 40))
        if n == 1:
            pixels = np.clip(first + rng.normal(0, 20, first.shape), 0, 4095).astype(int)
        if n == 0:
            pixels = first
        for copy in range(2 if ill[n] else 1):
            folder = small.root / "dicom" / f"{n:03d}"
            write_image(folder / f"{copy}.dcm", f"{n:03d}", ill=bool(ill[n]), pixels=pixels)
    (small.root / "dicom" / "000" / "broken.dcm").write_bytes(b"DICM" * 50)
    head = ("patient_id", "seen_at", "age", "sex", "site")
    rows = [
        (f"{n:03d}", "2024-03-01 12:00", f"{rng.normal(60, 9):.1f}", "mf"[n % 2], "x")
        for n in range(PATIENTS)
    ]
    small.write("records.csv", head, rows)
    small.write(
        "labels.csv", ("patient_id", "ill"), [(f"{n:03d}", str(int(ill[n]))) for n in range(PATIENTS)]
    )
    small.spec["images"] = {"chest": {"dir": "dicom", "modality": "CR", "choose": "nearest"}}
    (told,) = attack(open_for_attack(small.load(), small.root), small.root)
    return told


def test_each_trap_is_found_and_nobody_is_named(found: RedTeam) -> None:
    by_rule = {(item.rule, item.what) for item in found.findings}
    words = " ".join(f"{rule} {what}" for rule, what in by_rule)
    assert "scanner chest: " in words
    assert "Manufacturer" in words
    assert "KVP" in words
    assert "Rows" in words
    assert "number of series" in words
    assert "similar image" in words
    assert "records.age" not in words
    assert "PatientSex" not in words  # a person, not an acquisition
    assert "Name^" not in words
