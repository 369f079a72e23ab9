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
        rows: where the column holds words too, another column and its words in the rows that hold numbers.
    """

    missing: frozenset[str] = field(default_factory=frozenset)
    rows: tuple[str, frozenset[str]] | None = None

    def __or__(self, other: Numbers) -> Numbers:
        """Return what holds for a column that is read for two purposes."""
        return Numbers(self.missing | other.missing, _both(self.rows, other.rows))


def _both(
    first: tuple[str, frozenset[str]] | None, second: tuple[str, frozenset[str]] | None
) -> tuple[str, frozenset[str]] | None:
    return (first[0], first[1] | second[1]) if first and second else None


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
    return found


def _of_records(table: str, records: Records | None) -> Iterator[tuple[str, Numbers]]:
    if records is not None and records.table == table:
        for name, spec in records.columns.items():
            if spec.kind == "number":
                yield name, Numbers(frozenset(spec.missing_codes))
    events = records.events if records else None
    if records is not None and events is not None and events.table == table:
        # the other events of the table may hold words, such as the code of a diagnosis
        fields = [f for f in records.fields.values() if f.event and f.kind == "number"]
        codes = frozenset(field.event or "" for field in fields)
        missing = frozenset(word for field in fields for word in field.missing_codes)
        if codes:
            yield events.columns.value, Numbers(missing, (events.columns.code or "", codes))


def _of_results(table: str, biomarkers: Biomarkers | None) -> Iterator[tuple[str, Numbers]]:
    if biomarkers is not None and biomarkers.table == table:
        missing = (word for result in biomarkers.results.values() for word in result.missing_codes)
        yield biomarkers.columns.value, Numbers(frozenset(missing))


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
    if how.rows is not None:
        other, words = how.rows
        stay.append(f"coalesce(trim({quoted(other)}), '') NOT IN ({_listed(words)})")
    kept = f"WHEN {' OR '.join(stay)} THEN {cell} " if stay else ""
    return (
        f"CASE {kept}WHEN regexp_full_match({text}, {literal(COMMA_NUMBER)})"
        f" THEN translate({text}, {literal(',' + _GAPS)}, '.')"
        f" WHEN regexp_matches({text}, '[0-9]') AND regexp_matches({text}, '[.,]')"
        f" THEN concat('no decimal comma: ', {text}) ELSE {cell} END"
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(literal(word) for word in sorted(words))
