"""Joining by key: who is in, who is not and why, and what each patient carries."""

from __future__ import annotations

import gc
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medmm.cohort.site import pseudonym, site_key
from medmm.columns import MISSING, Status
from medmm.errors import ConfigError, DataError

HEAD = ("patient_id", "seen_at", "age", "sex", "site")


def test_a_patient_carries_inputs_labels_and_subgroups(small: Any) -> None:
    cohort = small.link()
    first, second, third = cohort.patients
    assert [p.subject_id for p in cohort.patients] == ["001", "002", "003"]  # leading zeros survive
    assert first.sources["records"]["age"].value == 50.0  # type: ignore[index, union-attr]
    assert second.sources["records"]["age"].status is Status.MISSING  # type: ignore[index, union-attr]
    assert (first.targets, second.targets, third.targets) == ({"ill": 1.0}, {"ill": 0.0}, {})
    assert first.subgroups == {"site": "north"}
    assert set(cohort.declarations) == {"records", "biomarkers"}
    assert set(cohort.declarations["records"]) == {"age", "sex"}  # type: ignore[arg-type]


def test_rows_in_any_order_make_the_same_cohort(small: Any) -> None:
    before = small.link()
    rows = [
        ("003", "2024-03-03 12:00:00", "70", "", "south"),
        ("001", "2024-03-01 12:00:00", "50", "m", "north"),
        ("002", "2024-03-02 12:00:00", "", "f", "south"),
    ]
    small.write("records.csv", HEAD, rows)
    after = small.link()
    assert (after.patients, after.digest) == (before.patients, before.digest)


def test_the_key_changes_pseudonyms_and_nothing_else(small: Any) -> None:
    from medmm.cohort.link import link

    one = link(small.load(), small.root, key=b"a" * 32)
    two = link(small.load(), small.root, key=b"b" * 32)
    assert one.digest == two.digest
    assert one.patients[0].pseudonym != two.patients[0].pseudonym


def test_a_column_without_a_role_stops_the_join_and_all_are_named(small: Any) -> None:
    small.write("records.csv", (*HEAD, "ward"), [("001", "2024-03-01", "1", "m", "x", "w")])
    small.write("labels.csv", ("patient_id", "ill", "died"), [("001", "1", "0")])
    with pytest.raises(ConfigError, match=r"2 columns have no role .*labels\.csv: died; records\.csv: ward"):
        small.link()
    small.spec["never_columns"] = {
        "labels.csv": {"died": "after the index"},
        "records.csv": {"ward": "a leak"},
    }
    assert len(small.link().patients) == 1


def test_a_declared_column_that_is_missing_is_named(small: Any) -> None:
    small.spec["records"]["fields"]["weight"] = {"role": "input", "kind": "number"}
    with pytest.raises(DataError, match=r"records\.csv has no column 'weight' \(records\.fields\.weight\)"):
        small.link()


def test_two_rows_for_one_subject_are_refused_without_naming_it(small: Any) -> None:
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1"), ("001", "0")])
    with pytest.raises(DataError, match=r"labels\.csv: 1 subject has more than one row") as caught:
        small.link()
    assert "001" not in str(caught.value)


def test_a_row_without_an_id_is_refused(small: Any) -> None:
    small.write("labels.csv", ("patient_id", "ill"), [("", "1")])
    with pytest.raises(DataError, match="1 rows have an empty 'patient_id'"):
        small.link()


def test_everybody_of_every_source_is_kept_or_excluded_with_a_reason(small: Any) -> None:
    rows = [
        ("001", "2024-03-01 12:00", "17", "m", "x"),
        ("002", "unknown", "50", "f", "x"),
        ("003", "", "", "", ""),
    ]
    small.write("records.csv", HEAD, [*rows, ("004", "2024-03-01", "30", "m", "x")])
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1"), ("004", "0"), ("099", "1")])
    small.spec["exclusions"] = {
        "under_age": {"field": "age", "below": 18},
        "no_label": {"outcome": "ill", "missing": True},
    }
    cohort = small.link()
    assert [p.subject_id for p in cohort.patients] == ["004"]
    assert cohort.excluded == {
        "001": "under_age",
        "002": "no_prediction_time",
        "003": "no_prediction_time",
        "099": "not_in_subjects",
    }
    assert cohort.flow.subjects.total == 5
    assert cohort.flow.subjects.parts["kept"] == 1


