"""Results meet the prediction time: what was known, what counts, and where every row ended."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medmm.cohort.moments import Moment, iso_moment, sql_aware, sql_day, sql_instant_us
from medmm.cohort.window import keys
from medmm.columns import ResultSpec, Status
from medmm.errors import ConfigError, DataError
from medmm.sources import duck

DAY = "2024-03-01"
T = f"{DAY} 12:00:00"


def test_takes_the_last_value_at_or_before_the_prediction_time(small: Any) -> None:
    small.results(
        [
            ("001", "3", "mg/L", "2024-02-20 08:00"),
            ("001", "5", "mg/L", f"{DAY} 06:00:00"),
            ("001", "9", "mg/L", f"{DAY} 12:00:01"),
        ]
    )
    value = small.values()["crp"]
    assert (value.value, value.status, value.offset_days) == (5.0, Status.KNOWN, -0.25)
    small.results([("001", "5", "mg/L", T)])
    assert small.values()["crp"].offset_days == 0.0  # the end is inclusive


def test_a_value_without_a_time_of_day_on_the_prediction_day_waits_for_the_cohorts_word(small: Any) -> None:
    small.results([("001", "3", "mg/L", "2024-02-20"), ("001", "5", "mg/L", DAY)])
    assert small.values()["crp"].value == 3.0
    small.spec["same_day"] = {"results": "known"}
    assert small.values()["crp"].value == 5.0


def test_day_resolution_forgets_the_time_of_day(small: Any) -> None:
    small.spec["prediction_time"]["resolution"] = "day"
    small.results([("001", "5", "mg/L", f"{DAY} 06:00:00")])
    assert small.values()["crp"].status is Status.MISSING


def test_an_offset_from_utc_counts(small: Any) -> None:
    small.write(
        "records.csv",
        ("patient_id", "seen_at", "age", "sex", "site"),
        [("001", f"{DAY}T12:00:00+01:00", "", "", "")],
    )
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1")])
    small.results([("001", "5", "mg/L", f"{DAY}T11:00:00Z"), ("001", "9", "mg/L", f"{DAY}T11:00:01Z")])
    assert small.values()["crp"].value == 5.0
    small.results([("001", "5", "mg/L", f"{DAY}T11:00:00")])
    with pytest.raises(DataError, match="UTC offset"):
        small.link()


def test_undated_results_are_refused_or_assumed_known_and_counted(small: Any) -> None:
    small.results([("001", "5", "mg/L", ""), ("002", "6", "mg/L", ""), ("002", "7", "mg/L", "2024-01-01")])
    assert small.values()["crp"].status is Status.UNDATED
    assert small.link().flow.results.parts == {"used": 1, "undated": 2}
    small.spec["biomarkers"]["undated"] = {"assume_known": "the letter was older"}
    cohort = small.link()
    assert small.values()["crp"].undated
    assert cohort.flow.undated == {"biomarkers": 1}
    # a dated result goes before an undated one
    assert small.values("002")["crp"].value == 7.0
    assert cohort.flow.results.parts == {"used": 2, "not chosen": 1}


def test_available_at_decides_what_was_known(small: Any) -> None:
    small.spec["biomarkers"]["columns"]["available_at"] = "ready"
    head = ("patient_id", "code", "name", "value", "unit", "taken", "ready")
    small.results(
        [
            ("001", "1988-5", "", "3", "mg/L", "2024-02-20 08:00", "2024-02-20 10:00"),
            ("001", "1988-5", "", "9", "mg/L", f"{DAY} 08:00", f"{DAY} 13:00"),
        ],
        head,
    )
    assert small.values()["crp"].value == 3.0
    assert small.link().flow.results.parts == {"used": 1, "later": 1}


def test_a_window_looks_back_so_far_and_no_further(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"]["window_days"] = 2
    small.results([("001", "5", "mg/L", "2024-02-28 12:00")])
    assert small.values()["crp"].value == 5.0  # 2024 is a leap year: exactly two days
    small.results([("001", "5", "mg/L", "2024-02-28 11:59")])
    assert small.values()["crp"].status is Status.OUTSIDE_WINDOW


def test_summaries_have_keys_of_their_own(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"]["summary"] = ["last", "first", "min", "max", "mean", "count"]
    small.results(
        [
            ("001", "4", "mg/L", "2024-02-26 12:00"),
            ("001", "9", "mg/L", "2024-02-27 12:00"),
            ("001", "2", "mg/L", "2024-02-28 12:00"),
        ]
    )
    row = small.values()
    assert {key: value.value for key, value in row.items()} == {
        "crp:last": 2.0,
        "crp:first": 4.0,
        "crp:min": 2.0,
        "crp:max": 9.0,
        "crp:mean": 5.0,
        "crp:count": 3.0,
    }
    assert row["crp:max"].offset_days == -3.0
    assert tuple(row) == keys({"crp": small.load().biomarkers.results["crp"]})
    assert all(v.status is Status.MISSING for v in small.values("002").values())


def test_one_summary_keeps_the_plain_name() -> None:
    assert keys({"a": ResultSpec(role="input", code="1", summary="max")}) == ("a",)


def test_at_equal_times_corrected_goes_before_final_before_preliminary_then_the_stated_rule(
    small: Any,
) -> None:
    small.spec["biomarkers"]["columns"]["status"] = "status"
    head = ("patient_id", "code", "name", "value", "unit", "taken", "status")
    when = "2024-02-28 12:00"
    rows = [
        ("001", "1988-5", "", "9", "mg/L", when, "preliminary"),
        ("001", "1988-5", "", "5", "mg/L", when, "corrected"),
        ("001", "1988-5", "", "7", "mg/L", when, "final"),
        ("001", "1988-5", "", "99", "mg/L", when, "entered-in-error"),
    ]
    small.results(rows, head)
    assert small.values()["crp"].value == 5.0
    assert small.link().flow.results.parts == {"used": 1, "duplicate": 2, "withdrawn": 1}
    small.results([(*row[:6], "final") for row in rows[:3]], head)
    assert small.values()["crp"].value == 9.0
    small.spec["biomarkers"]["duplicates"] = "lowest"
    assert small.values()["crp"].value == 5.0


def test_units_are_converted_and_shown_as_recorded(small: Any) -> None:
    small.results([("001", "1.5", "mg/dL", "2024-02-28")])
    value = small.values()["crp"]
    assert (value.value, value.text) == (15.0, "1.5 mg/dL")


def test_a_wrong_unit_is_counted_as_unparsable_and_a_spelling_can_be_mapped(small: Any) -> None:
    small.results([("001", "5", "K/uL", "2024-02-28"), ("002", "5", "mg/L", "2024-02-28")])
    cohort = small.link()
    assert cohort.flow.unparsable == {"biomarkers.crp": {"5 K/uL": 1}}
    assert small.values()["crp"].status is Status.UNPARSABLE
    small.spec["biomarkers"]["units"] = {"K/uL": "mg/L"}
    assert small.values()["crp"].value == 5.0


def test_a_result_without_a_unit_needs_the_cohorts_word(small: Any) -> None:
    small.results([("001", "5", "", "2024-02-28"), ("002", "5", "mg/L", "2024-02-28")])
    assert small.link().flow.results.parts == {"used": 1, "without a unit": 1}
    small.spec["biomarkers"]["no_unit"] = {"assume_known": "one laboratory, one unit"}
    assert small.values()["crp"].value == 5.0


def test_a_result_that_declares_no_unit_must_not_have_one(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"] = {"role": "input", "name": "crp"}  # no code, no catalogue
    small.results([("001", "", "crp", "5", "mg/L", "2024-02-28")])
    with pytest.raises(DataError, match="declares no unit"):
        small.link()


def test_censored_infinite_implausible_and_unreadable_values(small: Any) -> None:
    cases = [
        ("<0.6", Status.KNOWN, 0.6, "<"),
        ("-inf", Status.MISSING, None, "<"),
        ("5000", Status.IMPLAUSIBLE, None, ""),
        ("haemolysed", Status.UNPARSABLE, None, ""),
        ("", Status.MISSING, None, ""),
    ]
    for text, status, number, comparator in cases:
        small.results([("001", text, "mg/L", "2024-02-28"), ("002", "1", "mg/L", "2024-02-28")])
        value = small.values()["crp"]
        assert (value.status, value.value, value.comparator) == (status, number, comparator), text
    small.spec["biomarkers"]["results"]["crp"]["limits"] = [0.3, 500]
    small.results([("001", "-inf", "mg/L", "2024-02-28")])
    assert (small.values()["crp"].value, small.values()["crp"].comparator) == (0.3, "<")


def test_too_many_unreadable_results_stop_the_cohort_but_not_one_patient(small: Any) -> None:
    small.spec["biomarkers"]["max_unparsable"] = 0.05
    small.results([("001", "5", "mg/L", "2024-02-28"), ("002", "broken-secret", "mg/L", "2024-02-28")])
    with pytest.raises(DataError, match="1 of 2 results") as caught:
        small.link()
    assert "secret" not in str(caught.value)
    assert small.values("002", subjects=["002"])["crp"].status is Status.UNPARSABLE


def test_a_code_without_a_role_stops_the_join(small: Any) -> None:
    small.results([("001", "718-7", "", "12", "g/dL", "2024-02-28")])
    with pytest.raises(ConfigError, match="718-7"):
        small.link()
    small.spec["biomarkers"]["other_results"] = "not of this question"
    assert small.link().flow.results.parts == {"used": 0, "undeclared": 1}


def test_results_of_strangers_are_counted_and_the_strangers_too(small: Any) -> None:
    small.results([("009", "5", "mg/L", "2024-02-28"), ("001", "5", "mg/L", "2024-02-28")])
    flow = small.link().flow
    assert flow.results.parts == {"used": 1, "not in the cohort": 1}
    assert flow.subjects.parts == {"kept": 3, "not_in_subjects": 1}


ROW = st.tuples(
    st.sampled_from(["001", "002", "003"]),
    st.sampled_from(["1", "2.5", "0.1", "0.3", "<0.5", ">90", "1,234.5", "x", "inf", "7 H", ""]),
    st.sampled_from(["mg/L", "mg/dL", "ug/mL", "K/uL", ""]),
    st.sampled_from(["", "2024-02-01", "2024-02-28 07:30", "2024-02-28 07:30:00", "2024-03-01", "later?"]),
)
LATER = st.tuples(
    st.sampled_from(["001", "002", "003"]),
    st.sampled_from(["1", "1e9", "x", "", "<0.1"]),
    st.sampled_from(["mg/L", "K/uL", "", "nonsense"]),
    st.sampled_from(["2024-03-03 12:00:01", "2024-03-04", "2031-01-01T00:00"]),
)


def _spec_with_everything(small: Any) -> None:
    block = small.spec["biomarkers"]
    block["results"]["crp"]["summary"] = ["last", "first", "min", "max", "mean", "count"]
    block["undated"] = {"assume_known": "why not"}
    block["max_unparsable"] = 0.99


def _rows(small: Any) -> list[str]:
    return [repr(patient.sources["biomarkers"]) for patient in small.link().patients]


WHEN = st.datetimes(min_value=datetime(2024, 2, 28), max_value=datetime(2024, 3, 4))


def _dated(small: Any, cells: list[str]) -> list[str]:
    head = ("patient_id", "seen_at", "age", "sex", "site", "operated")
    at = ("2024-03-01 12:00:00", "2024-03-02 12:00:00", "2024-03-03")
    rows = [
        (f"00{n}", when, "50", "m", "x", cell)
        for n, (when, cell) in enumerate(zip(at, cells, strict=True), 1)
    ]
    small.write("records.csv", head, rows)
    return [repr(patient.sources["records"]) for patient in small.link().patients]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(when=st.lists(WHEN, min_size=3, max_size=3), seconds=st.booleans(), same_day=st.booleans())
def test_a_date_among_the_records_of_after_the_prediction_time_is_as_if_never_written(
    small: Any, when: list[datetime], seconds: bool, same_day: bool
) -> None:
    small.spec["records"]["fields"]["operated"] = {"role": "input", "kind": "date"}
    small.spec["same_day"] = {"results": "known" if same_day else "not_known"}
    limits = [datetime(2024, 3, 1, 12), datetime(2024, 3, 2, 12), datetime(2024, 3, 3 + same_day)]
    texts = [moment.isoformat(timespec="microseconds" if seconds else "minutes") for moment in when]
    read = [datetime.fromisoformat(text) for text in texts]
    # the third prediction time is a whole day, so its own day is known only by the cohort's word
    late = [
        moment >= limit if place == 2 else moment > limit
        for place, (moment, limit) in enumerate(zip(read, limits, strict=True))
    ]
    without = ["" if is_late else text for text, is_late in zip(texts, late, strict=True)]
    assert _dated(small, texts) == _dated(small, without)
    known = [cell for cell, is_late in zip(_dated(small, texts), late, strict=True) if not is_late]
    assert all("operated': Value(value=-" in row or "operated': Value(value=0.0" in row for row in known)


TIMES = st.from_regex(
    r"20[0-9]{2}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-6][0-9](:[0-6][0-9]([.,][0-9]{1,9})?)?"
    r"( ?(Z|[+-][0-2][0-9](:?[0-5][0-9])?))?)?",
    fullmatch=True,
)


NOISE = st.text("0123456789-:T Z+", max_size=20).map(str.strip)


@settings(max_examples=15, deadline=None)
@example(texts=["2024-02-29T24:00", "2024-02-29 24:00:00.000 +02", "2024-02-29T24:00:01", "2024-02-30"])
@example(
    texts=["2024-03-01T08:00:60", "2024-03-01T08:60", "2024-03-01T08:00,5", "2024-03-01T08:00:00,1234567"]
)
@given(texts=st.lists(TIMES | NOISE, min_size=1, max_size=60))
def test_a_time_reads_the_same_in_a_cell_and_in_the_engine(texts: list[str]) -> None:
    with duck.Engine(threads=1) as engine:
        engine.put("cell", {"place": ("INTEGER", range(len(texts))), "t": ("VARCHAR", texts)})
        rows = engine.rows(
            f"SELECT {sql_day('t')}, {sql_instant_us('t')}, {sql_aware('t')} FROM cell ORDER BY place"
        )
    found = [None if day is None else Moment(day, us, us is not None and aware) for day, us, aware in rows]
    assert [iso_moment(text) for text in texts] == found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=12), later=st.lists(LATER, min_size=1, max_size=6), seed=st.integers(0, 9))
def test_rows_in_any_order_and_any_later_row_leave_every_value_bit_identical(
    small: Any, rows: list[Any], later: list[Any], seed: int
) -> None:
    _spec_with_everything(small)
    rows = [*rows, ("001", "1", "mg/L", "2024-01-01")]
    small.results(rows)
    before = _rows(small)
    shuffled = [*rows, *later]
    random.Random(seed).shuffle(shuffled)
    small.results(shuffled)
    assert _rows(small) == before


def test_threads_change_nothing(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _spec_with_everything(small)
    source = random.Random(0)
    days = [f"2024-02-{day:02d} {hour:02d}:00" for day in range(1, 29) for hour in range(24)]
    small.results(
        [
            (
                source.choice(["001", "002", "003"]),
                f"{source.random() * 100:.3f}",
                "mg/L",
                source.choice(days),
            )
            for _ in range(20_000)
        ]
    )
    found = []
    for threads in (1, 2, 4):
        monkeypatch.setattr("medmm.cohort.link.THREADS", threads)
        found.append(_rows(small))
    assert found[0] == found[1] == found[2]
    assert duck.THREADS == 2


def test_one_subject_comes_out_as_in_the_whole_cohort(small: Any) -> None:
    _spec_with_everything(small)
    small.results([(s, v, "mg/L", "2024-02-28") for s in ("001", "002") for v in ("1", "x", "3")])
    everybody = {patient.subject_id: patient for patient in small.link().patients}
    for subject in ("001", "002", "003"):
        alone = small.link(subjects=[subject])
        assert alone.patients == (everybody[subject],)
        assert alone.flow.subjects.total == 1


@pytest.mark.real
def test_nothing_of_after_the_operation_is_used(shared: Callable[[str], Path]) -> None:
    from medmm.cohort.link import link
    from medmm.cohort.spec import load_spec

    data = shared("data/kits19_egfr")
    spec = load_spec(Path(__file__).parents[2] / "cohorts" / "kits19_egfr").model_copy(update={"images": {}})
    cohort = link(spec, data, key=b"k" * 32)
    assert cohort.flow.results.total == 333
    assert cohort.flow.results.parts == {"used": 111, "later": 222}
    offsets = [
        value.offset_days
        for patient in cohort.patients
        for value in patient.sources["biomarkers"].values()  # type: ignore[union-attr]
        if value.offset_days is not None
    ]
    assert len(offsets) == 111
    assert max(offsets) < 0
