"""Table 1 adds up, tells nobody apart, and its differences are those of the papers."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.cohort.disclosure import SMALL, hidden, lines_of
from medmm.cohort.link import link
from medmm.cohort.spec import load_spec
from medmm.cohort.split import assign, divide
from medmm.cohort.table1 import Table1, difference_of_categories, difference_of_numbers, table1
from medmm.report.table1 import missing_map, render_table1, table1_csv


@settings(max_examples=150, deadline=None)
@given(
    cells=st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=5),
    second=st.lists(st.integers(0, 12), min_size=5, max_size=5),
)
def test_no_hidden_count_can_be_worked_out(cells: list[tuple[int, ...]], second: list[int]) -> None:
    groups = np.array(cells)  # three groups that make up everybody, and two others that do so too
    everybody = groups.sum(axis=1)
    other = np.minimum(second[: len(cells)], everybody)
    counts = np.column_stack([everybody, groups, other, everybody - other])
    lines = lines_of(len(cells), [[1, 2, 3], [4, 5]])
    hide = hidden(counts, lines)
    assert not ((counts > 0) & (counts < SMALL) & ~hide).any()
    for line in lines:
        closed = [cell for cell in line if hide[cell]]
        whole = len(closed) == len(line)
        assert not closed or whole or (len(closed) > 1 and sum(counts[cell] for cell in closed) >= SMALL)


def test_nothing_is_hidden_without_need() -> None:
    counts = np.array([[20, 10, 10], [0, 0, 0], [30, 15, 15]])
    assert not hidden(counts, lines_of(3, [[1, 2]])).any()


def test_differences_are_those_of_the_papers() -> None:
    first, second = np.array([1.0, 2, 3, 4, 5]), np.array([3.0, 4, 5, 6, 7])
    assert difference_of_numbers(first, second) == pytest.approx(-2 / np.sqrt(2.5))
    # of two levels, Yang & Dalton's is Austin's for a proportion
    p, q = 0.3, 0.5
    austin = abs(p - q) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2)
    assert difference_of_categories(np.array([30.0, 70]), np.array([50.0, 50])) == pytest.approx(austin)
    same = np.array([10.0, 20, 30])
    assert difference_of_categories(same, 3 * same) == pytest.approx(0, abs=1e-9)
    assert np.isnan(difference_of_numbers(np.ones(5), np.ones(5)))
    assert np.isnan(difference_of_categories(np.array([5.0, 0]), np.array([7.0, 0])))
    # every site in one split only: the formula divides by 0, and 0.00 would say that the splits are alike
    assert difference_of_categories(np.array([9.0, 0]), np.array([0, 9.0])) == np.inf
    assert difference_of_categories(np.array([5.0, 5, 0, 0]), np.array([0, 0, 5.0, 5])) == np.inf
    assert np.isfinite(difference_of_categories(np.array([9.0, 1, 0]), np.array([0, 1.0, 9])))


def described(small: Any, rows: list[tuple[str, ...]], ill: list[str]) -> Table1:
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), rows)
    small.write(
        "labels.csv", ("patient_id", "ill"), [(row[0], word) for row, word in zip(rows, ill, strict=True)]
    )
    small.results([])
    small.spec["splits"] = {"held_out": 0.3, "folds": 2}
    cohort = small.link()
    try:
        return table1(assign(cohort, divide(cohort)))
    except Exception:
        return table1(cohort)


def test_it_adds_up_and_names_nobody(small: Any) -> None:
    rng = random.Random(0)
    hostile = "<img src=x onerror=alert(1)>"
    rows = [
        (
            f"secret-{n:03d}",
            "2024-03-01 12:00",
            "" if n % 5 < 2 else f"{rng.gauss(60, 9):.1f}",
            hostile if n == 0 else ("m", "<b>f</b>")[n % 2],
            "=1+1" if n % 3 else "south",
        )
        for n in range(90)
    ]
    found = described(small, rows, [str(int(n % 3 == 0)) for n in range(90)])
    names = [group.name for group in found.groups]
    assert names == ["everybody", "training", "held out", "ill: yes", "ill: no"]
    sizes = [group.patients for group in found.groups]
    assert sizes[0] == 90
    assert sizes[1] + sizes[2] == sizes[3] + sizes[4] == 90  # type: ignore[operator]
    by_level = {(row.field, row.level): row for row in found.rows}
    assert ("records.sex", hostile) not in by_level  # one patient
    assert by_level["records.sex", "all others"].counts[0] is None
    assert (
        sum(count is None for count in (row.counts[0] for row in found.rows if row.field == "records.sex"))
        > 1
    )
    age = by_level["records.age", ""]
    assert age.counts[0] == 54
    assert by_level["records.age", "missing"].counts[0] == 36
    assert age.summaries[0] is not None
    assert set(age.differences) == {"split", "ill"}
    page, table = render_table1(found), table1_csv(found)
    assert missing_map(found).startswith(b"\x89PNG")
    assert "<img src=x" not in page
    assert "<b>f</b>" not in page
    assert "&lt;b&gt;f&lt;/b&gt;" in page
    assert "secret-" not in page + table
    read = list(csv.reader(io.StringIO(table)))
    assert len({len(line) for line in read}) == 1
    assert "'=1+1" in {line[3] for line in read}
    for line in found.flow:
        assert line[1] >= sum(count for _, count in line[2])


def test_a_site_that_tells_the_outcome_is_an_infinite_difference(small: Any) -> None:
    rows = [(f"{n}", "2024-03-01 12:00", "50", "m", ("north", "south")[n % 2]) for n in range(40)]
    found = described(small, rows, [str(n % 2) for n in range(40)])
    site = next(row for row in found.rows if row.field == "subgroup.site")
    assert site.differences["ill"] == np.inf
    assert "<strong>∞</strong>" in render_table1(found)


def test_a_summary_has_its_own_unit(small: Any) -> None:
    crp = small.spec["biomarkers"]["results"]["crp"] | {"label": "CRP"}
    asked = ["last", "count", "slope", "time_since_last"]
    small.spec["biomarkers"]["results"] = {
        "crp": crp | {"summary": asked},
        "rise": {"role": "input", "name": "rise", "unit": "mg/L", "summary": "slope"},
    }
    rows = {row.field: (row.label, row.unit) for row in table1(small.link()).rows}
    assert rows["biomarkers.crp:last"] == ("CRP, last", "mg/L")
    assert rows["biomarkers.crp:count"] == ("CRP, count", "")
    assert rows["biomarkers.crp:slope"] == ("CRP, slope", "mg/L/d")
    assert rows["biomarkers.crp:time_since_last"] == ("CRP, time since last", "d")
    assert rows["biomarkers.rise"] == ("rise, slope", "mg/L/d")


@pytest.mark.parametrize("case", ["one patient", "constant outcome", "nothing known", "a thousand levels"])
def test_odd_cohorts_have_a_table_too(small: Any, case: str) -> None:
    number = {"one patient": 1, "a thousand levels": 1000}.get(case, 20)
    age = "" if case == "nothing known" else "50"
    rows = [
        (f"{n}", "2024-03-01 12:00", age, f"word {n}" if number == 1000 else "m", "x") for n in range(number)
    ]
    ill = ["1" if case == "constant outcome" else str(n % 2) for n in range(number)]
    found = described(small, rows, ill)
    assert render_table1(found)
    assert table1_csv(found)
    levels = [row for row in found.rows if row.field == "records.sex"]
    assert len(levels) <= 14
    if case == "one patient":
        assert all(count in (None, 0) for row in found.rows for count in row.counts)


@pytest.mark.real
@pytest.mark.parametrize("name", ["picai_psa", "kits19_egfr"])
def test_the_real_cohorts_add_up(name: str, shared: Callable[[str], Path]) -> None:
    root = shared(f"data/{name}")
    cohort = link(load_spec(Path(__file__).parents[2] / "cohorts" / name), root, key=b"k" * 32)
    found = table1(assign(cohort, divide(cohort)))
    for field in {row.field for row in found.rows}:
        rows = [row for row in found.rows if row.field == field]
        for group in range(len(found.groups)):
            counts = [row.counts[group] for row in rows]
            if None not in counts:
                assert sum(counts) == found.groups[group].patients  # type: ignore[arg-type]
    assert sum(count for count, _ in found.patterns) == len(cohort.patients)
