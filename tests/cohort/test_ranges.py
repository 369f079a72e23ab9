"""How many rows, subjects or summaries are held at a time does not show in what comes out."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pytest

from medmm.cohort import window
from medmm.cohort.shelf import Shelf
from medmm.columns import Status

SUMMARIES = ["last", "first", "min", "max", "mean", "count", "slope", "time_since_last"]
VALUES = [1.5, 0.1, 0.2, 0.3, 2.25, 0.0, -0.0, float("inf"), float("nan"), None, 5000.0, -999.0, 7.5]
HOURS = (-9000, -30, -5, -5, -4, -1, 3)


def _write(small: Any, *, numbers: bool, seed: int) -> None:
    """Forty subjects, three codes, ties, two units, later rows and rows of before the window."""
    chance = np.random.default_rng(seed)
    with duckdb.connect() as made:
        made.execute(
            "CREATE TABLE results"
            " (patient_id VARCHAR, code VARCHAR, value DOUBLE, unit VARCHAR, taken TIMESTAMP)"
        )
        rows = [
            (
                f"{chance.integers(42):03}",
                str(chance.choice(["A", "B", "C"])),
                VALUES[chance.integers(len(VALUES))],
                str(chance.choice(["mg/L", "mg/dL"], p=[0.8, 0.2])),
                int(HOURS[chance.integers(len(HOURS))]),
            )
            for _ in range(700)
        ]
        made.executemany(
            "INSERT INTO results VALUES (?, ?, ?, ?, TIMESTAMP '2024-03-01 12:00:00' + to_hours(?))", rows
        )
        kinds = "*" if numbers else "* REPLACE (value::VARCHAR AS value, taken::VARCHAR AS taken)"
        made.execute(f"COPY (SELECT {kinds} FROM results) TO '{small.root}/results.parquet' (FORMAT parquet)")
    people = [(f"{n:03}", "2024-03-01 12:00:00", "50", "m", "north") for n in range(40)]
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), people)
    block = small.spec["biomarkers"]
    block |= {"table": "results.parquet", "max_unparsable": 0.9}
    block["columns"] = {"code": "code", "value": "value", "unit": "unit", "time": "taken"}
    block["results"] = {
        "a": _result("A", SUMMARIES) | {"series": True, "limits": [0.3, 500]},
        "b": _result("B", ["min", "first"]),
        "c": _result("C", SUMMARIES),
    }


def _result(code: str, summaries: list[str]) -> dict[str, Any]:
    plain = {"role": "input", "code": code, "unit": "mg/L", "window_days": 30}
    return plain | {"plausible": [0, 1000], "missing_codes": ["-999.0"], "summary": list(summaries)}


def _told(small: Any) -> Any:
    cohort = small.link()
    flow = cohort.flow
    return cohort.digest, flow.results.parts, flow.unparsable, flow.findings, flow.undated


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_size_of_a_range_does_not_show(
    small: Any, monkeypatch: pytest.MonkeyPatch, numbers: bool, seed: int
) -> None:
    _write(small, numbers=numbers, seed=seed)
    at_once = _told(small)
    assert at_once[1]["used"] > 50
    assert at_once[1]["duplicate"] > 0
    for rows, groups, held in ((64, 1 << 16, 384), (1 << 20, 3, 0), (200, 30, 0)):
        monkeypatch.setattr(window, "ROWS_AT_ONCE", rows)
        monkeypatch.setattr(window, "GROUPS_AT_ONCE", groups)
        monkeypatch.setattr(window, "HELD_MB", held)
        assert _told(small) == at_once


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_space_around_an_id_changes_nothing(small: Any, kind: str) -> None:
    _write(small, numbers=True, seed=3)
    small.spec["biomarkers"]["table"] = f"results.{kind}"
    told = []
    for pad in ("", "if(hash(value) % 3 = 0, ' ', '')"):
        with duckdb.connect() as made:
            source = f"{small.root}/results.parquet"
            made.execute(f"CREATE TABLE found AS FROM '{source}'")
            made.execute(f"UPDATE found SET patient_id = concat({pad or repr('')}, patient_id)")
            made.execute(f"COPY found TO '{small.root}/results.{kind}'")
        told.append(_told(small))
    assert told[0] == told[1]
    assert small.link().flow.subjects.parts["not_in_subjects"] == 2


def test_whether_every_row_is_of_the_cohort_does_not_show(small: Any) -> None:
    _write(small, numbers=True, seed=4)
    with_others = small.link()
    with duckdb.connect() as made:
        path = f"{small.root}/results.parquet"
        made.execute(f"CREATE TABLE kept AS SELECT * FROM '{path}' WHERE patient_id < '040'")
        made.execute(f"COPY kept TO '{path}' (FORMAT parquet)")
    without = small.link()
    assert without.digest == with_others.digest
    assert with_others.flow.results.parts["not in the cohort"] > 0
    assert "not in the cohort" not in without.flow.results.parts
    assert with_others.excluded == dict.fromkeys(("040", "041"), "not_in_subjects")
    assert not without.excluded


def test_a_code_without_one_usable_row_is_missing(small: Any) -> None:
    small.spec["biomarkers"]["results"]["crp"] |= {"summary": ["min"]}
    small.results([("001", "1.0", "mg/L", "2024-03-05 08:00:00")])
    assert small.values()["crp"].status is Status.MISSING


@pytest.mark.parametrize("held_bytes", [0, 1000, 1 << 20])
def test_a_shelf_gives_back_what_was_put(tmp_path: Any, held_bytes: int) -> None:
    chance = np.random.default_rng(0)
    lots = [chance.integers(0, 50, size) for size in (100, 0, 7)]
    kinds = {"subject": np.dtype(np.int32), "x": np.dtype(np.float64)}
    with Shelf(tmp_path / "rows", kinds, 8, held_bytes=held_bytes) as shelf:
        shelf.put(lots[0], {"subject": lots[0], "x": lots[0] * 1.0}, np.arange(100))
        shelf.clear()
        for lot in lots:
            shelf.put(lot, {"subject": lot, "x": lot * 0.5}, np.flatnonzero(lot % 5))
        found = [shelf.take(number) for number in range(len(shelf))]
    for number, rows in enumerate(found):
        assert set(rows["subject"] // 8) <= {number}
        assert (rows["x"] == rows["subject"] * 0.5).all()
    everything = np.concatenate([rows["subject"] for rows in found])
    expected = np.concatenate([lot[lot % 5 > 0] for lot in lots])
    assert (np.sort(everything) == np.sort(expected)).all()
