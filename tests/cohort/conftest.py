"""A small cohort of text files, written by each test as it needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmm.cohort.draft import draft
from medmm.cohort.link import Cohort, link
from medmm.cohort.spec import CohortSpec, load_spec

KEY = b"k" * 32
SPEC: dict[str, Any] = {
    "name": "small",
    "subjects": {"table": "records.csv", "id": "patient_id"},
    "prediction_time": {"table": "records.csv", "column": "seen_at", "resolution": "second"},
    "outcomes": {"ill": {"table": "labels.csv", "positive": 1}},
    "records": {
        "table": "records.csv",
        "fields": {
            "age": {"role": "input", "kind": "number", "unit": "a", "plausible": [0, 120]},
            "sex": {"role": "input", "kind": "category"},
            "site": {"role": "subgroup", "kind": "category"},
        },
    },
    "biomarkers": {
        "table": "results.csv",
        "columns": {"code": "code", "name": "name", "value": "value", "unit": "unit", "time": "taken"},
        "results": {"crp": {"role": "input", "code": "1988-5", "unit": "mg/L", "plausible": [0, 1000]}},
        "max_unparsable": 0.5,
    },
}
RECORDS = [
    ("001", "2024-03-01 12:00:00", "50", "m", "north"),
    ("002", "2024-03-02 12:00:00", "", "f", "south"),
    ("003", "2024-03-03 12:00:00", "70", "", "south"),
]
LABELS = [("001", "1"), ("002", "0"), ("003", "")]
HEAD = ("patient_id", "code", "name", "value", "unit", "taken")


def csv_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text

    return "".join(",".join(cell(c) for c in row) + "\n" for row in (head, *rows))


class Small:
    """Writes a cohort and links it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec: dict[str, Any] = yaml.safe_load(yaml.safe_dump(SPEC))
        self.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), RECORDS)
        self.write("labels.csv", ("patient_id", "ill"), LABELS)
        self.results([])

    def write(self, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        (self.root / name).write_text(csv_text(head, rows), encoding="utf-8")

    def results(self, rows: Sequence[Sequence[str]], head: Sequence[str] = HEAD) -> None:
        """Rows (id, value, unit, taken, …), or whole rows when there are as many cells as columns."""
        whole = [row if len(row) == len(head) else (row[0], "1988-5", "", *row[1:]) for row in rows]
        self.write("results.csv", head, whole)

    def load(self) -> CohortSpec:
        path = self.root / "cohort.yaml"
        path.write_text(yaml.safe_dump(self.spec), encoding="utf-8")
        return load_spec(path)

    def link(self, **options: Any) -> Cohort:
        return link(self.load(), self.root, key=KEY, **options)

    def values(self, subject: str = "001", **options: Any) -> Mapping[str, Any]:
        """The biomarkers row of one subject."""
        patient = next(p for p in self.link(**options).patients if p.subject_id == subject)
        source = patient.sources["biomarkers"]
        assert isinstance(source, Mapping)
        return source


def drafted(data: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Draft a cohort and a recipe; return both as read, and the questions."""
    found = draft(data, out, pipeline=out / "pipeline")
    assert found.recipe is not None
    asked = [question for _, _, question in found.questions]
    return yaml.safe_load(found.cohort.read_text()), yaml.safe_load(found.recipe.read_text()), asked


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Find a folder of the shared data, or skip."""

    def find(name: str) -> Path:
        base = os.environ.get("MEDMM_SHARED") or Path(__file__).parents[2].parent / "shared"
        path = Path(base) / name
        if not path.exists():
            pytest.skip(f"{path} is not here")
        return path

    return find
