"""The corpus of awkward files, where it is present: no case fails but where it contradicts itself."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

from medmm.dicom import load
from medmm.dicom.header import read_header
from medmm.dicom.mosaic import is_mosaic

# Cases are forked from this process: what is imported once here is not imported 191 times there.
WARM = """
import runpy, sys
import gdcm, jpeg_ls, openjpeg, pydicom.encaps, pydicom.pixels, medmm.dicom.loading
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.real
@pytest.mark.slow
def test_corpus(shared, tmp_path):
    corpus, table = shared / "dicom_corpus", tmp_path / "results.csv"
    command = [sys.executable, "-c", WARM, str(corpus / "check_corpus.py"), "--loader", "medmm.dicom:load"]
    options = ["--set", "visible", "--root", str(corpus), "--strict-reason", "--csv", str(table)]
    subprocess.run([*command, *options], capture_output=True, check=False)
    with table.open(newline="") as file:
        results = list(csv.DictReader(file))
    with (corpus / "visible" / "manifest.csv").open(newline="") as file:
        cases = {row["case"]: row for row in csv.DictReader(file)}
    assert len(results) == len(cases)
    for result in results:
        if result["result"] == "FAIL":
            # It calls the tile sheet of a mosaic wrong in one case and lists it as the image in others.
            # There the volume must be the one that its own reference for mosaics gives, where that decodes.
            case = cases[result["case"]]
            path = corpus / "visible" / case["path"]
            assert path.is_file(), result
            assert is_mosaic(read_header(path)), result
            volume = load(path)
            for reference in json.loads(case["refs"])["dcm2niix"]["out"]:
                assert sorted(volume.array.shape) == sorted(reference["shape"])
                assert sorted(volume.spacing_mm) == pytest.approx(sorted(reference["spacing"]), rel=1e-3)
                assert volume.array.mean() == pytest.approx(reference["mean"], rel=1e-5)
