"""Whole courses of results, and notes: the same rules of time as a single value."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmm.cohort.spec import load_spec
from medmm.columns import NotesSpec, ResultSpec, Status
from medmm.errors import ConfigError, DataError
from medmm.sample import Absence, NotesSource, TimedSeries

T = "2024-03-01 12:00:00"


def _source(small: Any, block: str, subject: str = "001") -> Any:
    return next(p for p in small.link().patients if p.subject_id == subject).sources[block]


@pytest.fixture
def course(small: Any) -> Any:
    block = small.spec["biomarkers"]
    block["results"]["crp"] |= {"series": True, "window_days": 10}
    block["results"]["hb"] = {"role": "input", "code": "718-7", "unit": "g/dL", "series": True, "summary": []}
    return small


def test_a_course_holds_every_result_of_the_window_in_time(course: Any) -> None:
    rows = [
        ("001", "718-7", "", "120", "g/L", "2024-02-29 12:00"),
        ("001", "1988-5", "", "<0.6", "mg/L", "2024-02-29 12:00"),
        ("001", "1988-5", "", "1", "mg/dL", "2024-02-28 12:00"),
        ("001", "1988-5", "", "9", "mg/L", "2024-02-01 12:00"),  # outside the window
        ("001", "1988-5", "", "8", "mg/L", "2024-03-01 12:00:01"),  # later
        ("001", "1988-5", "", "8", "mg/L", ""),
        ("001", "1988-5", "", "haemolysed", "mg/L", "2024-02-28"),
    ]
    course.results(rows)
    found = _source(course, "series")
    assert found == TimedSeries(
        ("crp", "hb"), (-2.0, -1.0, -1.0), (0, 0, 1), (10.0, 0.6, 12.0), ("", "<", "")
    )
    assert (len(found), found.as_of_days) == (3, -1.0)
    assert _source(course, "series", "002") == Absence("no_results")
    cohort = course.link()
    assert set(cohort.declarations) == {"records", "biomarkers", "series"}
    assert set(cohort.declarations["biomarkers"]) == {"crp"}  # haemoglobin has no summary
    assert cohort.flow.results.parts["used"] == 3


def test_of_results_at_one_time_the_course_takes_the_one_that_a_summary_would(course: Any) -> None:
    course.results([("001", v, "mg/L", "2024-02-28 12:00") for v in ("5", "7", "7")])
    assert _source(course, "series").value == (7.0,)
    course.spec["biomarkers"]["duplicates"] = "lowest"
    assert _source(course, "series").value == (5.0,)


EVENT = st.tuples(
    st.sampled_from(["001", "002"]),
    st.sampled_from(["1988-5", "718-7"]),
    st.just(""),
    st.sampled_from(["1", "2", "<3"]),
    st.just("g/L"),
    st.sampled_from(["2024-02-28 12:00", "2024-02-29", "2024-03-01T11:59:59", "2024-02-29 00:00:00.5"]),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(EVENT, max_size=12), seed=st.integers(0, 99))
def test_no_order_of_rows_and_no_later_row_shows_in_a_course(
    course: Any, rows: list[tuple[str, ...]], seed: int
) -> None:
    course.results(rows)
    before = [p.sources for p in course.link().patients]
    shuffled = random.Random(seed).sample(rows, len(rows))
    course.results([*shuffled, ("001", "718-7", "", "9", "g/L", "2024-03-01 12:00:00.000001")])
    assert [p.sources for p in course.link().patients] == before
    for subject in ("001", "002"):
        alone = course.link(subjects=[subject]).patients[0]
        assert alone.sources in before


def test_slope_and_time_since_the_last_result(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"]["summary"] = ["slope", "time_since_last"]
    rows = [("001", "4", "mg/L", "2024-02-26 12:00"), ("001", "10", "mg/L", "2024-02-29 12:00")]
    small.results(rows[:1])
    row = small.values()
    assert (row["crp:slope"].value, row["crp:slope"].status) == (None, Status.MISSING)
    assert row["crp:time_since_last"].value == 4.0
    small.results([*rows, ("001", "7", "mg/L", "2024-02-28 00:00")])
    row = small.values()
    assert row["crp:slope"].value == pytest.approx(2.0, abs=1e-12)
    assert {value.offset_days for value in row.values()} == {-1.0}
    assert row["crp:time_since_last"].value == 1.0


def test_an_undated_result_has_no_slope_and_no_age(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"]["summary"] = ["last", "slope", "time_since_last"]
    small.spec["biomarkers"]["undated"] = {"assume_known": "why not"}
    small.results([("001", "4", "mg/L", "")])
    row = small.values()
    assert [row[f"crp:{s}"].value for s in ("last", "slope", "time_since_last")] == [4.0, None, None]


def _notes(small: Any, rows: list[tuple[str, ...]], **input_: Any) -> None:
    small.write("notes.csv", ("patient_id", "written", "filed", "text"), rows)
    columns = {"text": "text", "time": "written", "available_at": "filed"}
    small.spec["notes"] = {"table": "notes.csv", "columns": columns, "input": input_}


NOTES = [
    ("001", "2024-02-29 08:00", "", "second"),
    ("001", "2024-02-20", "", "first"),
    ("001", "2024-02-29 08:00", "", "a third of that hour"),
    ("001", "2024-03-02", "", "later"),
    ("001", "2024-02-29", "2024-03-02", "filed later"),
    ("001", "", "", "of no date"),
    ("001", "yesterday", "", "of no readable date"),
]


def test_notes_are_read_oldest_to_newest_up_to_the_prediction_time(small: Any) -> None:
    _notes(small, NOTES)
    found = _source(small, "notes")
    assert found.text == "first\n\na third of that hour\n\nsecond"
    assert found.as_of_days == pytest.approx(-1 - 4 / 24)
    assert _source(small, "notes", "002") == Absence("no_notes")
    assert small.link().declarations["notes"] == NotesSpec()
    assert small.link().flow.notes.parts == {
        "known": 3,
        "later": 2,
        "undated": 1,
        "without a readable time": 1,
    }
    assert "first" not in repr(found)


def test_the_last_note_or_those_of_a_window(small: Any) -> None:
    _notes(small, NOTES, take="last")
    assert _source(small, "notes").texts == ("second",)
    _notes(small, NOTES, window_days=2)
    assert _source(small, "notes").texts == ("a third of that hour", "second")
    assert small.link().flow.notes.parts["outside the window"] == 1


def test_an_undated_note_that_was_known_comes_first_but_an_unreadable_date_is_no_missing_one(
    small: Any,
) -> None:
    _notes(small, NOTES)
    small.spec["notes"]["undated"] = {"assume_known": "written on referral"}
    found = _source(small, "notes")
    assert (found.texts[0], found.offset_days[0], found.undated) == ("of no date", None, 1)
    assert "of no readable date" not in found.texts
    assert small.link().flow.undated == {"notes": 1}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), later=st.text(alphabet="abc \n", max_size=5))
def test_no_order_of_notes_and_no_later_note_shows(small: Any, seed: int, later: str) -> None:
    _notes(small, NOTES)
    before = _source(small, "notes")
    rows = random.Random(seed).sample(NOTES, len(NOTES))
    _notes(small, [*rows, ("001", "2024-03-01 12:00:01", "", later)])
    assert _source(small, "notes") == before
    assert isinstance(before, NotesSource)


def test_notes_that_mix_clocks_are_refused(small: Any) -> None:
    _notes(small, [("001", "2024-02-29T08:00Z", "", "x")])
    with pytest.raises(DataError, match="UTC offset"):
        small.link()


def test_a_note_has_one_clock(small: Any) -> None:
    _notes(small, NOTES)
    small.spec["notes"]["columns"]["day"] = "filed"
    with pytest.raises(ConfigError, match="`time` or its `day`"):
        small.load()


def test_the_series_block_is_no_image(small: Any) -> None:
    small.spec["images"] = {"series": {"dir": "dicom"}}
    with pytest.raises(ConfigError, match="cannot name an image block"):
        load_spec(small.root) if small.load() else None


def test_a_result_without_any_summary_offers_nothing_by_itself() -> None:
    assert ResultSpec(role="input", code="1", summary=()).summaries == ()
