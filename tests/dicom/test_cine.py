"""Loops and time series: refused where frames have no place, split where they have."""

from __future__ import annotations

import numpy as np
import pytest

from medmm.dicom import load, load_bag, load_series
from medmm.errors import DicomRefusal

US, US_MULTI = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
US_VOLUME, XA = "1.2.840.10008.5.1.4.1.1.6.2", "1.2.840.10008.5.1.4.1.1.12.1"
FLAT = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))


def loop(scanner, frames, name="loop.dcm", **elements):
    return scanner.save(scanner.dataset(frames, RescaleIntercept=0, **FLAT, **elements), name)


@pytest.mark.parametrize(
    ("sop", "modality", "frames"),
    [
        (US_MULTI, "US", np.zeros((5, 6, 7), np.uint8)),
        (US_MULTI, "US", np.zeros((5, 6, 7, 3), np.uint8)),
        (US_VOLUME, "US", np.zeros((5, 6, 7), np.uint8)),
        (XA, "XA", np.zeros((5, 6, 7), np.uint16)),
    ],
)
def test_rule_8_a_loop_is_no_volume(scanner, refused, sop, modality, frames):
    colour = {"Rows": 6, "Columns": 7, "NumberOfFrames": 5, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    elements = colour | {"PhotometricInterpretation": "RGB"} if frames.ndim == 4 else {}
    path = loop(scanner, frames, SOPClassUID=sop, Modality=modality, CineRate=30, FrameTime=33, **elements)
    assert refused(path).reason == "multiframe_not_spatial"
    (result,) = load_series(scanner.folder)
    assert (result.status, result.reason, result.files) == ("refused", "multiframe_not_spatial", (path,))


def test_rule_8_a_loop_whose_frames_share_one_place_is_no_volume(scanner, refused):
    frames = np.zeros((5, 6, 7), np.uint16)
    path = scanner.save(scanner.dataset(frames, SOPClassUID=XA, Modality="XA"))
    assert refused(path).reason == "multiframe_not_spatial"


def test_one_frame_is_an_image_and_a_loop_beside_it_is_left_out(scanner):
    one = np.arange(42, dtype=np.uint8).reshape(1, 6, 7)
    path = loop(scanner, one, "view.dcm", SOPClassUID=US_MULTI, Modality="US")
    np.testing.assert_array_equal(load(path).array, one[0])
    loop(scanner, np.zeros((5, 6, 7), np.uint8), SOPClassUID=US_MULTI, Modality="US")
    results = sorted((result.status, result.reason) for result in load_series(scanner.folder))
    assert results == [("refused", "multiframe_not_spatial"), ("used", "")]
    bag = load_bag(list(scanner.folder.iterdir()))
    assert [image.array.shape for image in bag.images] == [(6, 7)]
    assert [result.reason for result in bag.left_out] == ["multiframe_not_spatial"]


def test_views_of_one_ultrasound_series_are_images_of_their_own(scanner, refused):
    for view in range(3):
        pixels = np.full((6, 7 + view, 3), 10 * view, np.uint8)
        loop(scanner, pixels, f"{view}.dcm", SOPClassUID=US, Modality="US", InstanceNumber=view)
    shapes = sorted(result.content.array.shape for result in load_series(scanner.folder))
    assert shapes == [(6, 7, 3), (6, 8, 3), (6, 9, 3)]
    assert refused(scanner.folder).reason == "multiple_volumes"
    assert len(load_bag(list(scanner.folder.iterdir())).images) == 3


@pytest.mark.parametrize("tag", ["TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime"])
def test_rule_8_slices_over_time_are_one_volume_a_moment(scanner, refused, tag):
    for moment in (1, 2, 3):
        for z in (0.0, 2.5, 5.0):
            pixels = np.full((3, 4), 100 * moment + z, np.int16)
            scanner.slice(z, f"{moment}-{z}.dcm", pixels, Modality="MR", **{tag: moment})
    results = list(load_series(scanner.folder))
    assert [result.status for result in results] == ["used"] * 3
    assert sorted(int(result.content.array.min()) for result in results) == [
        100 - 1024,
        200 - 1024,
        300 - 1024,
    ]
    assert all(result.content.array.shape == (4, 3, 3) for result in results)
    assert refused(scanner.folder).reason == "multiple_volumes"


def test_rule_8_one_place_over_time_without_a_clock_is_refused(scanner, refused):
    for moment in range(3):
        scanner.slice(0.0, f"{moment}.dcm", np.full((3, 4), moment, np.int16), Modality="MR")
    assert refused(scanner.folder).reason == "duplicate_slices"
    with pytest.raises(DicomRefusal):
        load_bag(list(scanner.folder.iterdir()))
