"""Slices land on the page the way round a radiologist reads them, and nothing of them is lost."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medmm.report.images import LABEL_COLOURS, Slice, Tile, contact_sheet, frames, image_size, letters

from . import pages


def pixels(png: bytes, mode: str = "L") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert(mode))


def evidence(values: np.ndarray, *, spacing=(1.0, 1.0), axes=("R", "A"), heat=None, **changes):
    part = Slice(values, 1, spacing, axes, map=heat)
    return pages.intensity_evidence(slices=(part,), window=(0.0, 255.0), **changes)


def test_the_right_of_the_patient_is_on_the_left_of_the_viewer_and_anterior_is_up() -> None:
    values = np.zeros((5, 4), dtype=np.float32)  # [x to R, y to A]
    values[4, 3] = 255  # rightmost and most anterior
    (frame,) = frames(evidence(values))
    assert np.argwhere(pixels(frame.original)).tolist() == [[0, 0]]
    assert frame.letters == ("R", "L", "A", "P")


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("R", "A"), ("R", "L", "A", "P")),
        (("R", "S"), ("R", "L", "S", "I")),
        (("A", "S"), ("A", "P", "S", "I")),
    ],
)
def test_letters_of_each_plane(axes, expected) -> None:
    assert letters(axes, ("", "", "", "")) == expected


def test_an_image_as_displayed_keeps_its_rows_and_its_own_letters() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    part = Slice(values, 1, None, None, edges=("R", "", "", ""))
    (frame,) = frames(pages.intensity_evidence(slices=(part,), window=(0, 255)))
    assert (pixels(frame.original) == values).all()
    assert frame.letters == ("R", "", "", "")
    assert frame.scale_mm == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_every_grey_value_within_the_window_survives(seed: int, wide: int, high: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (wide, high)).astype(np.float32)
    (frame,) = frames(evidence(values))
    assert (pixels(frame.original) == values.T[::-1, ::-1]).all()


def test_values_that_are_no_number_are_black() -> None:
    values = np.full((3, 3), np.nan, dtype=np.float32)
    assert not pixels(frames(evidence(values))[0].original).any()


def test_the_picture_is_stretched_to_square_millimetres_with_a_scale_that_fits() -> None:
    (frame,) = frames(evidence(np.zeros((40, 20), dtype=np.float32), spacing=(1.0, 4.0)))
    assert (frame.width, frame.height) == (500, 1000)  # 40 mm across, 80 mm up
    assert frame.scale_mm == 10
    assert frame.scale_share == pytest.approx(10 / 40)


def test_labels_are_painted_in_the_colours_of_the_legend() -> None:
    zones = np.array([[0, 100], [200, 0]], dtype=np.float32)
    part = Slice(zones, 1, (1.0, 1.0), ("R", "A"))
    (frame,) = frames(pages.label_evidence(slices=(part,)))
    painted = pixels(frame.original, "RGB")[::-1, ::-1].swapaxes(0, 1)
    assert [tuple(painted[place]) for place in ((0, 0), (0, 1), (1, 0))] == list(LABEL_COLOURS[:3])


def test_the_map_is_clear_where_faint_and_opaque_where_strong() -> None:
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[3, 3], heat[0, 3], heat[3, 0], heat[0, 0] = 2.0, -1.0, 0.05, 1.0
    (frame,) = frames(evidence(np.zeros((4, 4), dtype=np.float32), heat=heat))
    red, green, blue, alpha = (pixels(frame.overlay, "RGBA")[..., place].astype(int) for place in range(4))
    assert alpha[0, 0] > alpha[3, 3] > 0  # strongest at the right and front; half as strong opposite
    assert alpha[3, 0] == alpha[1, 1] == 0  # 2.5 % of the largest, and none
    assert red[0, 0] > blue[0, 0]  # raises
    assert blue[0, 3] > red[0, 3]  # lowers
    assert green.max() < 256


@pytest.mark.parametrize(("count", "depth"), [(24, 20), (23, None), (1, 20), (7, 3), (2, None)])
def test_a_contact_sheet_is_about_as_wide_as_high(count: int, depth: int | None) -> None:
    shape = (1, 16, 16) if depth is None else (1, 16, 16, depth)
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    width, height = image_size(contact_sheet([Tile(array, "intensity", "1")] * count))
    if count > 7:
        assert 0.6 < width / height < 1.7
    assert max(width, height) < 2600


def test_an_empty_contact_sheet_is_still_a_picture() -> None:
    assert image_size(contact_sheet([]))[0] > 0