def test_everybody_asked_for_is_kept_or_excluded_for_the_reason_of_the_whole_cohort(small: Any) -> None:
    rows = [
        ("001", "2024-03-01 12:00", "17", "m", "x"),
        ("002", "unknown", "50", "f", "x"),
        ("004", "2024-03-01", "30", "m", "x"),
    ]
    small.write("records.csv", HEAD, rows)
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1"), ("004", "0"), ("099", "1")])
    small.results([("077", "5", "mg/L", "2024-02-28")])
    small.spec["exclusions"] = {"under_age": {"field": "age", "below": 18}}
    reasons = {
        "001": "under_age",
        "002": "no_prediction_time",
        "077": "not_in_subjects",
        "099": "not_in_subjects",
    }
    assert small.link().excluded == reasons
    asked = [*reasons, "004", "nobody", "004", ""]
    together = small.link(subjects=asked)
    assert together.excluded == reasons | {"nobody": "not_in_any_source", "": "not_in_any_source"}
    assert {*together.excluded, *(p.subject_id for p in together.patients)} == set(asked)
    assert together.flow.subjects.total == len(set(asked))
    for subject in set(asked):
        alone = small.link(subjects=[subject])
        named = {p.subject_id: "" for p in alone.patients} | dict(alone.excluded)
        assert named == {subject: together.excluded.get(subject, "")}


def test_exclusions_by_category_bound_and_missing(small: Any) -> None:
    small.spec["exclusions"] = {
        "elsewhere": {"field": "site", "equals": "north"},
        "old": {"field": "age", "above": 65},
    }
    assert small.link().excluded == {"001": "elsewhere", "003": "old"}
    small.spec["exclusions"] = {"no_age": {"field": "age", "missing": True}}
    assert small.link().excluded == {"002": "no_age"}


def test_scoring_reads_no_outcome(small: Any) -> None:
    small.spec["exclusions"] = {"no_label": {"outcome": "ill", "missing": True}}
    (small.root / "labels.csv").unlink()
    cohort = small.link(outcomes=False, subjects=["003", "nobody"])
    assert [p.targets for p in cohort.patients] == [{}]
    assert cohort.excluded == {"nobody": "not_in_any_source"}


@pytest.mark.parametrize(
    ("positive", "words"), [(1, ("1.0", "0")), ("yes", ("yes", "no")), (True, ("True", "false"))]
)
def test_labels_are_read_however_they_are_spelt(small: Any, positive: Any, words: tuple[str, str]) -> None:
    small.spec["outcomes"]["ill"]["positive"] = positive
    small.write("labels.csv", ("patient_id", "ill"), [("001", words[0]), ("002", words[1])])
    assert [p.targets.get("ill") for p in small.link().patients] == [1.0, 0.0, None]


def test_a_third_label_is_not_a_silent_negative(small: Any) -> None:
    small.write("labels.csv", ("patient_id", "ill"), [("001", "1"), ("002", "0"), ("003", "9")])
    with pytest.raises(DataError, match="3 different labels"):
        small.link()
    small.spec["outcomes"]["ill"] |= {"negative": 0, "missing_codes": ["9"]}
    assert small.link().patients[2].targets == {}


def test_a_date_becomes_days_and_one_of_after_is_an_empty_cell(small: Any) -> None:
    small.spec["records"]["fields"]["operated"] = {"role": "input", "kind": "date"}
    rows = [("001", "2024-03-01", "", "", "", "2024-02-20"), ("002", "2024-03-01", "", "", "", "2024-03-05")]
    small.write("records.csv", (*HEAD, "operated"), rows)
    first, second = (p.sources["records"]["operated"] for p in small.link().patients)  # type: ignore[index, union-attr]
    assert (first.value, first.text) == (-10.0, "10 days before")
    assert second == MISSING


@pytest.mark.parametrize(
    ("cell", "same_day", "offset"),
    [
        ("2024-03-01T20:00:00", "known", None),
        ("2024-03-01T08:00:01", "known", None),
        ("2024-03-01T08:00:00", "not_known", 0.0),
        ("2024-03-01 02:00", "not_known", -0.25),
        ("2024-03-01", "not_known", None),
        ("2024-03-01", "known", 0.0),
        ("2024-02-29", "not_known", -1.0),
    ],
)
def test_a_date_of_the_prediction_day_obeys_the_rule_of_results(
    small: Any, cell: str, same_day: str, offset: float | None
) -> None:
    small.spec["records"]["fields"]["operated"] = {"role": "input", "kind": "date"}
    small.spec["same_day"] = {"results": same_day}
    small.write("records.csv", (*HEAD, "operated"), [("001", "2024-03-01T08:00:00", "", "", "", cell)])
    value = small.link().patients[0].sources["records"]["operated"]
    assert (value.value, value.offset_days) == (offset, offset)
    assert value == MISSING or value.status is Status.KNOWN


