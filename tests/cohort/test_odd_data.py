"""Data as they should not be: refused or reported with a count and pseudonyms, never quietly missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medmm.cohort.check import check
from medmm.cohort.link import Cohort
from medmm.cohort.site import pseudonym
from medmm.cohort.spec import load_spec
from medmm.columns import Status
from medmm.errors import DataError
from medmm.sources.duck import Engine
from medmm.sources.fhir import FhirSource, open_fhir

KEY = b"k" * 32
WHEN = "2024-02-28"
RECORDS_HEAD = ("patient_id", "seen_at", "age", "sex", "site")


def _found(cohort: Cohort) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {finding.what: (finding.count, finding.examples) for finding in cohort.flow.findings}


@pytest.mark.parametrize("unit", ["K/uL", "mg/zebra", "MG/L"])
def test_a_unit_that_is_not_known_is_counted_with_the_cell_and_named(small: Any, unit: str) -> None:
    small.results([("001", "5", unit, WHEN), ("002", "5", "mg/L", WHEN)])
    assert small.link().flow.unparsable == {"biomarkers.crp": {f"5 {unit}": 1}}
    assert small.values()["crp"].status is Status.UNPARSABLE
    small.spec["biomarkers"]["max_unparsable"] = 0.1
    with pytest.raises(DataError, match=unit):
        small.link()


def test_contradicting_results_are_reported_with_pseudonyms(small: Any) -> None:
    rows = [("001", v, "mg/L", f"{WHEN} 08:00") for v in ("5", "7", "5")]
    small.results([*rows, *[("002", "4", "mg/L", WHEN)] * 2])
    cohort = small.link()
    what = "biomarkers.crp: times with different values of one status; the highest is taken"
    assert _found(cohort) == {what: (1, (pseudonym(KEY, "001"),))}
    assert any(f"look at: {what}: 1" in line for line in check(cohort).lines())
    assert not any("001" in line for line in check(cohort).lines())
    # a correction contradicts nothing
    small.spec["biomarkers"]["columns"]["status"] = "status"
    head = ("patient_id", "code", "name", "value", "unit", "taken", "status")
    cells = [("001", "1988-5", "", v, "mg/L", WHEN, s) for v, s in (("5", "final"), ("7", "corrected"))]
    small.results(cells, head)
    assert _found(small.link()) == {}


@pytest.mark.parametrize(("when", "status"), [("1900-01-01", Status.KNOWN), ("2200-01-01", Status.MISSING)])
def test_dates_that_are_nobodys_are_reported(small: Any, when: str, status: Status) -> None:
    small.results([("001", "5", "mg/L", when)])
    cohort = small.link()
    expected = (1, (pseudonym(KEY, "001"),))
    assert _found(cohort) == {"biomarkers.crp: results dated before 1901 or after 2100": expected}
    assert small.values()["crp"].status is status


@pytest.mark.parametrize(
    ("taken", "same_day", "told"),
    [
        ("2024-02-29T23:30:00Z", "not_known", True),  # 07:30 of the prediction day in Shanghai
        ("2024-02-29 10:00:00+00", "not_known", True),
        ("2024-02-29T09:59:59Z", "not_known", False),
        ("2024-02-29T23:30:00+08:00", "not_known", False),  # the site's own clock
        ("2024-02-29 23:30:00", "not_known", False),
        ("2024-03-01T00:30:00Z", "not_known", False),  # later, so of no account
        ("2024-03-01T10:00:00Z", "known", True),
        ("2024-03-01T09:00:00Z", "known", False),
    ],
)
def test_times_in_utc_beside_a_prediction_day_are_reported(
    small: Any, taken: str, same_day: str, told: bool
) -> None:
    small.spec["prediction_time"]["resolution"] = "day"
    small.spec["same_day"] = {"results": same_day}
    small.results([("001", "5", "mg/L", taken)])
    what = (
        "biomarkers.crp: times in UTC that a clock east of it puts too late for a prediction day; write local"
    )
    found = {finding: count for finding, (count, _) in _found(small.link()).items()}
    assert found == ({f"{what} times, or give predictions a time of day": 1} if told else {})
    small.spec["prediction_time"]["resolution"] = "second"
    small.write("records.csv", RECORDS_HEAD, [("001", "2024-03-01T12:00:00+08:00", "", "", "")])
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1")])
    if "Z" in taken or "+" in taken:
        assert _found(small.link()) == {}


def test_a_prediction_time_of_the_year_1900_is_reported(small: Any) -> None:
    head = ("patient_id", "seen_at", "age", "sex", "site")
    small.write("records.csv", head, [("001", "1900-01-01", "", "", ""), ("002", "2024-01-01", "", "", "")])
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1"), ("002", "0")])
    found = _found(small.link())
    assert found == {"prediction times before 1901 or after 2100": (1, (pseudonym(KEY, "001"),))}


def test_an_id_of_one_source_only_is_reported_both_ways(small: Any) -> None:
    small.results([("009", "5", "mg/L", WHEN)])
    cohort = small.link()
    assert _found(cohort) == {
        "records.csv: ids that stand in other sources only": (1, (pseudonym(KEY, "009"),))
    }
    assert cohort.excluded == {"009": "not_in_subjects"}
    assert all(p.sources["biomarkers"]["crp"].status is Status.MISSING for p in cohort.patients)


def test_two_people_of_one_id_are_refused(small: Any) -> None:
    head = ("patient_id", "seen_at", "age", "sex", "site")
    small.write("records.csv", head, [("001", WHEN, "50", "m", ""), ("001", WHEN, "60", "f", "")])
    with pytest.raises(DataError, match="1 subject has more than one row"):
        small.link()


def test_one_patient_id_of_two_subjects_is_refused(small: Any) -> None:
    small.write("ids.csv", ("patient_id", "pid"), [("001", "P1"), ("002", "P1")])
    small.spec["crosswalk"] = {"table": "ids.csv", "id": "patient_id", "patient_id": "pid"}
    with pytest.raises(DataError, match="1 PatientIDs lead to several subjects"):
        small.link()


def test_two_fhir_patients_of_one_identifier_are_refused(tmp_path: Path) -> None:
    who = {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "001"}]}
    (tmp_path / "p.ndjson").write_text("\n".join(json.dumps(who | {"id": i}) for i in "ab"))
    text = "name: x\nsource: {kind: fhir, identifier: 'urn:mrn'}\nprediction_time: {day: 0}\n"
    (tmp_path / "cohort.yaml").write_text(text)
    from medmm.cohort.link import link

    with pytest.raises(DataError, match="1 subject has more than one row"):
        link(load_spec(tmp_path), tmp_path, key=KEY)


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_line_without_end_is_refused_in_little_memory(small: Any, quote: str) -> None:
    line = b"001,1988-5,," + quote.encode() + b"x" * (24 << 20) + b",mg/L,2024-02-28\n"
    (small.root / "results.csv").write_bytes(b"patient_id,code,name,value,unit,taken\n" + line)
    with pytest.raises(DataError, match=r"results\.csv.*(longer than 2 MB|quote is not closed)"):
        small.link()


def test_a_resource_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medmm.sources.fhir.MAX_LINE_BYTES", 1 << 16)
    (tmp_path / "o.ndjson").write_bytes(b'{"resourceType": "Patient", "id": "' + b"x" * (1 << 17) + b'"}')
    with Engine(threads=1) as engine, pytest.raises(DataError, match=r"o\.ndjson, line 1 is longer"):
        open_fhir(engine, tmp_path, FhirSource(kind="fhir"), None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "no JSON"),
        (b"[1]", "no FHIR resource"),
        (b"{}", "no resourceType"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_line_that_is_no_resource_is_named_and_not_quoted(
    tmp_path: Path, line: bytes, message: str
) -> None:
    (tmp_path / "o.ndjson").write_bytes(b'{"resourceType": "Patient", "id": "secret"}\n' + line)
    with Engine(threads=1) as engine, pytest.raises(DataError, match=message) as caught:
        open_fhir(engine, tmp_path, FhirSource(kind="fhir"), None)
    assert "line 2" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_table_in_latin_1_is_read_and_said(small: Any) -> None:
    text = "patient_id,seen_at,age,sex,site\n001,2024-03-01,50,m,Köln\n"
    (small.root / "records.csv").write_bytes(text.encode("latin-1"))
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1")])
    cohort = small.link()
    assert cohort.patients[0].subgroups == {"site": "Köln"}
    assert _found(cohort) == {
        "records.csv: is not UTF-8 and was read as Latin-1; look at its accents": (1, ())
    }


def test_an_empty_file_is_refused(small: Any) -> None:
    (small.root / "results.csv").write_bytes(b"")
    with pytest.raises(DataError, match=r"results\.csv is empty"):
        small.link()


def test_a_renamed_column_is_named_with_the_nearest(small: Any) -> None:
    small.results([], head=("patient_id", "code", "name", "value", "units", "taken"))
    with pytest.raises(DataError, match=r"no column 'unit' .*did you mean 'units'"):
        small.link()
