"""Segmentations and structure sets as masks on the grid of the series they were drawn on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from medmm.dicom import load, load_mask, mask_reference, scan
from medmm.dicom.contours import _fill
from medmm.errors import DicomRefusal

SEG, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"
PLACES = (0.0, 2.5, 5.0)


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def frame(z: float, segment: int, *, corner=(-10.0, -20.0), orientation=(1, 0, 0, 0, 1, 0)) -> Dataset:
    return item(
        PlanePositionSequence=[item(ImagePositionPatient=[*corner, z])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(orientation))],
        SegmentIdentificationSequence=[item(ReferencedSegmentNumber=segment)],
    )


def segmentation(scanner, frames: np.ndarray, groups: list[Dataset], **elements: Any) -> Path:
    """A SEG of the scanner's series; ``frames`` is [frame, row, column]."""
    spacing = elements.pop("spacing", [0.5, 0.8])
    bits = elements.pop("bits", 1)
    names = elements.pop("names", ["Liver", "Lésion"])
    referenced = elements.pop("series", scanner.series)
    dataset = scanner.dataset(
        frames.astype(np.uint8)[:, :, :2],
        Columns=frames.shape[2],
        PixelData=frames.astype(np.uint8).tobytes(),
        SpecificCharacterSet="ISO_IR 100",
        SOPClassUID=SEG,
        Modality="SEG",
        SeriesInstanceUID=generate_uid(),
        SegmentationType="BINARY",
        ReferencedSeriesSequence=[item(SeriesInstanceUID=referenced)],
        SegmentSequence=[item(SegmentNumber=i + 1, SegmentLabel=name) for i, name in enumerate(names)],
        SharedFunctionalGroupsSequence=[item(PixelMeasuresSequence=[item(PixelSpacing=spacing)])],
        PerFrameFunctionalGroupsSequence=groups,
        NumberOfFrames=len(frames),
        **dict.fromkeys(
            ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
        ),
        **dict.fromkeys(("RescaleSlope", "RescaleIntercept")),
    )
    if bits == 1:
        dataset.BitsAllocated = dataset.BitsStored = 1
        dataset.HighBit = 0
        packed = np.packbits(frames.astype(bool).ravel(), bitorder="little").tobytes()
        dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OB"
    return scanner.save(dataset, f"../{generate_uid()[-9:]}.dcm")


def stored_grid(mask, volume) -> np.ndarray:
    """[slice, row, column] as stored, of a mask on a RAS+ grid of axial slices."""
    return np.swapaxes(mask[::-1, ::-1], 0, 2)


def test_a_segmentation_lies_where_its_frames_say(scanner):
    scanner.stack(PLACES)
    volume = load(scanner.folder)
    drawn = np.zeros((3, 3, 4), bool)
    drawn[0, 1, 2] = drawn[1, 2, 3] = drawn[2, 0, 0] = True
    path = segmentation(scanner, drawn, [frame(5.0, 1), frame(0.0, 1), frame(0.0, 2)])
    mask = load_mask(path, volume)
    assert mask.names == ("Liver", "Lésion")
    assert (mask.kind, mask.notes, mask.spacing_mm) == ("SEG", (), volume.spacing_mm)
    expected = np.zeros((2, 3, 3, 4), bool)
    expected[0, 2, 1, 2] = expected[0, 0, 2, 3] = expected[1, 0, 0, 0] = True
    for found, wanted in zip(mask.array, expected, strict=True):
        np.testing.assert_array_equal(stored_grid(found, volume), wanted)


def test_a_segmentation_may_be_smaller_turned_and_in_part_outside(scanner):
    scanner.stack(PLACES)
    volume = load(scanner.folder)
    # Rows run down the image's columns, and the corner lies one row above the image.
    drawn = np.ones((1, 4, 3), bool)
    turned = frame(2.5, 1, corner=(-10.0, -20.5), orientation=(0, 1, 0, 1, 0, 0))
    beyond = frame(7.5, 1, orientation=(0, 1, 0, 1, 0, 0))
    path = segmentation(
        scanner, np.repeat(drawn, 2, axis=0), [turned, beyond], spacing=[0.8, 0.5], names=["x"]
    )
    mask = load_mask(path, volume)
    assert mask.notes == ("1 frames outside the image",)
    expected = np.zeros((3, 3, 4), bool)
    expected[1, :2, :] = True
    np.testing.assert_array_equal(stored_grid(mask.array[0], volume), expected)
    assert mask.box() == (slice(0, 4), slice(1, 3), slice(1, 2))
    assert mask.box(0.5) == (slice(0, 4), slice(0, 3), slice(1, 2))


