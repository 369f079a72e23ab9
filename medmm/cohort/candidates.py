"""The candidates of a window: rows of kept subjects and declared codes, each with its time.

What lies after the prediction time is set apart here, before anything else of it is looked at.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmm.cohort.blocks import Biomarkers
from medmm.cohort.cells import (
    ELSEWHERE,
    EMPTY,
    FATE_BITS,
    MIXED,
    ODD_DATE,
    RANK_SHIFT,
    Cell,
    read_cell,
    read_unit,
)
from medmm.cohort.moments import (
    MIXED_CLOCKS,
    sql_clock,
    sql_known_by,
    sql_offset_days,
    sql_on_the_day_elsewhere,
)
from medmm.cohort.picks import FATE
from medmm.cohort.shelf import Shelf
from medmm.columns import ResultSpec
from medmm.errors import DataError
from medmm.sources.duck import Engine, literal, quoted

STATUS_RANK = {"corrected": 0, "amended": 0, "c": 0, "final": 1, "f": 1}
"""At equal times corrected results go before final ones, and those before all others (preliminary)."""
WITHDRAWN = ("cancelled", "canceled", "entered-in-error", "entered in error", "x", "w")
"""Words of a status column (HL7 table 0085, FHIR observation-status) for a result that is none."""

ODD_YEARS = (1901, 2100)
"""A result of before the one or from the other on is reported; it is used or not like any other."""
_FIRST_DAY = date.min.toordinal() - date(1970, 1, 1).toordinal()


def sql_text(column: str | None) -> str:
    """SQL: a cell as trimmed text; an empty one, or a column that is not mapped, is ''.

    By concat(), which the engine asks once per word of a dictionary; coalesce(), once per row.
    """
    return f"concat(trim(CAST({quoted(column)} AS VARCHAR)))" if column else "''"


def sql_status_rank(column: str) -> str:
    """SQL: the rank of a status by :data:`STATUS_RANK`, of a lower-case column."""
    rank = " ".join(f"WHEN {literal(word)} THEN {place}" for word, place in STATUS_RANK.items())
    return f"CASE {column} {rank} ELSE 2 END"


def sql_withdrawn(column: str) -> str:
    """SQL: whether a status says that the result is none."""
    return f"{column} IN ({', '.join(literal(word) for word in WITHDRAWN)})"


@dataclass(slots=True)
class Candidates:
    """The query of the candidates, and what was met among them while they were put aside.

    Attributes:
        sql: yields the columns of :data:`~medmm.cohort.cells.COLUMNS`.
        cells: what their cells say.
        met: how many there are.
        later: of them, rows after the prediction time.
        odd: per result, how many dates are nobody's, and whose rows they stand in (up to three).
        elsewhere: the same of times in UTC, known by a prediction day where the site's clock is UTC too.
    """

    sql: str
    cells: Sequence[Cell]
    met: int = 0
    later: int = 0
    odd: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    elsewhere: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    _mixed: bool = False
    _refused: int = -1

    def put_aside(self, batches: Iterable[Mapping[str, NDArray[Any]]], shelf: Shelf, name: str) -> None:
        """Read every candidate once; those that are not later go to the shelf.

        Raises:
            DataError: if times cannot be compared, or a result declares no unit but has one.
        """
        refused = [number for number, cell in enumerate(self.cells) if cell.refused is not None]
        for batch in batches:
            tag = batch["tag"]
            known = np.flatnonzero((tag & FATE_BITS) != FATE["later"])
            self.met += len(tag)
            self.later += len(tag) - len(known)
            shelf.put(batch["subject"], batch, known)
            met = np.bitwise_or.reduce(tag) if len(tag) else 0
            self._mixed |= bool(met & MIXED)
            if met & ODD_DATE:
                _note(self.odd, batch, np.flatnonzero(tag & ODD_DATE))
            if met & ELSEWHERE:
                in_time = (tag & (ELSEWHERE | FATE_BITS)) == ELSEWHERE
                _note(self.elsewhere, batch, np.flatnonzero(in_time))
            if refused:
                held = known[(tag[known] & EMPTY) == 0]  # where nothing stands, its unit says nothing
                met_cells = np.intersect1d(batch["cell"][held], refused)
                if len(met_cells):
                    first = int(met_cells[0])
                    self._refused = first if self._refused < 0 else min(first, self._refused)
        if self._mixed:
            _mixed_clocks(name)
        error = self.cells[self._refused].refused if self._refused >= 0 else None
        if error is not None:
            raise error


def _note(
    found: dict[int, tuple[int, list[int]]], batch: Mapping[str, NDArray[Any]], those: NDArray[np.intp]
) -> None:
    for place in np.unique(batch["result"][those]).tolist():
        subjects = batch["subject"][those[batch["result"][those] == place]]
        count, whose = found.get(place, (0, []))
        found[place] = (count + len(subjects), sorted({*whose, *subjects.tolist()})[:3])


def _mixed_clocks(name: str) -> None:
    raise DataError(f"{name}: {MIXED_CLOCKS}")


def stage(
    engine: Engine,
    spec: Biomarkers,
    inputs: Sequence[tuple[str, ResultSpec]],
    name: str,
    *,
    numbers: bool,
    same_day: bool,
) -> Candidates:
    """Return the query of the candidates, out of the views ``raw`` and the tables ``kind`` and ``kept``.

    Args:
        engine: holds them.
        spec: the declared block.
        inputs: the results by position.
        name: of the table, for messages.
        numbers: whether values are numbers already.
        same_day: whether results of the prediction day without a time of day were known.

    Raises:
        DataError: if times cannot be compared, or a result declares no unit but has one.
    """
    cells = _units(engine, spec, inputs) if numbers else []
    timed = _timed(engine, spec, numbers=numbers, same_day=same_day)
    if numbers:
        empty = f"CASE WHEN value IS NULL THEN {EMPTY} ELSE 0 END"
        return Candidates(
            "SELECT subject, result, cell, coalesce(value, 'nan'::DOUBLE) AS value,"
            f" {_OFFSET}, (tag + {empty})::USMALLINT AS tag FROM ({timed})",
            cells,
        )
    engine.run(f"CREATE OR REPLACE TEMP TABLE candidate AS {timed}", what=name)
    if engine.rows(f"SELECT count(*) FROM candidate WHERE tag & {MIXED} > 0")[0][0]:
        _mixed_clocks(name)
    return Candidates(
        "SELECT subject, result, coalesce(cell.cell, 0)::INTEGER AS cell, 'nan'::DOUBLE AS value,"
        f" {_OFFSET}, tag::USMALLINT AS tag FROM candidate LEFT JOIN cell USING (result, value, unit)",
        _texts(engine, spec, inputs),
    )


_OFFSET = "coalesce(offset_days, '-infinity'::DOUBLE) AS \"offset\""


def _units(engine: Engine, spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]]) -> list[Cell]:
    """Read every distinct unit into ``cell(result, unit, cell)``; a wrong one may be of later rows only."""
    found = engine.rows("SELECT DISTINCT result, unit FROM kind WHERE result >= 0 ORDER BY ALL")
    engine.put(
        "cell",
        {
            "result": ("INTEGER", [place for place, _ in found]),
            "unit": ("VARCHAR", [unit for _, unit in found]),
            "cell": ("INTEGER", range(len(found))),
        },
    )
    return [read_unit(inputs[place], spec, unit) for place, unit in found]


def _texts(engine: Engine, spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]]) -> list[Cell]:
    """Read every distinct cell into ``cell(result, value, unit, cell)``; one of later rows only has none."""
    found = engine.rows(
        f"SELECT DISTINCT result, value, unit FROM candidate WHERE tag & {FATE_BITS} <> {FATE['later']}"
        " ORDER BY ALL"
    )
    engine.put(
        "cell",
        {
            "result": ("USMALLINT", [row[0] for row in found]),
            "value": ("VARCHAR", [row[1] for row in found]),
            "unit": ("VARCHAR", [row[2] for row in found]),
            "cell": ("INTEGER", range(len(found))),
        },
    )
    return [read_cell(inputs[place], spec, text, unit) for place, text, unit in found]


def _timed(engine: Engine, spec: Biomarkers, *, numbers: bool, same_day: bool) -> str:
    """SQL: rows of kept subjects and input codes, tagged with the fate of their time and their status."""
    types = dict(engine.rows("SELECT column_name, column_type FROM (DESCRIBE raw)"))
    both = ("taken", "available")
    if types["taken"] == "TIMESTAMP":
        clocks = ", ".join(
            f"CAST(CAST({c} AS DATE) - DATE '1970-01-01' AS DOUBLE) AS {c}_day, epoch_us({c}) AS {c}_us,"
            f" false AS {c}_aware"
            for c in both
        )
        # "-infinity" and years before the first are nobody's; as text, they could not be read either
        unread = " OR ".join(f"{c}_day < {_FIRST_DAY}" for c in both)
        elsewhere = "false"
    else:
        clocks = ", ".join(sql_clock(c, days=spec.columns.day is not None) for c in both)
        unread = " OR ".join(f"({c} <> '' AND {c}_day IS NULL)" for c in both)
        elsewhere = " OR ".join(sql_on_the_day_elsewhere(c, same_day=same_day) for c in both)
    known, available = (sql_known_by(c, same_day=same_day) for c in both)
    mixed = " OR ".join(f"({c}_us IS NOT NULL AND t_us IS NOT NULL AND {c}_aware <> t_aware)" for c in both)
    undated = FATE["undated"] if spec.undated == "refuse" else 0
    odd = _sql_odd_date(days=spec.columns.day is not None)
    _declared(engine, spec, numbers=numbers)
    same = " AND ".join(f"raw.{column} = declared.{column}" for column in mapped(spec))
    cell = "cell" if numbers else "declared.unit AS unit"
    return (
        f"SELECT subject, result, {'cell' if numbers else 'unit'}, value, {sql_offset_days('taken')} AS"
        f" offset_days, (status + CASE WHEN coalesce({mixed}, false) THEN {MIXED} ELSE 0 END"
        f" + CASE WHEN {odd} THEN {ODD_DATE} ELSE 0 END + CASE WHEN {elsewhere} THEN {ELSEWHERE} ELSE 0 END"
        f" + CASE WHEN NOT coalesce(({known}) AND (available_day IS NULL OR {available}), true)"
        f" THEN {FATE['later']} WHEN withdrawn THEN {FATE['withdrawn']}"
        f" WHEN {unread} THEN {FATE['unparsable']} WHEN taken_day IS NULL THEN {undated}"
        f" WHEN offset_days < -days THEN {FATE['outside the window']} ELSE 0 END)::USMALLINT AS tag"
        f" FROM (SELECT kept.subject, t_day, t_us, t_aware, result, days, status, withdrawn, {cell},"
        f" value, taken, available, {clocks} FROM raw JOIN kept ON raw.id = kept.id JOIN declared ON {same})"
    )


def mapped(spec: Biomarkers) -> list[str]:
    """Return what tells one kind of result from another: those columns of ``raw`` that the table has."""
    columns = spec.columns
    told = {"code": columns.code, "name": columns.name, "unit": columns.unit, "state": columns.status}
    return [name for name, column in told.items() if column]


def _declared(engine: Engine, spec: Biomarkers, *, numbers: bool) -> None:
    """The table ``declared``: the kinds of result that are inputs, each judged once."""
    cell, join = (", cell.cell", "JOIN cell USING (result, unit)") if numbers else ("", "")
    engine.run(
        f"CREATE OR REPLACE TEMP TABLE declared AS SELECT {', '.join(mapped(spec))}"
        + ("" if spec.columns.unit else ", unit")
        + f", result::USMALLINT AS result, days, {sql_withdrawn('state')} AS withdrawn,"
        f" (({sql_status_rank('state')}) << {RANK_SHIFT})::USMALLINT AS status{cell}"
        f" FROM kind {join} WHERE result >= 0"
    )


def _sql_odd_date(*, days: bool) -> str:
    """SQL: whether a result is dated as nobody's is: 1900-01-01 and 2100-01-01, placeholders, and beyond."""
    first, last = (date(year, 1, 1).toordinal() - date(1970, 1, 1).toordinal() for year in ODD_YEARS)
    low, high = (first - last, last - first) if days else (first, last)
    return f"coalesce(taken_day < {low} OR taken_day >= {high}, false)"
