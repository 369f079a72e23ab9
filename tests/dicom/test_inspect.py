"""What a person is shown of a DICOM folder."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import generate_uid

from medmm.dicom import scan
from medmm.dicom.inspect import LONGEST_SIDE, file_lines, inspect, outline, table_lines

KEY = b"k" * 32


@pytest.fixture
def index(scanner):
    """A volume, one with a gap, a 2-D image and a text file."""
    scanner.stack(SeriesDescription="Chest\x1b[31m 5.0", PatientID="REAL-ID")
    scanner.series = generate_uid()
    for number, z in enumerate((0, 2, 4, 8, 10)):
        scanner.slice(z, f"gap/{number}.dcm", PatientID="REAL-ID")
    scanner.series = generate_uid()
    flat = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    scanner.save(scanner.dataset(Modality="DX", PatientID="REAL-ID", **flat), "flat.dcm")
    (scanner.folder / "note.txt").write_text("no DICOM")
    return scan(scanner.folder)


def test_the_outline_says_from_headers_what_inspecting_finds(index):
    planned = sorted(outline(index, KEY), key=repr)
    found = [thing.row for thing in inspect(index, KEY, processes=1)]
    for row in planned:
        (loaded,) = (other for other in found if other.series == row.series)
        assert (row.status == "usable") == (loaded.status == "used")
        assert row.reason == loaded.reason
        if row.status == "usable":
            assert (row.shape, row.spacing_mm, row.files) == (loaded.shape, loaded.spacing_mm, loaded.files)
    assert sorted(row.reason for row in planned) == ["", "", "missing_slices"]


def test_nothing_of_the_patient_and_nothing_that_steers_a_terminal_is_shown(index):
    text = "\n".join([*table_lines(outline(index, KEY)), *file_lines(index)])
    assert "Chest?[31m 5.0" in text
    assert text.count("descriptions are as typed at the scanner: one may name a person") == 1
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "REAL-ID" not in text
    assert not any(entry.series_uid in text for entry in index.series)
    assert "4 x 3 x 5" in text
    assert "missing_slices: of 5 slices, missing: 1 after slice 3" in text


def test_a_table_without_descriptions_needs_no_warning(scanner):
    scanner.stack()
    header, only = table_lines(outline(scan(scanner.folder), KEY))
    assert header.startswith("patient")
    assert "usable" in only


def test_the_counts_of_files_add_up(index):
    first, *rest = file_lines(index)
    assert first == "12 files, 3 series, 12 opened in this scan"
    assert sum(int(line.split()[0]) for line in rest) == 12
    assert "        1  set_aside: not_dicom" in rest


def test_pictures_are_small_and_have_square_pixels(index):
    calls = []
    found = list(inspect(index, KEY, processes=2, progress=lambda done, of: calls.append((done, of))))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    pictures = {thing.row.modality: thing.picture for thing in found if thing.picture}
    assert set(pictures) == {"CT", "DX"}
    volume, image = pictures["CT"], pictures["DX"]
    # 4 columns of 0.8 mm and 3 rows of 0.5 mm; of five slices, the middle three.
    assert volume.array.shape == (LONGEST_SIDE, LONGEST_SIDE * 1.5 / 3.2, 3)
    assert (volume.axes, image.axes) == (("R", "A"), None)
    assert image.array.ndim == 2
    assert volume.array.dtype == np.float32
    assert volume.caption.endswith(" CT 4 x 3 x 5")