@pytest.mark.parametrize(("kind", "expected"), [("FRACTIONAL", [0, 0, 1, 1]), ("LABELMAP", [0, 0, 1, 0])])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_fractions_and_label_maps(scanner, kind, expected, syntax):
    scanner.stack(PLACES)
    volume = load(scanner.folder)
    drawn = np.tile(np.array([0, 1, 2, 4], np.uint8), (1, 3, 1))
    path = segmentation(
        scanner,
        drawn,
        [frame(0.0, 2)],
        bits=8,
        SegmentationType=kind,
        MaximumFractionalValue=4,
    )
    mask = load_mask(path, volume, structures=["LÉSION"])
    np.testing.assert_array_equal(stored_grid(mask.array[0], volume)[0], [expected] * 3)


def test_the_background_of_a_label_map_is_no_structure_unless_it_is_asked_for(scanner):
    scanner.stack(PLACES)
    volume = load(scanner.folder)
    drawn = np.tile(np.array([0, 1, 1, 0], np.uint8), (1, 3, 1))
    labels = [item(SegmentNumber=number, SegmentLabel=f"s{number}") for number in (0, 1)]
    path = segmentation(
        scanner, drawn, [frame(0.0, 1)], bits=8, SegmentationType="LABELMAP", SegmentSequence=labels
    )
    mask = load_mask(path, volume)
    assert (mask.names, mask.box()) == (("s1",), (slice(1, 3), slice(0, 3), slice(0, 1)))
    assert load_mask(path, volume, structures=["s0"]).array.sum() == 6


def test_a_mask_of_something_else_is_refused(scanner, tmp_path):
    scanner.stack(PLACES)
    volume = load(scanner.folder)
    drawn, groups = np.ones((1, 3, 4), bool), [frame(0.0, 1)]

    def refused(reason: str, path: Path, **options: Any) -> None:
        with pytest.raises(DicomRefusal) as caught:
            load_mask(path, volume, **options)
        assert caught.value.reason == reason

    elsewhere = segmentation(scanner, drawn, groups, series="1.2", FrameOfReferenceUID="1.3")
    refused("inconsistent_geometry", elsewhere)
    other_space = segmentation(scanner, drawn, groups, FrameOfReferenceUID="1.3")
    refused("inconsistent_geometry", other_space)
    assert load_mask(segmentation(scanner, drawn, groups, FrameOfReferenceUID=None), volume).array.any()
    same_frame = segmentation(scanner, drawn, groups, series="1.2")
    assert load_mask(same_frame, volume).array.any()
    refused("missing_tags", same_frame, structures=["spleen"])
    shifted = segmentation(scanner, drawn, [frame(0.0, 1, corner=(-10.4, -20.0))])
    refused("inconsistent_geometry", shifted)
    other_spacing = segmentation(scanner, drawn, groups, spacing=[0.5, 0.9])
    refused("inconsistent_geometry", other_spacing)
    refused("inconsistent_geometry", segmentation(scanner, drawn, [frame(90.0, 1)]))
    refused("unsupported_sop", next(scanner.folder.glob("*.dcm")))


