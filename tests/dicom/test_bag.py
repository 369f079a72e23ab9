"""A bag: the 2-D images of one patient as one object."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import generate_uid

from medmm.dicom import load_bag
from medmm.dicom.loading import realised
from medmm.errors import DicomRefusal

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def radiograph(scanner, shape=(4, 5), **elements):
    geometry = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    pixels = np.full(shape, elements.pop("value", 1), np.uint16)
    elements.setdefault("SeriesInstanceUID", generate_uid())
    return scanner.save(
        scanner.dataset(pixels, SOPClassUID=DX, Modality="DX", RescaleIntercept=0, **geometry, **elements)
    )


def test_serial_radiographs_come_in_the_order_of_their_acquisition(scanner):
    radiograph(scanner, value=3, AcquisitionDateTime="20240301101500")
    radiograph(
        scanner, value=1, AcquisitionDate="20240101", AcquisitionTime="080000", StudyInstanceUID="1.2.3"
    )
    radiograph(scanner, value=2, shape=(6, 7), StudyDate="20240201")
    (scanner.folder / "note.txt").write_text("no DICOM")
    bag = load_bag(list(scanner.folder.iterdir()))
    assert [int(image.array[0, 0]) for image in bag.images] == [1, 2, 3]
    assert [image.array.shape for image in bag.images] == [(4, 5), (6, 7), (4, 5)]
    assert bag.acquired == ("20240101080000", "20240201", "20240301101500")
    assert [(result.status, result.reason) for result in bag.left_out] == [("refused", "not_dicom")]
    assert [certificate.status for certificate in bag.certificates] == ["used"] * 3 + ["refused"]


def test_the_limit_of_a_bag_holds_inside_one_series(scanner, monkeypatch):
    series = generate_uid()
    for number in range(5):
        radiograph(scanner, SOPInstanceUID=f"1.2.{number}", SeriesInstanceUID=series)
    read = []
    monkeypatch.setattr("medmm.dicom.bag.realised", lambda *args: read.append(1) or realised(*args))
    assert len(load_bag(list(scanner.folder.iterdir())).images) == len(read) == 5
    read.clear()
    monkeypatch.setattr("medmm.dicom.bag.MAX_VOLUME_BYTES", 2 * 4 * 5 * 4)
    with pytest.raises(DicomRefusal) as caught:
        load_bag(list(scanner.folder.iterdir()))
    assert (caught.value.reason, len(read)) == ("resource_limit", 3)


@pytest.mark.parametrize(
    ("frames", "taken"), [(0, []), (1, [5]), (3, [1, 5, 8]), (10, list(range(10))), (99, list(range(10)))]
)
def test_frames_of_a_loop_are_images_where_they_are_asked_for(scanner, frames, taken):
    loop = np.arange(10, dtype=np.uint16)[:, None, None] * np.ones((1, 4, 5), np.uint16)
    flat = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    us = {"Modality": "US", "RescaleIntercept": 0, "AcquisitionDateTime": "20240301"}
    scanner.save(scanner.dataset(loop, **flat, **us))
    radiograph(scanner, value=77, AcquisitionDateTime="20240401")
    bag = load_bag(list(scanner.folder.iterdir()), frames=frames)
    assert [int(image.array[0, 0]) for image in bag.images] == [*taken, 77]
    assert [result.reason for result in bag.left_out] == ([] if frames else ["multiframe_not_spatial"])
    assert bag.certificate.files_used == 1 + bool(frames)
    told = [certificate.notes[-1] for certificate in bag.certificates[: len(taken)]]
    assert told == [f"frame {place + 1} of 10" for place in taken]


def test_a_volume_is_left_out_without_being_decoded(scanner, monkeypatch):
    read = []
    monkeypatch.setattr(
        "medmm.dicom.bag.realised", lambda *args: read.append(args[0].kind) or realised(*args)
    )
    scanner.stack()
    radiograph(scanner)
    assert [result.reason for result in load_bag(list(scanner.folder.iterdir())).left_out] == [
        "multiple_volumes"
    ]
    assert read == ["image"]


def test_several_images_of_one_series_and_what_is_no_image(scanner):
    series = generate_uid()
    for number in range(3):
        radiograph(scanner, value=number, SeriesInstanceUID=series, SOPInstanceUID=f"1.2.{number}")
    stack = scanner.stack()
    bag = load_bag(list(scanner.folder.iterdir()))
    assert [int(image.array[0, 0]) for image in bag.images] == [0, 1, 2]
    assert [(result.reason, len(result.files)) for result in bag.left_out] == [("multiple_volumes", 5)]
    with pytest.raises(DicomRefusal, match="none of 5 files"):
        load_bag(stack)
    radiograph(scanner, PatientID="P2")
    with pytest.raises(DicomRefusal) as caught:
        load_bag(list(scanner.folder.iterdir()))
    assert caught.value.reason == "multiple_patients"
