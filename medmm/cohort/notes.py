"""Clinical notes, accounted for: how many were written in time, and what became of the others."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from medmm.cohort.flow import Account
from medmm.cohort.moments import sql_clock, sql_known_by
from medmm.cohort.spec import Notes
from medmm.sources.duck import Engine, quoted
from medmm.sources.tables import Table


def account_notes(
    engine: Engine, spec: Notes, table: Table, id_column: str, *, same_day: bool, restricted: bool
) -> Account:
    """Count the rows of a table of notes by what became of them.

    Args:
        engine: holds ``kept(subject, id, t_day, t_us, t_aware)``.
        spec: the declared block.
        table: the table of notes.
        id_column: its column of subject ids.
        same_day: whether a note of the prediction day without a time of day was known.
        restricted: whether only the subjects of ``wanted(id)`` are looked at.
    """
    columns = spec.columns
    when = columns.time or columns.day
    written = f"coalesce(trim({quoted(when)}), '')" if when else "''"
    undated = "undated" if spec.undated == "refuse" else "known"
    where = " WHERE id IN (SELECT id FROM wanted)" if restricted else ""
    rows = engine.rows(
        f"SELECT CASE WHEN subject IS NULL THEN 'not in the cohort' WHEN text = '' THEN 'empty'"
        f" WHEN written_day IS NULL THEN '{undated}' WHEN {sql_known_by('written', same_day=same_day)}"
        " THEN 'known' ELSE 'later' END AS fate, count(*) FROM (SELECT notes.*, kept.*,"
        f" {sql_clock('written', days=columns.day is not None)} FROM (SELECT * FROM (SELECT"
        f" trim({quoted(id_column)}) AS note_id, coalesce(trim({quoted(columns.text)}), '') AS text,"
        f" {written} AS written FROM {table.relation}){where.replace('id IN', 'note_id IN')}) notes"
        " LEFT JOIN kept ON note_id = kept.id) GROUP BY fate ORDER BY fate",
        what=table.name,
    )
    total = sum(count for _, count in rows)
    return Account("notes", total, {"known": 0} | dict(rows))
