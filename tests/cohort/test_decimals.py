"""Numbers with a decimal comma mean what they mean, in tables that say so and in no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from medmm.cohort.decimals import Numbers, with_decimal_points
from medmm.cohort.draft import draft
from medmm.columns import Status
from medmm.errors import ConfigError, DataError
from medmm.sources.duck import Engine
from medmm.sources.tables import open_table

HEAD = ("patient_id", "seen_at", "age", "sex", "site")
TAKEN = "2024-03-01 08:00"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1,5", "1.5"),
        ("0,875", "0.875"),
        (",5", ".5"),
        ("-3,", "-3."),
        ("1.234,5", "1234.5"),
        ("1.234", "1234"),
        ("1\u202f234,5", "1234.5"),
        ("12 345", "12345"),
        ("<0,5", "<0.5"),
        ("≥ 2,5 H", "≥2.5H"),
        ("7", "7"),
        ("inf", "inf"),
        ("12.5", "no decimal comma: 12.5"),
        ("0.875", "no decimal comma: 0.875"),
        ("1,2,3", "no decimal comma: 1,2,3"),
        ("k.A.", "k.A."),
        ("-9.9", "-9.9"),
    ],
)
def test_a_cell_is_read_with_its_comma(tmp_path: Path, written: str, read: str) -> None:
    (tmp_path / "t.csv").write_text(f"a;b\n {written} ; {written} \n", encoding="utf-8")
    with Engine() as engine:
        table = open_table(engine, tmp_path, "t.csv")
        found = with_decimal_points(table, {"a": Numbers(missing=frozenset({"-9.9"}))})
        ((a, b),) = engine.rows(f"SELECT trim(a), trim(b) FROM {found.relation}")
    assert (a, b) == (read, written)


def test_a_cohort_of_commas_is_the_same_as_one_of_points(small: Any) -> None:
    rows = [("001", "2024-03-01 12:00:00", "50.5", "m", "1,5"), ("002", "2024-03-02", "1e1", "f", "2,5")]
    small.write("records.csv", HEAD, rows)
    small.results([("001", "<0.5", "mg/L", TAKEN), ("001", "1234.5", "ug/L", TAKEN)])
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1.25"), ("002", "7")])
    small.spec["outcomes"]["ill"] = {"table": "labels.csv", "kind": "regression"}
    points = small.link()
    for name in ("records.csv", "results.csv", "labels.csv"):
        text = (small.root / name).read_text(encoding="utf-8")
        (small.root / name).write_text(text.replace(",", ";").replace(".", ","), encoding="utf-8")
    small.write("records.csv", HEAD, [(*row[:2], row[2].replace(".", ","), *row[3:]) for row in rows])
    small.spec["decimal_comma"] = ["records.csv", "results.csv", "labels.csv"]
    commas = small.link()
    assert points.patients[0].targets == {"ill": 1.25}
    assert [p.sources for p in commas.patients] == [p.sources for p in points.patients]
    assert [p.targets for p in commas.patients] == [p.targets for p in points.patients]


def test_numbers_of_the_file_stay_beside_local_times(small: Any) -> None:
    with duckdb.connect() as database:
        database.sql(
            "COPY (SELECT '001' AS patient_id, '2024-03-01T11:00:00Z' AS seen_at, 50.5 :: DOUBLE AS age,"
            " '1,5' AS ratio, 'm' AS sex, 'north' AS site)"
            f" TO '{small.root / 'records.parquet'}' (FORMAT parquet)"
        )
    small.spec = yaml.safe_load(yaml.safe_dump(small.spec).replace("records.csv", "records.parquet"))
    small.spec["records"]["fields"]["ratio"] = {"role": "input", "kind": "number"}
    small.spec |= {"timezone": "Europe/Paris", "decimal_comma": ["records.parquet"]}
    found = small.link().patients[0].sources["records"]
    assert (found["age"].value, found["ratio"].value) == (50.5, 1.5)


def test_a_point_in_a_table_of_commas_cannot_be_read(small: Any) -> None:
    small.write("records.csv", HEAD, [("001", TAKEN, "50.5", "m", ""), ("002", TAKEN, "50,5", "m", "")])
    small.spec["records"]["max_unparsable"] = 0.9
    small.spec["decimal_comma"] = ["records.csv"]
    assert small.link().patients[0].sources["records"]["age"].status is Status.UNPARSABLE


@pytest.mark.parametrize("called", ["code", "name"])
@pytest.mark.parametrize("shared", [False, True])
def test_words_of_other_events_stay_as_they_are(small: Any, called: str, shared: bool) -> None:
    """Also where the results of a cohort are rows of the same table."""
    head = ("patient_id", called, "value", "unit", "taken")
    rows = [("001", "weight", "70,5", "kg", TAKEN), ("001", "icd", "1.5", "", TAKEN)]
    small.write("events.csv", head, [*rows, ("001", "CRP", "0,875", "mg/L", TAKEN)])
    columns = {called: called, "value": "value", "unit": "unit", "time": "taken"}
    small.spec["records"]["events"] = {"table": "events.csv", "columns": columns}
    weight = {"role": "input", "kind": "number", "unit": "kg", "event": "weight"}
    small.spec["records"]["fields"]["kg"] = weight
    small.spec["records"]["fields"]["stage"] = {"role": "input", "kind": "category", "event": "icd"}
    small.spec["decimal_comma"] = ["events.csv"]
    if shared:
        crp = {"role": "input", called: "CRP", "unit": "mg/L"}
        shares = {"table": "events.csv", "columns": dict(columns), "results": {"crp": crp}}
        small.spec["biomarkers"] |= shares | {"other_results": "they are events"}
    found = small.link().patients[0].sources
    assert (found["records"]["kg"].value, found["records"]["stage"].value) == (70.5, "1.5")
    if shared:
        assert found["biomarkers"]["crp"].value == 0.875


def test_a_day_has_a_comma_too(small: Any) -> None:
    small.spec["prediction_time"] = {"day": 0}
    small.spec["never_columns"] = {"records.csv": {"seen_at": "a date"}}
    small.write(
        "results.csv", ("patient_id", "test", "value", "unit", "day"), [("001", "CRP", "1,5", "mg/L", "-2,5")]
    )
    small.spec["biomarkers"]["columns"] = {"name": "test", "value": "value", "unit": "unit", "day": "day"}
    small.spec["biomarkers"]["results"]["crp"].pop("code", None)
    small.spec["biomarkers"]["results"]["crp"]["name"] = "CRP"
    small.spec["decimal_comma"] = ["results.csv"]
    found = small.values()["crp"]
    assert (found.value, found.offset_days) == (1.5, -2.5)


def test_a_table_without_numbers_is_refused(small: Any) -> None:
    small.spec["decimal_comma"] = ["labels.csv"]
    with pytest.raises(ConfigError, match=r"decimal_comma: 'labels.csv' is read for no numbers"):
        small.load()


def test_a_comma_without_a_declaration_is_refused_with_what_to_declare(small: Any) -> None:
    small.write("records.csv", HEAD, [("001", "2024-03-01", "0,875", "m", "north")])
    with pytest.raises(DataError, match="decimal_comma"):
        small.link()


def test_the_draft_sees_the_commas(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"{n:03d};2024-01-{1 + n % 28:02d};{20 + n},5;{n % 3}" for n in range(60)]
    (data / "people.csv").write_text("patient_id;seen;bmi;stage\n" + "\n".join(rows), encoding="utf-8")
    drafted = draft(data, tmp_path / "cohort").cohort.read_text(encoding="utf-8")
    values = yaml.safe_load(drafted)
    assert values["decimal_comma"] == ["people.csv"]
    assert values["records"]["fields"]["bmi"] == {"role": "input", "kind": "number", "unit": "kg/m2"}


@pytest.mark.parametrize(
    ("unit", "shown"), [("µg/L", "1234"), ("\u03bcg/L", "1234"), ("ng/mL", "1234 ng/mL")]
)
def test_a_micro_of_any_letter_is_no_other_unit(small: Any, unit: str, shown: str) -> None:
    small.spec["biomarkers"]["results"]["crp"] |= {"unit": "ug/L", "plausible": [0, 1e6]}
    small.results([("001", "1234", unit, TAKEN)])
    found = small.values()["crp"]
    assert (found.value, found.text) == (1234.0, shown)
