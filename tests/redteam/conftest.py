"""A small cohort of text files, to be spoilt in one way at a time."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmm.cohort.spec import CohortSpec, load_spec


class Small:
    """Writes a cohort of three records without results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec: dict[str, Any] = {
            "name": "small",
            "subjects": {"table": "records.csv", "id": "patient_id"},
            "prediction_time": {"table": "records.csv", "column": "seen_at", "resolution": "second"},
            "outcomes": {"ill": {"table": "labels.csv", "positive": 1, "negative": 0}},
            "records": {
                "table": "records.csv",
                "fields": {
                    "age": {"role": "input", "kind": "number"},
                    "sex": {"role": "input", "kind": "category"},
                    "site": {"role": "subgroup", "kind": "category"},
                },
            },
            "splits": {"folds": 3},
        }
        head = ("patient_id", "seen_at", "age", "sex", "site")
        self.write("records.csv", head, [("001", "2024-03-01 12:00", "50", "m", "north")])
        self.write("labels.csv", ("patient_id", "ill"), [("001", "1")])

    def write(self, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        with (self.root / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])

    def load(self) -> CohortSpec:
        (self.root / "cohort.yaml").write_text(yaml.safe_dump(self.spec), encoding="utf-8")
        return load_spec(self.root)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)
