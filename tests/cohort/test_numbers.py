"""A source that keeps numbers and times as such is read as its texts would be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from medmm.columns import Status
from medmm.errors import DataError
from medmm.sources.duck import Engine, literal

HEAD = ("patient_id", "code", "name", "value", "unit", "taken", "status")
SUMMARIES = ["last", "first", "min", "max", "mean", "count", "slope", "time_since_last"]
ROW = st.tuples(
    st.sampled_from(["001", "002"]),
    st.just("1988-5"),
    st.just(""),
    st.sampled_from(["1.5", "2.25", "-inf", "inf", "nan", "", "5000.0", "-999.0", "1.1", "0.1"]),
    st.sampled_from(["mg/L", "mg/dL", "K/uL", ""]),
    st.sampled_from(
        ["2024-02-28 07:30:00", "2024-02-28 07:30:01", "2023-01-01 00:00:01", "", "2032-01-01 08:00:00"]
    ),
    st.sampled_from(["final", "corrected", "cancelled"]),
)


def _numbers(small: Any) -> None:
    """Write the results once more, with the types of a database."""
    with Engine(threads=1) as engine:
        read = f"read_csv({literal(str(small.root / 'results.csv'))}, all_varchar=true, header=true)"
        typed = "value::DOUBLE AS value, taken::TIMESTAMP AS taken"
        path = small.root / "results.parquet"
        path.unlink(missing_ok=True)
        engine.copy(f"SELECT * REPLACE ({typed}) FROM {read}", path, "FORMAT parquet")
    small.spec["biomarkers"]["table"] = "results.parquet"


def _told(small: Any) -> Any:
    cohort = small.link()
    flow = cohort.flow
    return (
        [p.sources for p in cohort.patients],
        flow.results.parts,
        flow.unparsable,
        flow.findings,
        flow.undated,
    )


@settings(
    max_examples=6,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(ROW, max_size=14), limits=st.booleans(), undated=st.booleans())
def test_numbers_and_instants_come_out_as_their_texts(
    small: Any, rows: list[tuple[str, ...]], limits: bool, undated: bool
) -> None:
    block = small.spec["biomarkers"]
    crp = block["results"]["crp"]
    crp |= {"summary": SUMMARIES, "series": True, "window_days": 30, "missing_codes": ["-999.0"]}
    crp |= {"limits": [0.3, 500]} if limits else {}
    block |= {"table": "results.csv", "max_unparsable": 0.99}
    block["undated"] = {"assume_known": "why not"} if undated else "refuse"
    block["columns"]["status"] = "status"
    small.results([*rows, ("003", "1988-5", "", "1.0", "mg/L", "2024-03-01 08:00:00", "final")], HEAD)
    texts = _told(small)
    _numbers(small)
    assert _told(small) == texts


@pytest.mark.parametrize(
    ("word", "cell", "missing"),
    [("inf", "inf", 1), ("-inf", "-inf", 1), ("nan", "nan", 1), ("-999.0", "-999.0", 1)]
    + [(word, "5.0", 0) for word in ("<5.0", "5.0 H", ">=5.0", "n.a.")],
)
def test_a_missing_code_is_the_number_it_says_and_no_other(
    small: Any, word: str, cell: str, missing: int
) -> None:
    crp = small.spec["biomarkers"]["results"]["crp"]
    crp |= {"missing_codes": [word], "limits": [0.3, 500]}
    small.spec["biomarkers"]["columns"]["status"] = "status"
    row = ("001", "1988-5", "", cell, "mg/L", "2024-02-28 08:00:00", "")
    small.results([row, (*row[:3], "6.0", "mg/L", "2024-02-27 08:00:00", "")], HEAD)
    texts = _told(small)
    _numbers(small)
    assert _told(small) == texts
    assert small.link().flow.results.parts.get("missing", 0) == missing
    assert small.values()["crp"].value == (6.0 if missing else 5.0)


def test_the_unit_of_an_empty_number_is_of_no_account(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"] = {"role": "input", "name": "crp"}  # no code, no catalogue
    small.spec["biomarkers"]["columns"]["status"] = "status"
    small.results([("001", "", "crp", "", "mg/L", "2024-02-28 08:00:00", "")], HEAD)
    _numbers(small)
    assert small.link().flow.results.parts == {"used": 0, "missing": 1}


@pytest.mark.parametrize(("cell", "unit"), [("nan", "mg/L"), ("5.0", "")])
def test_too_many_that_fail_with_no_fault_of_a_unit_are_refused_in_words(
    small: Any, cell: str, unit: str
) -> None:
    small.spec["biomarkers"]["columns"]["status"] = "status"
    small.results([("001", "1988-5", "", cell, unit, "2024-02-28 08:00:00", "")], HEAD)
    with pytest.raises(DataError, match=r"1 of 1 results in results\.csv cannot be read"):
        small.link()
    _numbers(small)
    with pytest.raises(DataError, match=r"1 of 1 results in results\.parquet cannot be read"):
        small.link()


def test_an_instant_without_end_was_known_to_nobody(small: Any) -> None:
    small.spec["biomarkers"]["columns"]["status"] = "status"
    row = ("001", "1988-5", "", "5.0", "mg/L", "-infinity", "")
    small.results([row, ("002", *row[1:5], "2024-02-27 08:00:00", "")], HEAD)
    _numbers(small)
    assert small.values()["crp"].status is Status.UNPARSABLE
    assert small.link().flow.results.parts == {"used": 1, "unparsable": 1}


def test_a_unit_of_a_later_number_is_of_no_account(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"] = {"role": "input", "name": "crp"}  # no code, no catalogue
    later = ("001", "", "crp", "5.0", "mg/L", "2032-01-01 08:00:00", "")
    small.results([later], HEAD)
    small.spec["biomarkers"]["columns"]["status"] = "status"
    _numbers(small)
    assert small.values()["crp"].status is Status.MISSING
    small.results([later, (*later[:5], "2024-02-28 08:00:00", "")], HEAD)
    _numbers(small)
    with pytest.raises(DataError, match="declares no unit"):
        small.link()
