"""Resampling by request: a plain slope through space must come out as the same slope, wherever slices lay."""

from __future__ import annotations

import numpy as np
import pytest

from medmm.dicom import load, load_files, load_series

ROWS, COLUMNS = 12, 10


def slope(scanner, corners):
    """Slices whose value is 100 + x + 2 y + 3 z of the place of each pixel (LPS mm)."""
    v, u = np.mgrid[:ROWS, :COLUMNS]
    for number, (x, y, z) in enumerate(corners):
        pixels = 100 + (x + u) + 2 * (y + v) + 3 * z
        assert (pixels == np.rint(pixels)).all()
        scanner.slice(
            z,
            f"{number}.dcm",
            pixels=pixels.astype(np.int16),
            ImagePositionPatient=[x, y, z],
            PixelSpacing=[1, 1],
            RescaleIntercept=0,
        )


def check(volume):
    """Every valid voxel has the value of its place."""
    index = np.argwhere(volume.valid)
    ras = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    expected = 100 - ras[:, 0] - 2 * ras[:, 1] + 3 * ras[:, 2]
    np.testing.assert_allclose(volume.array[tuple(index.T)], expected, rtol=1e-5)
    assert (volume.array[~volume.valid] == 0).all()


def test_rule_09_a_tilted_stack_is_unsheared_by_request(scanner, refused):
    slope(scanner, [(0, 0.5 * z, float(z)) for z in range(0, 12, 2)])
    assert refused(scanner.folder).reason == "gantry_tilt"
    volume = load(scanner.folder, resample=True)
    check(volume)
    assert volume.array.shape == (COLUMNS, ROWS + 5, 6)
    assert volume.spacing_mm == pytest.approx((1, 1, 2))
    assert volume.certificate.notes[-1] == "resampled linearly: the slices are sheared by 26.6 degrees"
    assert int(volume.valid.sum()) == ROWS * COLUMNS * 6


def test_rule_09_half_pixels_are_interpolated_and_the_rim_is_not_valid(scanner):
    slope(scanner, [(0, 0.5 * number, 2.0 * number) for number in range(5)])
    volume = load(scanner.folder, resample=True)
    check(volume)
    assert volume.array.shape[1] == ROWS + 2
    assert volume.valid.sum(axis=(0, 1)).tolist() == [COLUMNS * rows for rows in (12, 11, 12, 11, 12)]


@pytest.mark.parametrize("places", [(0, 2, 4, 8, 10), (0, 2, 4, 5, 7, 9), (10, 0, 2, 6, 4)])
def test_rule_10_uneven_spacing_is_resampled_by_request(scanner, refused, places):
    slope(scanner, [(0, 0, float(z)) for z in places])
    assert refused(scanner.folder).reason in ("missing_slices", "inconsistent_geometry")
    for volume in (
        load(scanner.folder, resample=True),
        load_files(sorted(scanner.folder.iterdir()), resample=True),
        next(load_series(scanner.folder, resample=True)).content,
    ):
        check(volume)
        assert volume.valid.all()
        assert volume.array.shape[2] == round((max(places) - min(places)) / 2) + 1


def test_rule_05_a_wide_gap_is_refused_even_when_resampling_is_asked_for(scanner, refused):
    slope(scanner, [(0, 0, float(z)) for z in (0, 2, 4, 12, 14)])
    refusal = refused(scanner.folder, lambda path: load(path, resample=True))
    assert (refusal.reason, refusal.detail) == (
        "missing_slices",
        "a gap of 8.0 mm is too wide to be resampled",
    )


@pytest.mark.parametrize("start", [-123.4, 10.1, -0.7, 333.33])
@pytest.mark.parametrize("step", [0.625, 0.7, 1.2, 3.3])
def test_rule_05_two_missing_slices_are_bridged_wherever_decimals_round(scanner, step, start):
    places = [round(start + step * number, 4) for number in range(12) if number not in (5, 6)]
    scanner.stack(places)
    volume = load(scanner.folder, resample=True)
    assert volume.array.shape[2] == 12
    assert volume.spacing_mm[2] == pytest.approx(step, rel=1e-3)


def test_rule_34_a_resampled_array_is_bounded_as_any_other(scanner, refused, monkeypatch):
    slope(scanner, [(0, float(z * COLUMNS), float(z)) for z in (0, 1)])
    monkeypatch.setattr("medmm.dicom.volume.MAX_VOLUME_BYTES", 2 * ROWS * COLUMNS * 4)
    refusal = refused(scanner.folder, lambda path: load(path, resample=True))
    assert refusal.reason == "resource_limit"


def test_a_regular_stack_is_not_touched_by_resampling(scanner):
    scanner.stack()
    plain, asked = load(scanner.folder), load(scanner.folder, resample=True)
    np.testing.assert_array_equal(plain.array, asked.array)
    assert plain.certificate == asked.certificate
