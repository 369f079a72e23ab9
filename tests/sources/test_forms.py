"""The same cohort from CSV, Parquet, MEDS, OMOP (files, DuckDB, PostgreSQL) and FHIR is the same cohort."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmm.cohort.synthetic.subjects import subjects
from medmm.cohort.synthetic.tables import tables
from tests.sources.conftest import TYPES, load_postgres

SERVICE = pytest.param("omop-postgres", marks=[pytest.mark.service, pytest.mark.xdist_group("postgres")])
FORMS = ("csv", "parquet", "meds", "omop", "omop-duckdb", "fhir", SERVICE)


@pytest.fixture(scope="module")
def synthetic() -> dict[str, list[dict[str, str]]]:
    made = tables(subjects(60, 3), 3)
    return {
        name.removesuffix(".csv"): list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        for name, content in made.items()
        if name.removesuffix(".csv") in ("records", "biomarkers", "notes", "labels")
    }


def _simplified(spec: dict[str, Any]) -> None:
    """What stands beside the fields of the records in a wide table, and in no data model."""
    for name in ("discharge_code",):
        spec["never_columns"].setdefault("records.csv", {})[name] = "known later"
        del spec["records"]["fields"][name]


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_every_form_gives_the_same_joined_table(form: Any, reference: Any, synthetic: Any) -> None:
    for one in (form, reference):
        one.edits.append(_simplified)
        one.write(synthetic)
    expected = reference.told()
    assert form.told() == expected
    assert len(expected["patients"]) == 60
    assert expected["flow"][1]["used"] > 200
    assert {"later", "never", "duplicate", "not in the cohort"} <= set(expected["flow"][1])


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_one_patient_comes_out_as_among_all(form: Any, synthetic: Any) -> None:
    form.edits.append(_simplified)
    form.write(synthetic)
    everybody = form.told()["patients"]
    ids = {real: own for own, real in form.named().items()}
    for subject in (sorted(everybody)[0], sorted(everybody)[17]):
        alone = form.told(subjects=[ids.get(subject, subject)], outcomes=False)["patients"]
        assert [(name, row[:4]) for name, row in alone.items()] == [(subject, everybody[subject][:4])]


def _rewritten(folder: Path, change: Callable[[str], str]) -> None:
    """Change every date and datetime of an OMOP export; the first results are of exactly midnight."""
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for place, row in enumerate(rows):
            if place < 50 and row.get("measurement_datetime"):
                row["measurement_datetime"] = row["measurement_datetime"][:10] + " 00:00:00"
            for name in row:
                if name.endswith(("_date", "_datetime", "available_at")):
                    row[name] = change(row[name])
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("form", ["omop", SERVICE], indirect=True)
def test_a_database_may_keep_its_dates_as_text(form: Any, reference: Any, synthetic: Any) -> None:
    reference.form = reference.data_model = "omop"
    for one in (form, reference):
        one.edits.append(_simplified)
        one.write(synthetic)
    _rewritten(reference.folder / "omop", str)
    expected = reference.told()
    _rewritten(form.folder / "omop", lambda iso: re.sub(r"^(\d{4})-(\d\d)-(\d\d)", r"\3.\2.\1", iso))
    if form.form == "omop-postgres":
        text = {end: kind for end, kind in TYPES.items() if kind not in ("date", "timestamp")}
        load_postgres(form.folder / "omop", os.environ["MEDMM_TEST_OMOP"], text)
    told = form.folder / "cohort-omop.yaml"
    times = {"time": "dd.mm.yyyy", "available_at": "dd.mm.yyyy"}
    dates = {"dates": {"events": times, "notes": {**times}}}  # no anchors in the YAML
    assert form.told()["flow"] != expected["flow"]
    told.write_text(yaml.safe_dump(yaml.safe_load(told.read_text()) | dates))
    assert form.told() == expected
