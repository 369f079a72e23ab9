"""Rules 1 to 16, 26, 27, 31 and 32: what belongs together, in which order, and what is no volume."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from medmm.dicom import load, load_files, load_series

SR = "1.2.840.10008.5.1.4.1.1.88.11"
SC = "1.2.840.10008.5.1.4.1.1.7"


def first_column(volume):
    """The value that tells the place of each slice, first to last."""
    return [int(value) for value in volume.array[0, 0, :]]


def test_rule_01_several_series_are_not_one(scanner, refused):
    scanner.stack()
    scanner.series = generate_uid()
    scanner.slice(2.5)
    scanner.slice(5.0)
    refusal = refused(scanner.folder)
    assert refusal.reason == "multiple_series"
    results = list(load_series(scanner.folder))
    assert sorted(result.content.array.shape for result in results) == [(4, 3, 2), (4, 3, 5)]


def test_rule_01_the_study_belongs_to_the_key(scanner, refused):
    scanner.slice(0.0)
    scanner.study = generate_uid()
    scanner.slice(2.5)
    assert refused(scanner.folder).reason == "multiple_series"


def test_rule_02_two_patients_under_one_series(scanner, refused):
    scanner.stack()
    scanner.slice(12.5, PatientID="P2")
    refusal = refused(scanner.folder)
    assert refusal.reason == "multiple_patients"
    assert "P1" not in str(refusal)
    assert "P2" not in str(refusal)


def test_rule_03_slices_sorted_by_geometry(scanner):
    scanner.stack((5.0, 0.0, 10.0, 2.5, 7.5))
    volume = load(scanner.folder)
    # RAS+: x and y run against DICOM's, so index 0 of x is the last column
    assert first_column(volume) == [v - 1024 + 3 for v in (0, 25, 50, 75, 100)]
    np.testing.assert_allclose(volume.affine[:3, 3], [10 - 3 * 0.8, 20 - 2 * 0.5, 0])
    np.testing.assert_allclose(np.diag(volume.affine), [0.8, 0.5, 2.5, 1])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(5)), normal=st.sampled_from([0, 1, 2]), sign=st.sampled_from([1, -1]))
def test_rule_03_any_order_and_any_orientation_give_the_same_anatomy(scanner, order, normal, sign):
    shutil.rmtree(scanner.folder, ignore_errors=True)
    rows = {0: [0, 1, 0, 0, 0, -1], 1: [1, 0, 0, 0, 0, -1], 2: [1, 0, 0, 0, 1, 0]}[normal]
    axis = np.cross(rows[:3], rows[3:]) * sign
    for name, index in enumerate(order):
        place = [float(value) for value in np.array([3.0, 4.0, 5.0]) + axis * 2.5 * index]
        image = np.arange(12, dtype=np.int16).reshape(3, 4) + 100 * index
        scanner.slice(
            name=f"{name}.dcm",
            pixels=image.astype(np.int16),
            ImagePositionPatient=place,
            ImageOrientationPatient=rows,
        )
    volume = load(scanner.folder)
    assert np.linalg.det(volume.affine[:3, :3]) > 0
    assert (np.diag(volume.affine)[:3] > 0).all()
    # the pixel in row 1, column 2 of slice 3 must be found at its place in the patient
    lps = np.array([3.0, 4, 5]) + axis * 7.5 + np.array(rows[:3]) * 2 * 0.8 + np.array(rows[3:]) * 1 * 0.5
    index = np.linalg.solve(volume.affine, [-lps[0], -lps[1], lps[2], 1])[:3]
    np.testing.assert_allclose(index, np.round(index), atol=1e-9)
    assert volume.array[tuple(np.round(index).astype(int))] == 300 + 6 - 1024


def test_rule_04_instance_number_absent_is_harmless(scanner):
    for z in (5.0, 0.0, 2.5):
        scanner.slice(z)
    assert load(scanner.folder).array.shape == (4, 3, 3)


def test_rule_05_missing_slice_names_the_gap(scanner, refused):
    scanner.stack((0.0, 2.5, 7.5, 10.0))
    refusal = refused(scanner.folder)
    assert refusal.reason == "missing_slices"
    assert "1 after slice 2" in refusal.detail


def test_rule_06_exact_duplicate_is_set_aside(scanner):
    scanner.stack()
    scanner.slice(5.0, "again.dcm")
    volume = load(scanner.folder)
    assert volume.spacing_mm == (0.8, 0.5, 2.5)
    assert dict(volume.certificate.files_set_aside) == {"duplicate": 1}
    assert volume.certificate.files_used == 5


def test_rule_06_the_same_file_twice(scanner):
    paths = scanner.stack()
    shutil.copy(paths[2], scanner.folder / "copy.dcm")
    volume = load(scanner.folder)
    assert volume.array.shape == (4, 3, 5)
    assert dict(volume.certificate.files_set_aside) == {"duplicate": 1}


def test_rule_06_one_uid_for_two_images_is_refused(scanner, refused):
    scanner.slice(0.0, SOPInstanceUID="1.2.3")
    scanner.slice(2.5, SOPInstanceUID="1.2.3")
    assert refused(scanner.folder).reason == "duplicate_uid"


def test_rule_07_same_place_other_pixels(scanner, refused):
    scanner.stack()
    scanner.slice(5.0, pixels=np.full((3, 4), 7, np.int16))
    assert refused(scanner.folder).reason == "duplicate_slices"


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("AcquisitionNumber", (1, 2)),
        ("EchoNumbers", (1, 2)),
        ("TriggerTime", (0, 450)),
        ("DiffusionBValue", (0.0, 1000.0)),
        ("ConvolutionKernel", ("B30f", "B60f")),
    ],
)
def test_rule_07_told_apart_by(scanner, refused, keyword, values):
    for value in values:
        for z in (0.0, 2.5, 5.0):
            scanner.slice(z, **{keyword: value}, RescaleIntercept=len(str(value)) + 3)
    assert refused(scanner.folder).reason == "multiple_volumes"
    results = list(load_series(scanner.folder))
    assert [result.content.array.shape for result in results] == [(4, 3, 3)] * 2
    assert results[0].certificate.told_apart_by == (keyword,)


def test_rule_08_phases_are_never_concatenated(scanner, refused):
    for phase in (1, 2, 3):
        for z in (0.0, 2.5, 5.0):
            value = np.full((3, 4), 100 * phase + z, np.int16)
            scanner.slice(z, pixels=value, AcquisitionNumber=phase)
    assert refused(scanner.folder).reason == "multiple_volumes"
    volumes = [result.content for result in load_series(scanner.folder)]
    assert [int(volume.array.min()) for volume in volumes] == [100 - 1024, 200 - 1024, 300 - 1024]
    assert [int(volume.array.max()) for volume in volumes] == [105 - 1024, 205 - 1024, 305 - 1024]


def test_rule_08_phases_at_other_places_are_not_interleaved(scanner):
    for echo, shift in ((1, 0.0), (2, 1.25)):
        for z in (0.0, 2.5, 5.0):
            scanner.slice(z + shift, EchoNumbers=echo)
    results = list(load_series(scanner.folder))
    assert [result.content.spacing_mm for result in results] == [(0.8, 0.5, 2.5)] * 2


def test_rule_08_a_single_slice_of_another_contrast_is_no_part_of_the_volume(scanner, refused):
    scanner.stack(EchoTime=30)
    scanner.slice(12.5, EchoTime=60)
    assert refused(scanner.folder).reason == "multiple_volumes"
    assert [r.content.array.shape for r in load_series(scanner.folder)] == [(4, 3, 5), (3, 4)]


def test_rule_08_the_same_number_written_otherwise_is_no_contrast(scanner):
    for index, z in enumerate((0.0, 2.5, 5.0)):
        scanner.slice(z, EchoTime="30.0" if index else "30")
    assert load(scanner.folder).array.shape == (4, 3, 3)


def test_rule_08_volumes_that_nothing_tells_apart(scanner, refused):
    for phase in (1, 2):
        for z in (0.0, 2.5, 5.0):
            scanner.slice(z, pixels=np.full((3, 4), 100 * phase + z, np.int16))
    assert refused(scanner.folder).reason == "multiple_volumes"


def test_rule_08_a_short_last_phase_is_a_volume_of_its_own(scanner):
    for phase, places in ((1, (0.0, 2.5, 5.0)), (2, (0.0, 2.5))):
        for z in places:
            scanner.slice(z, pixels=np.full((3, 4), 100 * phase + z, np.int16), AcquisitionNumber=phase)
    results = list(load_series(scanner.folder))
    assert [result.content.array.shape[2] for result in results] == [3, 2]


def test_rule_09_gantry_tilt(scanner, refused):
    for index in range(4):
        scanner.slice(ImagePositionPatient=[0, index * 0.9, index * 2.5])
    refusal = refused(scanner.folder)
    assert refusal.reason == "gantry_tilt"
    assert "19.8 degrees" in refusal.detail


def test_rule_10_variable_spacing(scanner, refused):
    scanner.stack((0.0, 2.5, 5.0, 8.1, 11.2))
    assert refused(scanner.folder).reason == "inconsistent_geometry"


def test_rule_11_localizer_inside_the_series(scanner):
    scanner.stack()
    scanner.slice(
        3.0,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        pixels=np.zeros((9, 9), np.int16),
    )
    volume = load(scanner.folder)
    assert volume.array.shape == (4, 3, 5)
    assert dict(volume.certificate.files_set_aside) == {"localizer": 1}


def test_rule_12_mixed_orientation(scanner, refused):
    scanner.stack((0.0, 2.5, 5.0))
    scanner.slice(7.5, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert refused(scanner.folder).reason == "inconsistent_geometry"


def test_rule_12_degenerate_orientation(scanner, refused):
    scanner.stack(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    assert refused(scanner.folder).reason == "inconsistent_geometry"


def test_rule_13_orientation_jitter(scanner):
    for index, z in enumerate((0.0, 2.5, 5.0, 7.5)):
        scanner.slice(z, ImageOrientationPatient=[1, 1e-5 * index, 0, 0, 1, -1e-5 * index])
    assert load(scanner.folder).array.shape == (4, 3, 4)


def test_rule_14_position_jitter(scanner):
    jitter = (0.0, 0.01, -0.01, 0.01, 0.0, -0.01)
    for index, error in enumerate(jitter):
        scanner.slice(ImagePositionPatient=[error, -error, 2.5 * index + error])
    assert load(scanner.folder).spacing_mm[2] == pytest.approx(2.5, rel=2e-3)


def test_rule_14_rounded_positions_give_the_true_spacing(scanner):
    for index in range(40):
        scanner.slice(round(0.625 * index, 2))
    volume = load(scanner.folder)
    assert volume.spacing_mm[2] == pytest.approx(0.625, rel=1e-3)


def test_rule_15_slice_without_geometry_is_set_aside(scanner):
    scanner.stack()
    scanner.slice(ImagePositionPatient=None)
    volume = load(scanner.folder)
    assert volume.array.shape == (4, 3, 5)
    assert dict(volume.certificate.files_set_aside) == {"no_geometry": 1}


def test_rule_15_unless_it_leaves_a_gap(scanner, refused):
    scanner.stack((0.0, 2.5, 7.5))
    scanner.slice(ImagePositionPatient=None)
    assert refused(scanner.folder).reason == "missing_slices"


def test_rule_15_no_geometry_at_all(scanner, refused):
    scanner.stack(ImageOrientationPatient=None)
    assert refused(scanner.folder).reason == "missing_geometry"


def test_rule_16_mixed_rows(scanner, refused):
    scanner.stack((0.0, 2.5, 5.0))
    scanner.slice(7.5, pixels=np.zeros((4, 4), np.int16))
    assert refused(scanner.folder).reason == "inconsistent_geometry"


@pytest.mark.parametrize(
    ("sop", "reason"),
    [
        (SR, "no_pixel_data"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "no_pixel_data"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "no_pixel_data"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "no_pixel_data"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "no_pixel_data"),
        ("1.2.840.10008.1.3.10", "no_pixel_data"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "unsupported_sop"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "unsupported_sop"),
        ("1.2.840.10008.5.1.4.1.1.77.1.6", "unsupported_sop"),
        ("1.3.6.1.4.1.9999.1", "unsupported_sop"),
    ],
)
def test_rule_26_not_an_image(scanner, refused, sop, reason):
    path = scanner.slice(SOPClassUID=sop, PixelData=None if reason == "no_pixel_data" else b"\0" * 24)
    assert refused(path).reason == reason
    scanner.series = generate_uid()
    scanner.stack()
    volume = load(scanner.folder)
    assert volume.array.shape == (4, 3, 5)
    assert dict(volume.certificate.files_set_aside) == {reason: 1}


def test_rule_27_secondary_and_burnt_in_images_load(scanner):
    path = scanner.slice(SOPClassUID=SC, ImageType=["DERIVED", "SECONDARY"], BurnedInAnnotation="YES")
    assert load(path).array.shape == (3, 4)


def test_rule_31_the_certificate_notes_what_a_reader_should_know(scanner):
    scanner.stack((0.0, 2.5, 5.0), SliceThickness=5)
    scanner.slice(7.5, SOPClassUID=SR, PixelData=None)
    notes = load(scanner.folder).certificate.notes
    assert "only 3 slices" in notes
    assert "SliceThickness 5 mm, slice spacing 2.5 mm" in notes


def test_rule_31_overlays_are_noted(scanner):
    dataset = scanner.dataset()
    dataset.add_new(0x60000010, "US", 3)
    dataset.add_new(0x60000011, "US", 4)
    dataset.add_new(0x60003000, "OW", b"\0\0")
    assert "overlays (not burnt in)" in load(scanner.save(dataset)).certificate.notes


def test_rule_32_one_bad_series_does_not_stop_the_others(scanner):
    scanner.stack()
    scanner.series = generate_uid()
    for z in (0.0, 2.5, 10.0):
        scanner.slice(z)
    (scanner.folder / "notes.txt").write_text("not DICOM")
    (scanner.folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    results = {(result.status, result.reason): result for result in load_series(scanner.folder)}
    assert set(results) == {
        ("used", ""),
        ("refused", "missing_slices"),
        ("set_aside", "not_dicom"),
        ("refused", "corrupt"),
    }
    assert sum(len(result.files) for result in results.values()) == 5 + 3 + 1 + 1


def test_load_files_takes_the_files_of_one_series(scanner, refused):
    paths = scanner.stack()
    assert load_files(paths).array.shape == (4, 3, 5)
    assert load_files(paths[::-1]).certificate == load_files(paths).certificate
    scanner.series = generate_uid()
    other = scanner.slice()
    assert refused([*paths, other], load_files).reason == "multiple_series"
    assert refused([], load_files).reason == "no_dicom"


def test_two_radiographs_in_one_series_are_two_images(scanner, refused):
    for view in ("PA", "LL"):
        scanner.slice(Modality="DX", ViewPosition=view, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1")
    assert refused(scanner.folder).reason == "multiple_volumes"
    assert [result.content.array.shape for result in load_series(scanner.folder)] == [(3, 4), (3, 4)]


def test_slices_of_two_frames_of_reference(scanner, refused):
    scanner.stack((0.0, 2.5, 5.0))
    scanner.frame = generate_uid()
    scanner.slice(7.5)
    assert refused(scanner.folder).reason == "inconsistent_geometry"


def test_a_frame_of_reference_per_slice_says_nothing(scanner):
    for z in (0.0, 2.5, 5.0):
        scanner.frame = generate_uid()
        scanner.slice(z)
    assert load(scanner.folder).array.shape == (4, 3, 3)


def test_an_empty_folder(tmp_path, refused):
    assert refused(tmp_path).reason == "no_dicom"
    assert refused(tmp_path / "nowhere").reason == "no_dicom"
    (tmp_path / "notes.txt").write_text("nothing")
    assert refused(tmp_path).reason == "no_dicom"
