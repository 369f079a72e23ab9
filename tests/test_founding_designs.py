"""The two founding designs, as shipped, through the command line: train, score and explain a few patients."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.designs import Door, explained, somebody, trained

pytestmark = pytest.mark.xdist_group("founding_designs")


def test_an_image_a_course_of_results_and_records_into_a_sigmoid(
    door: Door, written: Path, tmp_path: Path
) -> None:
    bundle = trained(door, "synthetic_course", written, tmp_path / "runs")
    assert {file.stem for file in (bundle / "encoders").iterdir()} == {"ct", "series", "records"}
    patient = somebody(written, "biomarkers.csv")
    page = explained(door, bundle, written, patient, tmp_path / "pages")
    assert re.search(r"C-reactive protein, \d results?", page)
    assert re.search(r"\d results?, newest [\d.]+", page)
    assert patient not in page


def test_notes_and_an_image_fit_together(door: Door, written: Path, tmp_path: Path) -> None:
    """Rehearsed here and trained in tests/sweeps: its modalities are followed to a page by other tests."""
    pipeline = REPOSITORY / "pipelines" / "synthetic_admission"
    done = door("train", pipeline, "--root", written, "--runs", tmp_path / "runs", "--dry-run")
    assert done.code == 0, done.err
    assert re.search(r"notes +\d+ patients, input \(32,\)", done.out)
    assert re.search(r"radiograph +\d+ patients, input \(1, 64, 64\)", done.out)


@pytest.mark.slow
def test_notes_and_an_image_go_into_a_softmax(door: Door, written: Path, tmp_path: Path) -> None:
    pipeline, runs = REPOSITORY / "pipelines" / "synthetic_disposition", tmp_path / "runs"
    done = door("train", pipeline, "--root", written, "--runs", runs, "--smoke")
    assert done.code == 0, done.err
    assert re.search(r"fused +accuracy [\d.]+ .* balanced accuracy [\d.]+ .* macro F1", done.out)
    bundle = next(runs.glob("synthetic_disposition-*")) / "bundle"
    found = json.loads((bundle / "metrics.json").read_text())
    assert sum(map(sum, found["confusion"])) == found["out_of_fold"]["fused"]["patients"]
    assert found["verdict"]["measure"] == "mean AUROC"
    page = explained(door, bundle, written, somebody(written, "disposition.csv"), tmp_path / "pages")
    assert "The probabilities add up to 1" in page
    assert len(re.findall(r"Receipt: (home|ward|intensive care), ", page)) == 3
