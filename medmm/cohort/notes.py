"""Clinical notes: which were known at the prediction time, and what became of the others."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medmm.cohort.blocks import Notes
from medmm.cohort.flow import Account
from medmm.cohort.moments import MIXED_CLOCKS, sql_clock, sql_known_by, sql_offset_days
from medmm.errors import DataError
from medmm.sample import NotesSource
from medmm.sources.duck import Engine, quoted
from medmm.sources.tables import Table


@dataclass(frozen=True, slots=True)
class Written:
    """What a table of notes says of the subjects.

    Attributes:
        account: rows of the table by what became of them.
        texts: per position of a subject, the notes that a model reads; a subject without any has no entry.
    """

    account: Account
    texts: Mapping[int, NotesSource]


def read_notes(
    engine: Engine, spec: Notes, table: Table, id_column: str, *, same_day: bool, restricted: bool
) -> Written:
    """Count the rows of a table of notes by what became of them, and read those that a model is to see.

    A note is known when it was written, and became available where the source says when, by the prediction
    time. What is later is set apart before its text is looked at.

    Args:
        engine: holds ``kept(subject, id, t_day, t_us, t_aware)``.
        spec: the declared block.
        table: the table of notes.
        id_column: its column of subject ids.
        same_day: whether a note of the prediction day without a time of day was known.
        restricted: whether only the subjects of ``wanted(id)`` are looked at.

    Raises:
        DataError: if times with and without an offset from UTC would have to be compared.
    """
    _note(engine, spec, table, id_column, same_day=same_day, restricted=restricted)
    if engine.rows("SELECT count(*) FROM note WHERE mixed", what=table.name)[0][0]:
        raise DataError(f"{table.name}: {MIXED_CLOCKS}")
    rows = engine.rows("SELECT fate, count(*) FROM note GROUP BY fate ORDER BY fate")
    total = sum(count for _, count in rows)
    return Written(Account("notes", total, {"known": 0} | dict(rows)), _texts(engine, spec))


def _note(
    engine: Engine, spec: Notes, table: Table, id_column: str, *, same_day: bool, restricted: bool
) -> None:
    """The table ``note(subject, text, offset_days, fate, mixed)``; only a known note keeps its text."""
    columns = spec.columns
    available = _text(columns.available_at)
    written = f"coalesce(nullif({_text(columns.time or columns.day)}, ''), {available})"
    clocks = ", ".join(sql_clock(c, days=columns.day is not None) for c in ("written", "available"))
    both = ("written", "available")
    mixed = " OR ".join(f"({c}_us IS NOT NULL AND t_us IS NOT NULL AND {c}_aware <> t_aware)" for c in both)
    by_then, available_by_then = (sql_known_by(c, same_day=same_day) for c in both)
    window = (spec.input and spec.input.window_days) or "'inf'::DOUBLE"
    undated = "undated" if spec.undated == "refuse" else "known"
    where = " WHERE note_id IN (SELECT id FROM wanted)" if restricted else ""
    engine.run(
        "CREATE TEMP TABLE note AS SELECT subject, CASE WHEN fate = 'known' THEN text END AS text,"
        f" CASE WHEN fate = 'known' THEN offset_days END AS offset_days, fate, mixed FROM (SELECT *,"
        f" coalesce({mixed}, false) AS mixed, {sql_offset_days('written')} AS offset_days,"
        " CASE WHEN subject IS NULL THEN 'not in the cohort'"
        f" WHEN NOT coalesce(({by_then}) AND (available_day IS NULL OR {available_by_then}), true)"
        " THEN 'later' WHEN text = '' THEN 'empty'"
        " WHEN (written <> '' AND written_day IS NULL) OR (available <> '' AND available_day IS NULL)"
        " THEN 'without a readable time'"
        f" WHEN written_day IS NULL THEN '{undated}'"
        f" WHEN offset_days < -{window} THEN 'outside the window' ELSE 'known' END AS fate"
        f" FROM (SELECT notes.*, kept.*, {clocks} FROM (SELECT * FROM (SELECT {_text(id_column)} AS note_id,"
        f" {_text(columns.text)} AS text, {written} AS written, {available} AS available"
        f" FROM {table.relation}){where}) notes LEFT JOIN kept ON note_id = kept.id))",
        what=table.name,
    )


def _texts(engine: Engine, spec: Notes) -> dict[int, NotesSource]:
    if spec.input is None:
        return {}
    found = engine.rows(
        "SELECT subject, list({'o': offset_days, 't': text} ORDER BY offset_days NULLS FIRST, text)"
        " FROM note WHERE fate = 'known' GROUP BY subject"
    )
    first = -1 if spec.input.take == "last" else 0
    return {
        subject: NotesSource(
            tuple(note["t"] for note in notes[first:]), tuple(note["o"] for note in notes[first:])
        )
        for subject, notes in found
    }


def _text(column: str | None) -> str:
    return f"coalesce(trim({quoted(column)}), '')" if column else "''"
