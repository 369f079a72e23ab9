"""Real DICOM, written with pydicom for each test: what is awkward about it stands in the test itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medmm.dicom import codec

CT = "1.2.840.10008.5.1.4.1.1.2"
ENCODERS = {JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls", RLELossless: "pydicom"}


def encoded(pixels: np.ndarray, syntax: UID) -> bytes:
    """Return one frame of 8-bit grey pixels as a stream of this syntax."""
    return get_encoder(syntax).encode(
        pixels,
        encoding_plugin=ENCODERS[syntax],
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        number_of_frames=1,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
    )


@pytest.fixture
def fresh_codec() -> Iterator[None]:
    """Begin and end without a decoding process."""
    codec.close()
    yield
    codec.close()


class Scanner:
    """Writes slices, series and odd objects into one folder.

    ``dataset`` starts a plain CT slice; keyword arguments set elements by keyword, None deletes one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study, self.series, self.frame = (generate_uid() for _ in range(3))

    def dataset(self, pixels: np.ndarray | None = None, **elements: Any) -> Dataset:
        if pixels is None:
            pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
        dataset.SOPClassUID = CT
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study, self.series
        dataset.FrameOfReferenceUID = self.frame
        dataset.PatientID, dataset.Modality = "P1", "CT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [0.5, 0.8]
        dataset.SliceThickness = 2.5
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        colour = pixels.ndim == 3 and pixels.shape[-1] == 3
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            dataset.PlanarConfiguration = 0
        dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
        if pixels.ndim - colour == 3:
            dataset.NumberOfFrames = pixels.shape[0]
        bits = pixels.dtype.itemsize * 8
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        data = pixels.tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
        for keyword, value in elements.items():
            if value is None:
                if keyword in dataset:
                    delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        return dataset

    def save(self, dataset: Dataset, name: str = "") -> Path:
        path = self.folder / (name or f"{generate_uid()[-12:]}.dcm")
        path.parent.mkdir(parents=True, exist_ok=True)
        syntax = dataset.file_meta.TransferSyntaxUID
        if not syntax.is_private and syntax.is_compressed and "PixelData" in dataset:
            dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CT)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", generate_uid())
        with pydicom.config.disable_value_validation():
            dataset.save_as(path, enforce_file_format=True)
        return path

    def slice(
        self, z: float = 0.0, name: str = "", pixels: np.ndarray | None = None, **elements: Any
    ) -> Path:
        """One axial slice at ``z`` mm; its pixels tell its place unless they are given."""
        if pixels is None:
            pixels = np.full((3, 4), round(z * 10), dtype=np.int16) + np.arange(4, dtype=np.int16)
        elements.setdefault("ImagePositionPatient", [-10, -20, z])
        return self.save(self.dataset(pixels, **elements), name)

    def stack(self, places: Sequence[float] = (0.0, 2.5, 5.0, 7.5, 10.0), **elements: Any) -> list[Path]:
        """Axial slices at the given places, file names and InstanceNumbers against the grain."""
        count = len(places)
        return [
            self.slice(z, f"{count - i:03d}.dcm", InstanceNumber=(i * 3) % count + 1, **elements)
            for i, z in enumerate(places)
        ]


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path / "dicom")


@pytest.fixture
def refused() -> Callable[..., Any]:
    """The reason with which a door refuses."""
    from medmm.dicom import load
    from medmm.errors import DicomRefusal

    def reason(path: Path, door: Callable[..., Any] = load) -> DicomRefusal:
        with pytest.raises(DicomRefusal) as caught:
            door(path)
        return caught.value

    return reason


@pytest.fixture
def items() -> type[Items]:
    return Items
