"""The relations that every event source maps itself to, so that one join serves them all.

A source (MEDS, OMOP, FHIR) offers up to three relations, every column text, an empty cell NULL:

- ``subjects``: one row per person.
- ``events``: one row per timed fact: a result, a diagnosis, a drug, a visit.
- ``notes``: one row per text.

Their times are ISO 8601; one without a time of day is a date. A cohort.yaml names them as tables.
"""

# ruff: noqa: S608 - the names are this file's own
from __future__ import annotations

from collections.abc import Mapping, Sequence

from medmm.errors import ConfigError
from medmm.sources.tables import Table

SUBJECTS = ("subject_id", "birth_date", "sex", "split")
"""``split`` is the one that a MEDS data set recommends; empty elsewhere."""
EVENTS = (
    "subject_id",
    "time",
    "available_at",
    "code",
    "name",
    "value",
    "unit",
    "status",
    "kind",
)
"""``kind`` is the table or resource it came from ("measurement", "Condition"); ``value`` may be empty."""
NOTES = ("subject_id", "time", "available_at", "code", "text")
RELATIONS: Mapping[str, Sequence[str]] = {"subjects": SUBJECTS, "events": EVENTS, "notes": NOTES}

NUMBER = r"(<=|>=|<|>)? ?[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?( (HH|LL|H|L|A))?"
"""What a verbatim cell must look like to stand for the number beside it."""


def table(name: str, select: Mapping[str, str], source: str) -> Table:
    """Return a relation of :data:`RELATIONS`.

    Args:
        name: one of them.
        select: SQL per column; a column that is left out is empty throughout.
        source: what follows FROM.
    """
    columns = RELATIONS[name]
    cells = ", ".join(f"CAST({select.get(column, 'NULL')} AS VARCHAR) AS {column}" for column in columns)
    return Table(name, tuple(columns), f"(SELECT {cells} FROM {source})", canonical=True)


def union(name: str, parts: Sequence[Table]) -> Table:
    """Return one relation out of several, none of whose rows is lost.

    Raises:
        ConfigError: if there is nothing to unite.
    """
    if not parts:
        raise ConfigError(f"the source has nothing that could become {name!r}")
    relation = " UNION ALL ".join(f"SELECT * FROM {part.relation}" for part in parts)
    return Table(name, tuple(RELATIONS[name]), f"({relation})", canonical=True)


def verbatim(number: str, text: str) -> str:
    """SQL: the recorded cell ``text`` where it says the same number, else the number itself.

    A data model keeps 85.70 as 85.7, or as a float of 32 bits; the cell, where it is kept, says it better.
    """
    plain = f"regexp_extract({text}, '[+-]?[0-9.]+([eE][+-]?[0-9]+)?')"
    same = (
        f"regexp_full_match({text}, '{NUMBER}')"
        f" AND CAST(try_cast({plain} AS DOUBLE) AS FLOAT) = CAST({number} AS FLOAT)"
    )
    return f"CASE WHEN {number} IS NULL OR ({same}) THEN {text} ELSE CAST({number} AS VARCHAR) END"


def day_or_instant(time: str, *, midnight_is_a_day: bool) -> str:
    """SQL: a time as ISO 8601; exactly midnight is a date alone where the model writes dates so.

    OMOP CDM 5.4 sets an unknown time of day to midnight; taken at its word, what came in at noon would seem
    known at the start of the day.
    """
    text = f"CAST({time} AS VARCHAR)"
    if not midnight_is_a_day:
        return text
    zone = r" ?(Z|[+-]\d{2}(:?\d{2})?)"
    return f"regexp_replace({text}, '^(\\d{{4}}-\\d{{2}}-\\d{{2}})[T ]00:00(:00(\\.0*)?)?({zone})?$', '\\1')"