def test_a_date_with_an_offset_from_utc_needs_a_prediction_time_with_one(small: Any) -> None:
    small.spec["records"]["fields"]["operated"] = {"role": "input", "kind": "date"}
    head, later = (*HEAD, "operated"), "2024-03-01T08:00:01+02:00"
    small.write("records.csv", head, [("001", "2024-03-01T06:00:00Z", "", "", "", later)])
    assert small.link().patients[0].sources["records"]["operated"] == MISSING
    small.write("records.csv", head, [("001", "2024-03-01T06:00:00", "", "", "", later)])
    with pytest.raises(DataError, match=r"records\.operated: .*UTC offset"):
        small.link()


@pytest.mark.parametrize("stop", [None, DataError, KeyboardInterrupt])
@pytest.mark.parametrize("collects", [True, False])
def test_a_join_leaves_the_garbage_collector_as_it_was(
    small: Any, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException] | None, collects: bool
) -> None:
    paused = []

    def stopped(*_: object) -> Any:
        paused.append(not gc.isenabled())
        raise stop or AssertionError

    if stop is not None:
        monkeypatch.setattr("medmm.cohort.link._join", stopped)
    try:
        (gc.enable if collects else gc.disable)()
        if stop is None:
            assert small.link().patients
        else:
            with pytest.raises(stop):
                small.link()
        assert gc.isenabled() is collects
    finally:
        gc.enable()
    assert all(paused)


def test_unreadable_records_are_listed_and_stop_above_the_declared_share(small: Any) -> None:
    rows = [(f"{n:03d}", "2024-03-01", "secret" if n == 0 else "5", "m", "x") for n in range(30)]
    small.write("records.csv", HEAD, rows)
    assert small.link().flow.unparsable == {"records.age": {"secret": 1}}
    small.spec["records"]["max_unparsable"] = 0.01
    with pytest.raises(DataError, match=r"records\.age: 1 of 30 cells") as caught:
        small.link()
    assert "secret" not in str(caught.value)


def test_notes_are_accounted_for(small: Any) -> None:
    small.spec["notes"] = {"table": "notes.csv", "columns": {"text": "text", "time": "at"}}
    rows = [
        ("001", "ok", "2024-02-01"),
        ("001", "late", "2024-03-05"),
        ("001", "?", ""),
        ("9", "x", "2024-01-01"),
    ]
    small.write("notes.csv", ("patient_id", "text", "at"), [*rows, ("002", "", "2024-01-01")])
    parts = small.link().flow.notes.parts
    assert parts == {"known": 1, "later": 1, "undated": 1, "not in the cohort": 1, "empty": 1}


def test_a_column_called_id_is_no_trap(small: Any) -> None:
    small.write("labels.csv", ("patient_id", "id"), [("001", "1"), ("002", "0")])
    small.spec["outcomes"] = {"ill": {"table": "labels.csv", "positive": 1, "column": "id"}}
    assert [p.targets for p in small.link().patients][:2] == [{"ill": 1.0}, {"ill": 0.0}]


def test_parquet_tables_say_the_same_as_csv(small: Any) -> None:
    from medmm.sources.duck import write_parquet

    before = small.link().patients
    columns = {"patient_id": ["001", "002", "003"], "ill": [1, 0, None]}
    write_parquet(columns, small.root / "labels.parquet")
    small.spec["outcomes"]["ill"]["table"] = "labels.parquet"
    assert small.link().patients == before


def test_the_site_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "site.key"
    key = site_key(path)
    assert site_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(pseudonym(key, "001")) == 16
    assert [p.name for p in path.parent.iterdir()] == ["site.key"]
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="damaged"):
        site_key(path)


def test_the_join_loads_nothing_heavy() -> None:
    heavy = (
        "torch",
        "monai",
        "mlflow",
        "shap",
        "sklearn",
        "scipy",
        "pandas",
        "pint",
        "matplotlib",
        "pyarrow",
    )
    code = f"import sys, medmm.cohort.link; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
