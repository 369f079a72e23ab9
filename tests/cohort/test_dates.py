"""Dates of another form than ISO 8601 mean what they mean, and nothing else does."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmm.cohort.dates import FORMS
from medmm.cohort.draft import draft
from medmm.cohort.link import Cohort
from medmm.errors import ConfigError, DataError
from medmm.sources.duck import Engine, literal

STRFTIME = {"dd": "%d", "mm": "%m", "yyyy": "%Y"}
HEAD = ("patient_id", "code", "name", "value", "unit", "taken", "reported")
FIELDS = {
    "age": {
        "role": "input",
        "kind": "number",
        "unit": "a",
        "age_from": "born",
        "missing_codes": ["01.01.1900"],
    },
    "smoked": {"role": "input", "kind": "date", "plausible": [-40000, 0]},
}


def day_of(form: str) -> str:
    return re.sub("dd|mm|yyyy", lambda part: STRFTIME[part[0]], form)


def spelt(iso: str, form: str) -> str:
    """An ISO cell in a form; what is no date of the calendar keeps its digits and its shape."""
    if not iso or form == "iso":
        return iso
    day, _, clock = iso.partition(" ")
    year, month, dom = day.split("-")
    written = form.replace("yyyy", year).replace("mm", month).replace("dd", dom)
    return f"{written} {clock}".strip()


def cohort(small: Any, form: str) -> Cohort:
    """Three people whose every date is written in this form; some cells are no dates."""
    people = [
        ("001", "2024-03-05 12:00:00", "1950-03-06", "2001-02-03"),
        ("002", "2024-03-06 00:30", "1980-02-29", "2001-02-31"),
        ("003", "2024-13-01", "1970-01-01", ""),
    ]
    results = [
        ("001", "1", "2024-03-04 11:59:59", "2024-03-05 12:00:00"),
        ("001", "2", "2024-03-04 13:00", "2024-03-05 12:00:01"),
        ("001", "3", "2024-02-30", ""),
        ("002", "4", "2024-02-01", "2024-02-02"),
        ("002", "5", "2024-03-06 00:31", ""),
    ]
    fields = {name: {**field} for name, field in FIELDS.items()}
    small.spec["records"] = {"table": "records.csv", "fields": fields, "max_unparsable": 0.9}
    biomarkers = small.spec["biomarkers"]
    biomarkers["columns"] |= {"available_at": "reported"}
    biomarkers["results"]["crp"] |= {"window_days": 3650, "summary": ["last", "min", "max", "count"]}
    small.write(
        "records.csv",
        ("patient_id", "seen_at", "born", "smoked"),
        [(i, spelt(seen, form), spelt(born, form), spelt(s, form)) for i, seen, born, s in people],
    )
    small.results(
        [(i, "1988-5", "", v, "mg/L", spelt(t, form), spelt(r, form)) for i, v, t, r in results], HEAD
    )
    if form != "iso":
        small.spec["dates"] = {
            "records.csv": {"seen_at": form, "born": form, "smoked": form},
            "results.csv": {"taken": form, "reported": form},
        }
    return small.link()


def told(found: Cohort) -> tuple[Any, ...]:
    """What does not depend on how a cell that cannot be read was spelt."""

    def values(sources: Any) -> list[tuple[Any, ...]]:
        read = (value for block in ("records", "biomarkers") for value in sources[block].values())
        return [(value.value, value.status, value.offset_days) for value in read]

    return (
        [(patient.subject_id, values(patient.sources)) for patient in found.patients],
        found.days,
        dict(found.excluded),
        found.flow.results,
        {name: sum(cells.values()) for name, cells in found.flow.unparsable.items()},
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_time_column_reads_the_same_in_every_form(small: Any, form: str) -> None:
    expected = told(cohort(small, "iso"))
    assert expected[1] == {"001": 19787.0, "002": 19788.0}
    assert sum(expected[4].values()) > 0
    assert told(cohort(small, form)) == expected
    whole = small.link()
    alone = small.link(subjects=["001"])
    assert [p for p in whole.patients if p.subject_id == "001"] == list(alone.patients)


def test_a_parquet_file_of_text_is_read_and_one_of_times_needs_no_form(small: Any) -> None:
    expected = told(cohort(small, "dd.mm.yyyy"))
    small.spec["biomarkers"]["table"] = "results.parquet"
    small.spec["dates"]["results.parquet"] = small.spec["dates"].pop("results.csv")
    text = f"SELECT * FROM read_csv({literal(str(small.root / 'results.csv'))}, all_varchar=true)"
    for value in ("value", "CAST(value AS DOUBLE)"):  # of a file with numbers its own types are read
        with Engine() as engine:
            copied = f"SELECT * REPLACE ({value} AS value) FROM ({text})"
            engine.copy(copied, small.root / "results.parquet", "FORMAT parquet")
        assert told(small.link())[:-1] == expected[:-1]
    with Engine() as engine:
        times = f"SELECT * REPLACE (TIMESTAMP '2024-01-01' AS taken) FROM ({text})"
        engine.copy(times, small.root / "results.parquet", "FORMAT parquet")
    with pytest.raises(DataError, match="'taken' is a TIMESTAMP in the file and needs no form"):
        small.link()


def test_a_cell_of_another_form_is_counted_and_never_guessed(small: Any) -> None:
    cohort(small, "dd.mm.yyyy")
    small.spec["biomarkers"]["max_unparsable"] = 0.9
    rows = ["2024-02-01", "02/01/2024", "1.2.24", "31.12.2023", "13:00", "1.2.2024 5:43 pm"]
    small.results(
        [("001", "1988-5", "", str(place), "mg/L", taken, "") for place, taken in enumerate(rows)], HEAD
    )
    found = small.link()
    assert found.flow.results.parts["unparsable"] == 4
    values = [value.value for value in found.patients[0].sources["biomarkers"].values()]
    assert values == [5.0, 3.0, 5.0, 2.0]  # last, min, max, count


def test_a_placeholder_is_declared_as_the_table_writes_it(small: Any) -> None:
    cohort(small, "dd.mm.yyyy")
    text = (small.root / "records.csv").read_text()
    (small.root / "records.csv").write_text(text.replace("06.03.1950", "01.01.1900"))
    assert small.link().patients[0].sources["records"]["age"].value is None
    (small.root / "records.csv").write_text(text.replace("06.03.1950", "01.02.1900"))
    assert small.link().patients[0].sources["records"]["age"].value == 124.0


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        ({"results.csv": {"taken": "dd.mm.yy"}}, "no form of dates; one of dd.mm.yyyy"),
        ({"results.csv": {"taken": "yyyy-mm-dd"}}, "is ISO 8601"),
        ({"results.csv": {"value": "dd.mm.yyyy"}}, "results.csv: value is read as no date"),
        ({"result.csv": {"taken": "dd.mm.yyyy"}}, "did you mean 'results.csv: taken'"),
    ],
)
def test_a_form_that_means_nothing_is_refused(small: Any, dates: Any, said: str) -> None:
    small.spec["dates"] = dates
    with pytest.raises(ConfigError, match=re.escape(said)):
        small.load()


def test_rows_are_not_chosen_by_a_date_that_is_rewritten(small: Any) -> None:
    small.spec["dates"] = {"results.csv": {"taken": "dd.mm.yyyy"}}
    small.spec["biomarkers"]["where"] = {"taken": "01.02.2024"}
    with pytest.raises(ConfigError, match="taken is also in a `where`"):
        small.load()


def test_the_digest_of_a_cohort_of_iso_dates_is_what_it_was(small: Any) -> None:
    from medmm.cohort.link import specification_text

    assert "dates" not in yaml.safe_load(specification_text(small.load()))
    before = small.link().digest
    small.spec["dates"] = {"results.csv": {"taken": "dd.mm.yyyy"}}
    assert "dates" in yaml.safe_load(specification_text(small.load()))
    assert small.link().digest != before


@pytest.mark.parametrize(
    ("days", "form", "asked"),
    [
        (28, "%d.%m.%Y %H:%M", ""),
        (28, "%m/%d/%Y", ""),
        (12, "%d/%m/%Y", "every cell fits dd/mm/yyyy and mm/dd/yyyy: which is it?"),
    ],
)
def test_a_draft_proposes_the_form_that_fits_every_cell(
    tmp_path: Path, days: int, form: str, asked: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    seen = [datetime(2024, 1 + n % 12, 1 + n % days, 5, 43).strftime(form) for n in range(60)]
    rows = "".join(f"P{n},{when},{40 + n}\n" for n, when in enumerate(seen))
    (data / "records.csv").write_text(f"patient_id,seen,age\n{rows}")
    tests = "".join(f"P{n},CRP,{n},mg/L,{when}\n" for n, when in enumerate(seen) for _ in range(2))
    (data / "lab.csv").write_text(f"patient_id,test,value,unit,taken\n{tests}")
    draft(data, tmp_path / "out")
    text = (tmp_path / "out" / "cohort.yaml").read_text()
    spec = yaml.safe_load(text)
    written = next(name for name in FORMS if day_of(name) == form.split(maxsplit=1)[0])
    assert spec["dates"] == {"records.csv": {"seen": written}, "lab.csv": {"taken": written}}
    assert spec["prediction_time"]["column"] == "seen"
    assert spec["prediction_time"]["resolution"] == ("second" if "%H" in form else "day")
    assert text.count("every cell fits") == (2 if asked else 0)
    assert asked in text


def test_a_placeholder_of_an_event_and_of_a_shared_birth_date_is_declared_so_too(small: Any) -> None:
    cohort(small, "dd.mm.yyyy")
    fields = small.spec["records"]["fields"]
    fields["years"] = {**fields["age"], "missing_codes": []}
    fields["treated"] = {"role": "input", "kind": "date", "event": "T", "missing_codes": ["31.12.1899"]}
    columns = {"code": "code", "value": "value", "unit": "unit", "time": "taken"}
    small.spec["records"]["events"] = {"table": "events.csv", "columns": columns}
    small.spec["dates"]["events.csv"] = {"value": "dd.mm.yyyy", "taken": "dd.mm.yyyy"}
    rows = [("001", "T", "31.12.1899", "", "1.2.2024"), ("002", "T", "1.2.2024", "", "2.2.2024")]
    small.write("events.csv", ("patient_id", "code", "value", "unit", "taken"), rows)
    text = (small.root / "records.csv").read_text()
    (small.root / "records.csv").write_text(text.replace("06.03.1950", "01.01.1900"))
    first, second = (patient.sources["records"] for patient in small.link().patients)
    assert (first["treated"].value, first["age"].value) == (None, None)
    assert (second["treated"].value, second["age"].value) == (-34.0, 44.0)
