"""Numbers that a table writes with a decimal comma, turned into the form that is read everywhere else.

Whether 1,234 is a little more than one or more than a thousand is nothing to guess, so `decimal_comma` in
cohort.yaml says it, by table.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from medmm.cohort.blocks import Biomarkers, Records
from medmm.cohort.outcomes import OutcomeSpec
from medmm.sources.duck import literal, quoted
from medmm.sources.tables import Table

_GAPS = ". \u00a0\u202f"
"""What may stand between thousands: a point, or one of the spaces."""
COMMA_NUMBER = (
    rf"(<=|>=|<|>|≤|≥)? ?[+-]?(([1-9][0-9]{{0,2}}([{_GAPS}][0-9]{{3}})+|[0-9]+)(,[0-9]*)?|,[0-9]+)"
    r"([eE][+-]?[0-9]{1,3})?( ?[HLNA*()\[\]]{1,4})?|[+-]?inf"
)
"""A cell that reads as a number with a decimal comma, as a regular expression."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """One column of numbers.

    Attributes:
        missing: its words that mean that the number is missing; they stay as they are.
        words: where the column holds words too, another column and its words in the rows that hold them.
    """

    missing: frozenset[str] = field(default_factory=frozenset)
    words: tuple[str, frozenset[str]] | None = None

    def __or__(self, other: Numbers) -> Numbers:
        """Return what holds for a column that is read for two purposes."""
        return replace(self, missing=self.missing | other.missing)


def numbers_of(
    table: str,
    records: Records | None,
    biomarkers: Biomarkers | None,
    outcomes: Mapping[str, OutcomeSpec],
) -> dict[str, Numbers]:
    """Return the columns of a table that these blocks read as numbers."""
    found: dict[str, Numbers] = {}
    for column, how in (*_of_records(table, records), *_of_results(table, biomarkers)):
        found[column] = found[column] | how if column in found else how
    for name, outcome in outcomes.items():
        if outcome.table == table and outcome.kind in ("regression", "survival"):
            column, how = outcome.column or name, Numbers(frozenset(outcome.missing_codes))
            found[column] = found[column] | how if column in found else how
    spoken = _words_of(table, records)
    if spoken and spoken[0] in found:
        found[spoken[0]] = replace(found[spoken[0]], words=spoken[1])
    return found


def _of_records(table: str, records: Records | None) -> Iterator[tuple[str, Numbers]]:
    if records is not None and records.table == table:
        for name, spec in records.columns.items():
            if spec.kind == "number":
                yield name, Numbers(frozenset(spec.missing_codes))
    events = records.events if records else None
    if records is not None and events is not None and events.table == table:
        numbers = [f for f in records.fields.values() if f.event and f.kind == "number"]
        if numbers:
            yield events.columns.value, Numbers(frozenset(w for f in numbers for w in f.missing_codes))
        if events.columns.day:
            yield events.columns.day, Numbers()


def _words_of(table: str, records: Records | None) -> tuple[str, tuple[str, frozenset[str]]] | None:
    """Return the column of events' values, and the column and the names of those that are words.

    Such as the code of a diagnosis, which may look like a number.
    """
    events = records.events if records else None
    if records is None or events is None or events.table != table:
        return None
    fields = [f for f in records.fields.values() if f.event]
    words = frozenset(str(f.event) for f in fields if f.kind != "number")
    words -= {f.event for f in fields if f.kind == "number"}
    called = events.columns.code or events.columns.name
    return (events.columns.value, (called, words)) if words and called else None


def _of_results(table: str, biomarkers: Biomarkers | None) -> Iterator[tuple[str, Numbers]]:
    if biomarkers is not None and biomarkers.table == table:
        missing = (word for result in biomarkers.results.values() for word in result.missing_codes)
        yield biomarkers.columns.value, Numbers(frozenset(missing))
        if biomarkers.columns.day:
            yield biomarkers.columns.day, Numbers()


def with_decimal_points(table: Table, columns: Mapping[str, Numbers]) -> Table:
    """Return a table whose columns of numbers have a decimal point, and nothing between thousands.

    A cell with a digit and a point or comma that is no such number is marked, so that it is counted as one
    that cannot be read: a column in two forms was put together from two sources, of which one may be wrong.
    Columns that hold numbers in the file, not text, stay.

    Args:
        table: as opened.
        columns: those that hold numbers.

    Raises:
        DataError: if a column is not there.
    """
    table.require(columns, why="decimal_comma")
    text = {name: how for name, how in columns.items() if table.kinds.get(name, "VARCHAR") == "VARCHAR"}
    if not text:
        return table
    cells = ", ".join(f"{_sql_pointed(name, how)} AS {quoted(name)}" for name, how in text.items())

    def read(relation: str) -> str:
        return f"(SELECT * REPLACE ({cells}) FROM {relation})" if relation else ""

    return replace(table, relation=read(table.relation), native=read(table.native))


def _sql_pointed(column: str, how: Numbers) -> str:
    cell = quoted(column)
    text = f"trim({cell})"
    stay = [f"{text} IN ({_listed(how.missing)})"] if how.missing else []
    if how.words is not None:
        other, words = how.words
        stay.append(f"trim({quoted(other)}) IN ({_listed(words)})")
    kept = f"WHEN {' OR '.join(stay)} THEN {cell} " if stay else ""
    return (
        f"CASE {kept}WHEN regexp_full_match({text}, {literal(COMMA_NUMBER)})"
        f" THEN translate({text}, {literal(',' + _GAPS)}, '.')"
        f" WHEN regexp_matches({text}, '[0-9]') AND regexp_matches({text}, '[.,]')"
        f" THEN concat('no decimal comma: ', {text}) ELSE {cell} END"
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(literal(word) for word in sorted(words))
