"""One valid file of every kind that the loader knows, written with pydicom, to be mutated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

STORAGE = "1.2.840.10008.5.1.4.1.1."


def write_reference(folder: Path) -> None:
    """Write the series that masks are loaded onto."""
    folder.mkdir()
    for z in range(3):
        plain(np.zeros((16, 16), np.int16), ImagePositionPatient=[0, 0, z]).save_as(
            folder / f"{z}.dcm", enforce_file_format=True
        )


def write_seeds(folder: Path) -> list[Path]:
    """Write one file of every kind the loader knows."""
    folder.mkdir()
    gradient = np.arange(1024, dtype=np.int16).reshape(32, 32)
    colour = np.zeros((32, 32, 3), np.uint8)
    made = {"ct": plain(gradient), "rgb": plain(colour), "rgb_planar": plain(colour, PlanarConfiguration=1)}
    made["padding"] = plain(gradient, PixelPaddingValue=3, PixelPaddingRangeLimit=9)
    made["unsigned"] = plain(gradient.astype(np.uint16), Modality="DX", SOPClassUID=STORAGE + "1.1.1")
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        compressed = plain(gradient.astype(np.uint16))
        compressed.compress(syntax)
        made[f"syntax_{syntax.name[:9]}"] = compressed
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        other = plain(gradient)
        other.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            other.PixelData = gradient.byteswap().tobytes()
        made[f"syntax_{syntax.name[:12]}"] = other
    made["enhanced"] = enhanced(np.stack([gradient] * 4))
    made["segmentation"] = segmentation()
    made["contours"] = contours()
    made["waveform"] = waveform()
    made["palette"] = palette()
    paths = []
    for name, dataset in made.items():
        paths.append(folder / f"{name.replace(' ', '_')}.dcm")
        little = dataset.file_meta.TransferSyntaxUID != ExplicitVRBigEndian
        implicit = dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        dataset.save_as(paths[-1], implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return paths


UIDS = {name: generate_uid(entropy_srcs=[name]) for name in ("study", "series", "frame")}


def plain(pixels: np.ndarray[Any, Any], **elements: Any) -> Dataset:
    """Return one CT slice, with whatever else it is to say."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = STORAGE + "2", generate_uid(entropy_srcs=[repr(elements)])
    dataset.file_meta.MediaStorageSOPClassUID = elements.get("SOPClassUID", STORAGE + "2")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = UIDS["study"], UIDS["series"]
    dataset.FrameOfReferenceUID, dataset.PatientID, dataset.Modality = UIDS["frame"], "P", "CT"
    dataset.ImageType, dataset.SliceThickness, dataset.PixelSpacing = ["ORIGINAL", "PRIMARY"], 1, [1, 1]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    samples = 3 if pixels.ndim == 3 and pixels.shape[-1] == 3 else 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (
        samples,
        "RGB" if samples == 3 else "MONOCHROME2",
    )
    if samples == 3:
        dataset.PlanarConfiguration = 0
    frames = pixels.ndim - (samples == 3) == 3
    dataset.Rows, dataset.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    if frames:
        dataset.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def item(**elements: Any) -> Dataset:
    """Return a sequence item."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def enhanced(pixels: np.ndarray[Any, Any], **elements: Any) -> Dataset:
    """Return an enhanced CT, its places in functional groups."""
    oriented = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    measures = item(PixelSpacing=[1, 1], SliceThickness=1)
    elements.setdefault("SOPClassUID", STORAGE + "2.1")
    groups = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])]) for z in range(len(pixels))]
    return plain(
        pixels,
        SharedFunctionalGroupsSequence=[
            item(PlaneOrientationSequence=[oriented], PixelMeasuresSequence=[measures])
        ],
        PerFrameFunctionalGroupsSequence=groups,
        **elements,
    )


def segmentation() -> Dataset:
    """Return two binary segments on the reference's grid."""
    dataset = enhanced(
        np.zeros((2, 16, 16), np.uint8),
        SOPClassUID=STORAGE + "66.4",
        Modality="SEG",
        SegmentationType="BINARY",
        SegmentSequence=[item(SegmentNumber=n, SegmentLabel=f"s{n}") for n in (1, 2)],
        ReferencedSeriesSequence=[item(SeriesInstanceUID=UIDS["series"])],
    )
    for number_, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=number_ + 1)]
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.PixelData = 0, bytes(range(64))
    return dataset


def contours() -> Dataset:
    """Return a structure set with a square on the reference."""
    dataset = plain(np.zeros((1, 2), np.uint8), SOPClassUID=STORAGE + "481.3", Modality="RTSTRUCT")
    del dataset.PixelData
    dataset.StructureSetROISequence = [item(ROINumber=1, ROIName="square")]
    square = [1, 1, 1, 9, 1, 1, 9, 9, 1, 1, 9, 1]
    drawn = item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=4, ContourData=square)
    dataset.ROIContourSequence = [item(ReferencedROINumber=1, ContourSequence=[drawn])]
    return dataset


def waveform() -> Dataset:
    """Return an electrocardiogram of two channels."""
    dataset = plain(np.zeros((1, 2), np.uint8), SOPClassUID=STORAGE + "9.1.1", Modality="ECG")
    del dataset.PixelData
    channel = item(ChannelSensitivity=2, ChannelBaseline=0, ChannelSensitivityCorrectionFactor=1)
    dataset.WaveformSequence = [
        item(
            NumberOfWaveformChannels=2,
            NumberOfWaveformSamples=8,
            SamplingFrequency=500,
            ChannelDefinitionSequence=[channel, channel],
            WaveformBitsAllocated=16,
            WaveformSampleInterpretation="SS",
            WaveformData=bytes(32),
        )
    ]
    dataset.WaveformSequence[0]["WaveformData"].VR = "OW"
    return dataset


def palette() -> Dataset:
    """Return an image of palette indices."""
    dataset = plain(np.zeros((16, 16), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes(512))
    return dataset
