"""The second founding design with patients set aside, trained, scored and explained: run by hand.

python -m pytest tests/sweeps/founding_designs.py
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.designs import Door, explained, trained


def test_notes_and_an_image_with_patients_set_aside(door: Door, written: Path, tmp_path: Path) -> None:
    bundle = trained(door, "synthetic_admission", written, tmp_path / "runs")
    assert {file.stem for file in (bundle / "encoders").iterdir()} == {"notes", "radiograph"}
    vocabulary = json.loads((bundle / "preprocess.json").read_text())["notes"]["state"]
    words = {
        token
        for member in vocabulary.get("members", [vocabulary])
        for token in member["tokenizer"]["model"]["vocab"]
    }
    assert "admitted" in words
    admitted = next(
        line.split(",")[0] for line in (written / "notes.csv").read_text().splitlines() if '"Admitted' in line
    )
    page = explained(door, bundle, written, admitted, tmp_path / "pages")
    assert "1 note" in page
    assert "felt worse" not in page