def structure_set(scanner, contours: dict[str, list[tuple[str, list[float]]]], **elements: Any) -> Path:
    rois = list(contours)
    referenced = item(
        FrameOfReferenceUID=scanner.frame,
        RTReferencedStudySequence=[
            item(RTReferencedSeriesSequence=[item(SeriesInstanceUID=scanner.series)]),
        ],
    )
    dataset = scanner.dataset(
        SOPClassUID=RTSTRUCT,
        Modality="RTSTRUCT",
        SeriesInstanceUID=generate_uid(),
        ReferencedFrameOfReferenceSequence=[referenced],
        StructureSetROISequence=[item(ROINumber=7 + i, ROIName=name) for i, name in enumerate(rois)],
        ROIContourSequence=[
            item(
                ReferencedROINumber=7 + i,
                ContourSequence=[
                    item(ContourGeometricType=kind, NumberOfContourPoints=len(data) // 3, ContourData=data)
                    for kind, data in contours[name]
                ],
            )
            for i, name in enumerate(rois)
        ],
        **dict.fromkeys(("PixelData", "FrameOfReferenceUID", "Rows", "Columns", "PixelSpacing")),
        **elements,
    )
    return scanner.save(dataset, f"../{generate_uid()[-9:]}.dcm")


def square(low: float, high: float, z: float) -> tuple[str, list[float]]:
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return "CLOSED_PLANAR", [value for x, y in corners for value in (x, y, z)]


def test_contours_are_filled_even_odd_slice_by_slice(scanner):
    pixels = np.zeros((10, 10), np.int16)
    for z in PLACES:
        scanner.slice(z, f"{z}.dcm", pixels=pixels, PixelSpacing=[1, 1], ImagePositionPatient=[0, 0, z])
    volume = load(scanner.folder)
    path = structure_set(
        scanner,
        {
            "ring": [square(0.5, 8.5, 2.5), square(3.5, 5.5, 2.5), ("POINT", [1, 1, 2.5])],
            "other": [square(-5, 2.5, 5.0), square(0, 3, 99.0)],
        },
    )
    assert mask_reference(path).series_uids == (scanner.series,)
    assert mask_reference(path).structures == ("ring", "other")
    mask = load_mask(path, volume)
    ring = np.zeros((10, 10), bool)
    ring[1:9, 1:9] = True
    ring[4:6, 4:6] = False
    found = stored_grid(mask.array[0], volume)
    np.testing.assert_array_equal(found[1], ring)
    assert not found[[0, 2]].any()
    np.testing.assert_array_equal(np.argwhere(stored_grid(mask.array[1], volume)).max(axis=0), [2, 2, 2])
    assert mask.notes == ("1 contours that are points or open lines", "1 contours outside the image")
    np.testing.assert_array_equal(load_mask(path, volume, structures=["OTHER"]).array, mask.array[1:])


def test_a_structure_of_another_frame_of_reference_is_refused(scanner):
    scanner.stack(PLACES)
    volume = load(scanner.folder)
    path = structure_set(scanner, {"own": [square(0, 2, 0)], "other": [square(0, 2, 2.5)], "plain": []})
    dataset = dcmread(path)
    for roi, frame_uid in zip(dataset.StructureSetROISequence, (scanner.frame, "1.3"), strict=False):
        roi.ReferencedFrameOfReferenceUID = frame_uid
    dataset.save_as(path)
    assert load_mask(path, volume, structures=["own", "plain"]).names == ("own", "plain")
    for structures in (None, ["other"]):
        with pytest.raises(DicomRefusal, match="another frame of reference") as caught:
            load_mask(path, volume, structures=structures)
        assert caught.value.reason == "inconsistent_geometry"
    # The frame under which the object names the series is the series' own, whatever its headers say.
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.3"
    dataset.save_as(path)
    assert load_mask(path, volume, structures=["other"]).names == ("other",)


def test_the_index_lists_masks_beside_the_series_they_were_drawn_on(scanner, tmp_path):
    scanner.stack(PLACES)
    drawn = np.ones((1, 3, 4), bool)
    seg = segmentation(scanner, drawn, [frame(0.0, 1)])
    rt = structure_set(scanner, {"ring": [square(0, 2, 0)]})
    segmentation(scanner, drawn, [frame(0.0, 1)], PatientID="P2")
    for cached in (False, True):
        index = scan(tmp_path, cache=tmp_path.parent / f"{tmp_path.name}.index")
        assert index.opened == (0 if cached else 6)
        (series,) = index.series
        found = {mask.path: mask.reference for mask in index.masks_of(series)}
        assert {tmp_path / path for path in found} == {seg.resolve(), rt.resolve()}
        assert found[rt.name].structures == ("ring",)
        assert found[seg.name].structures == ("Liver", "Lésion")
        assert len(index.masks) == 3
        reasons = sorted(entry.reason for entry in index.files)
        assert reasons == [""] * 3 + ["no_pixel_data"] + ["unsupported_sop"] * 2


def test_contours_between_or_across_slices_are_refused(scanner):
    scanner.stack(PLACES)
    volume = load(scanner.folder)
    for z in (1.2, 3.6):
        with pytest.raises(DicomRefusal, match="between two slices"):
            load_mask(structure_set(scanner, {"a": [square(-9, -8, z)]}), volume)
    slanted = ("CLOSED_PLANAR", [-9, -19, 0, -8, -18.5, 2.5, -9, -18.1, 5])
    with pytest.raises(DicomRefusal, match="do not lie in the slices"):
        load_mask(structure_set(scanner, {"a": [slanted]}), volume)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 12), st.floats(-3, 12)), min_size=3, max_size=9), st.data())
def test_filling_agrees_with_counting_crossings(points, data):
    polygon = np.array(points)
    plane = np.zeros((9, 8), bool)
    _fill(plane, [polygon], 10_000)
    row, column = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 7))
    crossings, ends = 0, np.roll(polygon, -1, axis=0)
    for (y0, x0), (y1, x1) in zip(polygon, ends, strict=True):
        if min(y0, y1) <= row < max(y0, y1):
            crossings += np.ceil(x0 + (row - y0) / (y1 - y0) * (x1 - x0)) <= column
    assert plane[row, column] == bool(crossings % 2)
