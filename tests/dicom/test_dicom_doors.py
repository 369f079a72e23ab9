"""`medmm dicom index` and `inspect`, as a person meets them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from medmm.cli import app
from medmm.errors import OutputError
from medmm.sources.duck import read_parquet


@pytest.fixture
def folder(scanner):
    """A bright volume, one with a gap, a radiograph, a cine loop and a text file."""
    scanner.stack(SeriesDescription="Chest")
    scanner.series = generate_uid()
    for z in (0, 2, 6, 8):
        scanner.slice(z, f"gap-{z}.dcm")
    flat = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    scanner.series = generate_uid()
    shade = np.tile(np.arange(60, dtype=np.uint16), (40, 1))
    scanner.save(scanner.dataset(shade, Modality="DX", RescaleIntercept=0, **flat), "flat.dcm")
    scanner.series = generate_uid()
    loop = np.zeros((7, 8, 9), np.uint8)
    scanner.save(
        scanner.dataset(loop, Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", **flat), "us.dcm"
    )
    (scanner.folder / "note.txt").write_text("no DICOM")
    return scanner.folder


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["dicom", *map(str, arguments)], catch_exceptions=False)


def test_index_lists_series_with_geometry_and_every_file(folder, tmp_path):
    ran = invoke("index", folder)
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    (chest,) = (line for line in lines if "Chest" in line)
    for word in ("CT", "5", "usable", "4 x 3 x 5", "0.8 x 0.5 x 2.5"):
        assert word in chest
    assert any("missing_slices" in line for line in lines)
    assert any("multiframe_not_spatial" in line and "US" in line for line in lines)
    assert "12 files, 4 series, 12 opened in this scan" in lines
    assert any(line.split() == ["1", "set_aside:", "not_dicom"] for line in lines)


def test_inspect_draws_the_middle_slices_and_writes_certificates(folder, tmp_path):
    sheet, certificates = tmp_path / "sheet.png", tmp_path / "certificates.parquet"
    ran = invoke("inspect", folder, "--out", sheet, "--certificates", certificates)
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    assert sum(" used " in line for line in lines) == 2
    assert sum(" refused " in line for line in lines) == 2
    assert lines[-1].endswith("4 rows")
    picture = np.asarray(Image.open(io.BytesIO(sheet.read_bytes())).convert("L"))
    # the radiograph runs from black to white, the volume has three middle slices beside it
    assert min(picture.shape) > 150
    assert len(np.unique(picture)) > 40
    columns = read_parquet(certificates)
    assert sorted(columns["reason"]) == ["", "", "missing_slices", "multiframe_not_spatial"]
    assert [4, 3, 5] in columns["shape"]


def test_certificates_go_to_parquet_only(folder, tmp_path):
    with pytest.raises(OutputError, match=r"ends in \.parquet"):
        invoke("inspect", folder, "--out", tmp_path / "s.png", "--certificates", tmp_path / "c.csv")
    with pytest.raises(OutputError, match="no such folder"):
        invoke("inspect", folder, "--out", tmp_path / "s.png", "--certificates", tmp_path / "x" / "c.parquet")
    assert not list(tmp_path.glob("*.png"))
