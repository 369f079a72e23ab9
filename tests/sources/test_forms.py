"""The same cohort from CSV, Parquet, MEDS, OMOP (files, DuckDB, PostgreSQL) and FHIR is the same cohort."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from medmm.cohort.synthetic.subjects import subjects
from medmm.cohort.synthetic.tables import tables

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
