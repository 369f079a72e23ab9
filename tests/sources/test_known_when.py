"""What a data model says of when a fact was known, and what it does not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medmm.sources import canonical
from medmm.sources.duck import Engine, literal
from medmm.sources.fhir import FhirSource, _Reader, open_fhir
from medmm.sources.postgres import PostgresSource, _parameters

SEEN = {"subject": {"reference": "Patient/007"}, "effectiveDateTime": "2024-03-01T10:00:00Z"}


def read(resource: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    return list(_Reader(FhirSource(kind="fhir")).read(resource))


def test_a_report_is_written_when_it_is_issued_not_when_the_scan_was_made() -> None:
    report = {"resourceType": "DiagnosticReport", "status": "final", "conclusion": "a mass"} | SEEN
    (_, examined), (_, note) = read(report)
    assert (examined["time"], note["time"], note["text"]) == (SEEN["effectiveDateTime"], "", "a mass")
    (_, _), (_, note) = read(report | {"issued": "2024-03-02T09:00:00Z"})
    assert (note["time"], note["available_at"]) == ("2024-03-02T09:00:00Z", "2024-03-02T09:00:00Z")


@pytest.mark.parametrize(
    ("status", "told"),
    [("active", "active"), ("not-taken", "entered-in-error"), ("intended", "entered-in-error")],
)
def test_a_drug_that_was_not_taken_is_no_drug(status: str, told: str) -> None:
    drug = {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "1191"}]}
    statement = {"resourceType": "MedicationStatement", "status": status, "medicationCodeableConcept": drug}
    ((_, event),) = read(statement | SEEN)
    assert (event["code"], event["status"]) == ("1191", told)


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("Patient/007", "007"), ("https://x.example/fhir/Patient/007", "007"),
        ("Patient/007/_history/2", "007"),
        ("https://x.example/fhir/Patient/007/_history/2", "007"), ("Group/007", "Group/007"),
        ("OtherPatient/007", "OtherPatient/007"), ("urn:uuid:7", "urn:uuid:7"), ("", ""),
    ],
)  # fmt: skip
def test_a_reference_names_the_patient_in_whatever_form(reference: str, subject: str) -> None:
    study = {"resourceType": "ImagingStudy", "subject": {"reference": reference}}
    assert [event["subject_id"] for _, event in read(study)] == [subject]


@pytest.mark.parametrize(
    ("identifier", "names"),
    [("urn:mrn", ["7", "Group/1", "Patient/7", "Patient/8"]), (None, ["7", "8", "A", "Group/1"])],
)
def test_nobody_takes_the_identifier_of_another(
    tmp_path: Path, identifier: str | None, names: list[str]
) -> None:
    """The resource 7 has no identifier, and 7 is the identifier of the resource A."""
    told = [{"resourceType": "Patient", "id": "A", "identifier": [{"system": "urn:mrn", "value": "7"}]}]
    told += [{"resourceType": "Patient", "id": "7"}]
    told += [
        {"resourceType": "ImagingStudy", "subject": {"reference": reference}}
        for reference in ("Patient/A", "Patient/7", "Patient/8", "Group/1")
    ]
    (tmp_path / "all.ndjson").write_text("\n".join(map(json.dumps, told)))
    with Engine(threads=1) as engine:
        found = open_fhir(engine, tmp_path, FhirSource(kind="fhir", identifier=identifier), None)
        events = engine.rows(f"SELECT subject_id FROM {found['events'].relation}")
        people = engine.rows(f"SELECT subject_id FROM {found['subjects'].relation}")
    assert sorted(row[0] for row in events) == sorted(names)
    assert {row[0] for row in people} < set(names)


@pytest.mark.parametrize("zone", ["", "Z", "+00", "+02:00", " -0500"])
@pytest.mark.parametrize("clock", ["00:00", "00:00:00", "00:00:00.000000"])
def test_midnight_is_a_date_whatever_its_zone(clock: str, zone: str) -> None:
    """Taken at its word, a result of noon would have been known since the night before."""
    with Engine(threads=1) as engine:
        for text, told in (
            (f"2024-03-01 {clock}{zone}", "2024-03-01"),
            ("2024-03-01 00:00:01+00", "2024-03-01 00:00:01+00"),
        ):
            day = canonical.day_or_instant(literal(text), midnight_is_a_day=True)
            instant = canonical.day_or_instant(literal(text), midnight_is_a_day=False)
            assert engine.rows(f"SELECT {day}, {instant}") == [(told, text)]


def test_no_host_hides_in_the_name_of_a_service() -> None:
    extensions = pytest.importorskip("psycopg2.extensions")
    told = _parameters(PostgresSource(service="ours host=elsewhere.example password=x"))
    parsed = extensions.parse_dsn(extensions.make_dsn(**told))
    assert parsed == {"service": "ours host=elsewhere.example password=x"}
