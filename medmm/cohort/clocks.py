"""Clocks that a specification leaves unread: columns of days or dates beside values that are used anyway.

A table of results without a mapped time passes every rule of time, on somebody's word. Where the table has a
clock after all, it is read here, and says how much of what is used lies after the prediction time.
"""

# ruff: noqa: S608 - identifiers go through quoted()
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medmm.cohort.moments import Moment, iso_moment
from medmm.cohort.opened import Opened
from medmm.cohort.spec import CohortSpec
from medmm.cohort.values import parse_number
from medmm.sources.duck import THREADS, Engine, quoted

DAYS = re.compile(r"(^|_)(days?|offset|rel(ative)?_?(day|time)|day_?num(ber)?)(_|$)", re.IGNORECASE)
"""Names of columns that count days from a day of the subject's own."""
READ = 200_000
"""Rows read of one column."""
CLOCK = 0.5
"""A column of which this share of the cells can be read as times is a clock."""


@dataclass(frozen=True, slots=True)
class UnreadClock:
    """A column that could say when rows were recorded, and that no rule of time reads.

    Attributes:
        table: as declared.
        column: its name.
        read: rows whose time could be compared with a prediction time.
        later: of them, rows after it.
    """

    table: str
    column: str
    read: int
    later: int


def unread_clocks(spec: CohortSpec, root: Path) -> list[UnreadClock]:
    """Return the unmapped clocks of the tables of results, of events, and of notes that a model reads.

    Raises:
        DataError: if a table cannot be read.
    """
    with Engine(threads=THREADS) as engine:
        opened = Opened.of(engine, spec, root, subjects=None, outcomes=False)
        predictions, _ = opened.prediction_times(opened.listed())
        return list(_clocks(opened, predictions)) if predictions else []


def _clocks(opened: Opened, predictions: Mapping[str, Moment]) -> Iterator[UnreadClock]:
    spec = opened.spec
    by_day = spec.prediction_time.day is not None
    for table_name, id_column, mapped in _tables(spec):
        table = opened.tables[table_name]
        for column in table.columns:
            if column in mapped or column == id_column or (by_day and not DAYS.search(column)):
                continue
            rows = opened.engine.rows(
                f"SELECT trim({quoted(id_column)}), trim({quoted(column)}) FROM {table.relation}"
                f" WHERE {quoted(column)} IS NOT NULL LIMIT {READ}",
                what=table.name,
            )
            found = _compared(rows, predictions, by_day=by_day)
            if found is not None:
                yield UnreadClock(table.name, column, *found)


def _tables(spec: CohortSpec) -> Iterator[tuple[str, str, set[str | None]]]:
    """Yield the long tables that no clock is mapped of: table, id, columns that are mapped."""
    events = spec.records.events if spec.records else None
    notes = spec.notes if spec.notes and spec.notes.input else None
    for part in (spec.biomarkers, events, notes):
        if part is not None and not (part.columns.time or part.columns.day):
            yield part.table, part.columns.id or spec.subjects.id, set(part.columns.model_dump().values())


def _compared(
    rows: list[tuple[str, str]], predictions: Mapping[str, Moment], *, by_day: bool
) -> tuple[int, int] | None:
    """Return how many times could be compared, and how many are later; None for what is no clock."""
    moments = [(subject, _moment(text, by_day=by_day)) for subject, text in rows if text]
    read = [(subject, moment) for subject, moment in moments if moment is not None]
    if not moments or len(read) < CLOCK * len(moments):
        return None
    known = [(moment, predictions[subject]) for subject, moment in read if subject in predictions]
    later = sum(moment.day > limit.day for moment, limit in known)
    return (len(known), later) if known else None


def _moment(text: str, *, by_day: bool) -> Moment | None:
    if not by_day:
        return iso_moment(text)
    number = parse_number(text)
    return None if number is None or number.value is None else Moment(number.value)
