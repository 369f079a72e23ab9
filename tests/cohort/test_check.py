"""What the check says of a cohort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medmm.cohort.check import check
from medmm.cohort.flow import Account
from medmm.cohort.link import link
from medmm.cohort.spec import load_spec


def test_accounts_must_add_up() -> None:
    assert Account("files", 3, {"used": 2, "refused": 1}).line() == "files 3 = 2 used + 1 refused"
    with pytest.raises(AssertionError, match="uncounted"):
        Account("files", 3, {"used": 2})


def test_patterns_coverage_and_unreadable_cells(small: Any) -> None:
    small.results([("001", "5", "mg/L", "2024-02-01"), ("003", "n/a", "mg/L", "2024-02-01")])
    report = check(small.link(), root=small.root)
    assert report.patterns == {"C-reactive protein": 1, "no C-reactive protein": 2}
    lines = report.lines()
    assert "subjects 3 = 3 kept + 0 excluded" in lines
    assert "records.age 2 of 3 (1 missing)" in lines
    assert "cannot be read: biomarkers.crp: 'n/a' x1" in lines
    assert "ill: 1 of 2 positive" in lines
    assert "biomarkers.crp: reference range (mcc) from the catalogue's crp" in lines


def test_a_remark_about_a_person_is_told_by_its_shape(small: Any) -> None:
    told = ("001", "called Mrs Roe 1954", "mg/L", "2024-02-01")
    small.results([told, ("002", "5", "mg/L", "2024-02-01"), ("003", "7", "mg/L", "2024-02-01")])
    lines = check(small.link(), root=small.root).lines()
    shape = "biomarkers.crp: like 'aaaaaa Aaa Aaa 9999'"
    assert f"cannot be read: {shape} x1" in lines
    assert "its shape is shown" in lines[lines.index(f"cannot be read: {shape} x1") + 1]
    assert "Roe" not in "\n".join(lines)


def test_warns_of_what_looks_odd(small: Any) -> None:
    rows = [(f"{n:03d}", "2024-03-01 12:00", str(30 + n), f"word {n}", "x") for n in range(60)]
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), rows)
    small.write(
        "labels.csv", ("patient_id", "ill"), [(row[0], str(int(n > 29))) for n, row in enumerate(rows)]
    )
    small.write("extra.csv", ("patient_id",), [("000",)])
    small.results([("000", "5", "mg/L", "2024-02-01"), ("stranger", "5", "mg/L", "2024-02-01")])
    warnings = "\n".join(check(small.link(), root=small.root).warnings)
    assert "records.age: alone it ranks ill" in warnings
    assert "records.sex: nearly every patient has a category of their own" in warnings
    assert "biomarkers.crp: 1 of 60 patients have it" in warnings
    assert "extra.csv lies in the data root" in warnings
    assert "1 ids stand in other sources" in warnings


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "subjects", "files", "pattern", "positive"),
    [
        ("picai_psa", 1062, 7440, ("zones + PSA", 424), 302),
        ("kits19_egfr", 151, 5293, ("eGFR", 111), 50),
        ("mhh_covid", 51, 164, ("biomarkers", 34), 22),
    ],
)
def test_the_real_cohorts_are_accounted_for(
    shared: Callable[[str], Path],
    name: str,
    subjects: int,
    files: int,
    pattern: tuple[str, int],
    positive: int,
) -> None:
    root = shared(f"data/{name}")
    spec = load_spec(Path(__file__).parents[2] / "cohorts" / name)
    cohort = link(spec, root, key=b"k" * 32)
    report = check(cohort, root=root)
    assert cohort.flow.subjects.parts == {"kept": subjects, "excluded": 0}
    assert cohort.flow.files.total == files == sum(1 for p in (root / "dicom").rglob("*") if p.is_file())
    rows = (root / "biomarkers.csv").read_text(encoding="utf-8").count("\n") - 1
    assert cohort.flow.results.total == rows
    assert report.patterns[pattern[0]] == pattern[1]
    assert sum(report.patterns.values()) == subjects
    assert [found for found, _ in report.outcomes.values()] == [positive]
    assert not [warning for warning in report.warnings if "does not mention" in warning]


def test_warns_when_nothing_can_be_trained(small: Any) -> None:
    small.write("labels.csv", ("patient_id", "ill"), [("001", "0"), ("002", "0")])
    warnings = "\n".join(check(small.link()).warnings)
    assert "ill: one class only, 0 of 2 positive; it cannot be trained" in warnings
    small.write("labels.csv", ("patient_id", "ill"), [])
    assert "ill: no labels; it cannot be trained" in "\n".join(check(small.link()).warnings)


def test_warns_when_nobody_is_left(small: Any) -> None:
    small.spec["exclusions"] = {
        "too_young": {"field": "age", "below": 200},
        "no_age": {"field": "age", "missing": True},
    }
    report = check(small.link())
    assert report.flow.subjects.parts["kept"] == 0
    assert [warning for warning in report.warnings if "nobody is left" in warning]
    assert "warning: nobody is left" in "\n".join(report.lines())


def test_warns_of_a_clock_that_is_not_read(small: Any) -> None:
    rows = [("001", "01.03.2024 12:00", "50", "m", "x"), ("002", "2024-03-01 12:00", "50", "m", "x")]
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), rows)
    warnings = "\n".join(check(small.link()).warnings)
    assert (
        "1 subjects have no usable prediction time: seen_at of records.csv must hold dates like 2024-06-01"
        " 05:43, or `dates` say how it writes them" in warnings
    )
    small.spec["dates"] = {"records.csv": {"seen_at": "dd.mm.yyyy"}}
    warnings = "\n".join(check(small.link()).warnings)
    assert "must hold dates like dd.mm.yyyy, as `dates` says" in warnings
