"""What a folder of data holds, looked at and not yet understood: columns, ids, series."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medmm.cohort.dates import FORMS, Forms, sql_fits, with_iso_dates
from medmm.cohort.decimals import COMMA_NUMBER
from medmm.cohort.disclosure import tellable
from medmm.cohort.values import FLAG_WORDS
from medmm.errors import DataError
from medmm.sources.duck import Engine, literal, quoted
from medmm.sources.tables import SUFFIXES, Table, open_table

if TYPE_CHECKING:
    from medmm.dicom.index import Index, SeriesEntry

ID_NAMES = (
    r"(^|_)(patient|patienten?|subject|case|fall|person|participant|proband|sujet|dossier|mrn|pid|ipp|id)"
    r"(_|$|id)"
)
"""What a column of subject ids is called."""
RADIOGRAPHS = ("CR", "DX", "RG")
"""Modalities of the same picture: the cassette decides which."""
FEW_WORDS = 20
"""A column of at most so many different words is a category."""
FEW_OTHERS = 3
"""A column of numbers and at most so many other words is a number with words for "missing"."""
_DIGITS = r"(([1-9][0-9]{0,2}(,[0-9]{3})+|[0-9]+)(\.[0-9]*)?|\.[0-9]+)"
UNSIGNED = rf"{_DIGITS}([eE][+-]?[0-9]+)?"
"""A number in a cell, without its sign, as a regular expression."""
NUMBER = rf"[<>]?=? ?[+-]?{UNSIGNED}( ?[HLNA]{{1,2}})?|[+-]?inf"
"""A cell that reads as a number: perhaps a comparator before, a flag behind it."""
_COMMA = r"[<>]?=? ?[+-]?[0-9]*,([0-9]{1,2}|[0-9]{4,})|[<>]?=? ?[+-]?0,[0-9]+"
_POINT = r"[<>]?=? ?[+-]?[0-9]*\.([0-9]{1,2}|[0-9]{4,})|[<>]?=? ?[+-]?0\.[0-9]+"
"""Numbers with one mark, which cannot be one between thousands."""
_DATE = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?"
_OTHER_DATE = (
    r"(\d{1,2}[./-](\d{1,2}|[A-Za-z]{3})[./-]\d{2,4}|\d{4}[./]\d{1,2}[./]\d{1,2})([T ]+\d{1,2}:\d{2}.*)?"
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        filled: cells that hold something.
        distinct: different words among them.
        numbers: cells that read as a number.
        dates: cells that read as an ISO 8601 date or datetime, or as a date of one of ``forms``.
        times: dates with a time of day.
        other_dates: cells that look like a date of another form ("01.06.2024", "1-Jun-24").
        forms: of those, the forms (:data:`~medmm.cohort.dates.FORMS`) that fit every filled cell; of several,
            whether day or month comes first is nothing to guess.
        prose: cells of three words or more.
        words: the different words, sorted, where there are at most :data:`FEW_WORDS`.
        others: in a column with numbers, the other words, where there are at most :data:`FEW_OTHERS`.
    """

    name: str
    rows: int
    filled: int
    distinct: int
    numbers: int
    dates: int
    times: int
    other_dates: int
    prose: int
    words: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether nearly every cell reads as a number."""
        return self.filled > 0 and self.numbers >= 0.95 * self.filled

    @property
    def is_date(self) -> bool:
        """Whether nearly every cell reads as a date."""
        return self.filled > 0 and self.dates >= 0.95 * self.filled

    @property
    def is_other_date(self) -> bool:
        """Whether nearly every cell looks like a date, but no form fits them all."""
        return not self.forms and self.filled > 0 and self.other_dates >= 0.95 * self.filled

    @property
    def is_flag(self) -> bool:
        """Whether it holds two words of yes and no."""
        return len(self.words) == 2 and all(word.lower() in FLAG_WORDS for word in self.words)

    @property
    def is_unique(self) -> bool:
        """Whether every row has a word of its own."""
        return self.rows > 1 and self.filled == self.distinct == self.rows


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table of the folder.

    Attributes:
        decimal_comma: whether its numbers are read as having one.
        pointed: columns that have numbers with a decimal point all the same.
    """

    name: str
    rows: int
    columns: Mapping[str, Column]
    decimal_comma: bool = False
    pointed: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        """How a number is written in it, as a regular expression."""
        return COMMA_NUMBER if self.decimal_comma else NUMBER


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder that holds DICOM series."""

    name: str
    index: Index

    @property
    def patient_ids(self) -> set[str]:
        """Every PatientID in it."""
        return {entry.patient_id for entry in self.index.series if entry.patient_id}

    def by_modality(self) -> dict[str, list[SeriesEntry]]:
        """Return its series, localizers left out, by modality; radiographs of any kind are one, ""."""
        groups: dict[str, list[SeriesEntry]] = {}
        for entry in self.index.series:
            if "LOCALIZER" not in (part.upper() for part in entry.image_type):
                groups.setdefault(entry.modality, []).append(entry)
        if len(groups) > 1 and set(groups) <= set(RADIOGRAPHS):
            return {"": [entry for entries in groups.values() for entry in entries]}
        return dict(sorted(groups.items()))


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that was found.

    Attributes:
        id: the column that names the subjects, or "" when none does.
        subjects: its different words in the table that has most of them.
        imaged: PatientIDs of the DICOM folders, and how many of them are subjects.
        unreadable: tables that could not be read, and why.
    """

    root: Path
    sheets: tuple[Sheet, ...]
    folders: tuple[Folder, ...]
    id: str
    subjects: frozenset[str]
    imaged: tuple[int, int]
    unreadable: Mapping[str, str]


def plain(name: str) -> str:
    """Return a name with an underscore for whatever is no letter or digit: "LOS (d)" is "LOS_d"."""
    return re.sub(r"[\W_]+", "_", name).strip("_")


def survey(root: Path, *, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Look at every table and every DICOM folder directly inside ``root``.

    Raises:
        DataError: if it is no folder, or holds no table.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder; name the folder that holds the tables and the DICOM files")
    sheets, unreadable = [], {}
    with Engine() as engine:
        for path in sorted(root.iterdir()):
            if path.is_file() and path.suffix.lower() in SUFFIXES:
                try:
                    sheets.append(_sheet(engine, root, path.name))
                except DataError as error:
                    unreadable[path.name] = str(error)
        folders = tuple(_folders(root, progress))
        patient_ids = {i for folder in folders for i in folder.patient_ids}
        column, subjects = _subjects(engine, root, sheets, patient_ids)
    if not sheets:
        raise DataError(f"{root} holds no table ({', '.join(SUFFIXES)}); medmm joins images to at least one")
    matched = len(patient_ids & subjects)
    return Survey(
        root, tuple(sheets), folders, column, frozenset(subjects), (len(patient_ids), matched), unreadable
    )


def words_of(
    root: Path, table: str, columns: Sequence[str], *, limit: int | None = 500, forms: Forms | None = None
) -> list[tuple[tuple[str, ...], int]]:
    """Return the different combinations of some columns and how many rows have each, most frequent first.

    Args:
        forms: columns that are read as dates of these forms.
    """
    with Engine() as engine:
        sheet = with_iso_dates(open_table(engine, root, table), forms or {})
        listed = ", ".join(f"coalesce(trim({quoted(column)}), '')" for column in columns)
        rows = engine.rows(
            f"SELECT {listed}, count(*) AS n FROM {sheet.relation} GROUP BY ALL ORDER BY n DESC, 1"
            + (f" LIMIT {limit}" if limit else ""),
            what=table,
        )
    return [(tuple(row[:-1]), row[-1]) for row in rows]


def _sheet(engine: Engine, root: Path, name: str) -> Sheet:
    table = open_table(engine, root, name)
    marks = _marks(engine, table)
    commas, points = ([c for c, counts in marks.items() if counts[i]] for i in (0, 1))
    sheet = Sheet(name, 0, {}, len(commas) > len(points), tuple(points))
    measures = "".join(
        f", count({c}), count(DISTINCT {c}),"
        f" count({c}) FILTER (regexp_full_match({c}, {literal(sheet.number)})),"
        f" count({c}) FILTER (regexp_full_match({c}, '{_DATE}')),"
        f" count({c}) FILTER (regexp_full_match({c}, '{_DATE}') AND length({c}) > 10),"
        f" count({c}) FILTER (regexp_full_match({c}, '{_OTHER_DATE}')),"
        f" count({c}) FILTER (regexp_matches({c}, '[^ ] [^ ]+ [^ ]'))"
        for c in (f"c{place}" for place in range(len(table.columns)))
    )
    row = engine.rows(f"SELECT count(*){measures} FROM {_numbered(table)}", what=name)[0]
    columns = {
        column: _column(engine, table, column, (row[0], *row[1 + 7 * place : 8 + 7 * place]), sheet.number)
        for place, column in enumerate(table.columns)
    }
    return replace(sheet, rows=row[0], columns=columns)


def _numbered(table: Table) -> str:
    """SQL: the trimmed cells of a table, its columns called c0, c1, …; an empty cell is NULL."""
    cells = ", ".join(f"nullif(trim({quoted(c)}), '') AS c{place}" for place, c in enumerate(table.columns))
    return f"(SELECT {cells} FROM {table.relation})"


def _marks(engine: Engine, table: Table) -> dict[str, tuple[int, int]]:
    """Return, per column, cells with a decimal comma and with a decimal point that can be nothing else."""
    counts = ", ".join(
        f"count(*) FILTER (regexp_full_match(c{place}, '{mark}'))"
        for place in range(len(table.columns))
        for mark in (_COMMA, _POINT)
    )
    (row,) = engine.rows(f"SELECT {counts} FROM {_numbered(table)}", what=table.name)
    return {column: row[2 * place : 2 * place + 2] for place, column in enumerate(table.columns)}


def _column(engine: Engine, table: Table, column: str, counts: Sequence[int], number: str) -> Column:
    """Return a column, from the counts of its cells and how a number is written."""
    rows, filled, distinct, numbers, dates, times, other, prose = counts
    cell = f"(SELECT DISTINCT trim({quoted(column)}) AS w FROM {table.relation}) WHERE w <> ''"
    words, others = [], []
    if 0 < distinct <= FEW_WORDS:
        words = [word for (word,) in engine.rows(f"SELECT w FROM {cell} ORDER BY w")]
    if 0 < numbers < filled:
        others = _others(engine, column, table.relation, number)
    few = tuple(w for w, count in others if tellable(w, count)) if len(others) <= FEW_OTHERS else ()
    forms: tuple[str, ...] = ()
    if other == filled > 0:
        forms, times = _forms(engine, column, table.relation, filled)
        dates = filled if forms else dates
    return Column(
        column, rows, filled, distinct, numbers, dates, times, other, prose, tuple(words), few, forms
    )


def _forms(engine: Engine, column: str, relation: str, filled: int) -> tuple[tuple[str, ...], int]:
    """Return the forms of dates that every cell of a column fits, and how many cells have a time of day."""
    counts = "".join(f", count(*) FILTER ({sql_fits('w', form)})" for form in FORMS)
    cell = f"(SELECT trim({quoted(column)}) AS w FROM {relation}) WHERE w <> ''"
    timed, *fitting = engine.rows(f"SELECT count(*) FILTER (contains(w, ':')){counts} FROM {cell}")[0]
    return tuple(form for form, count in zip(FORMS, fitting, strict=True) if count == filled), timed


def _others(engine: Engine, column: str, relation: str, number: str) -> list[tuple[str, int]]:
    """Return the words of a column that are no numbers, with their counts; one more than are of use."""
    cell = f"(SELECT trim({quoted(column)}) AS w FROM {relation}) WHERE w <> ''"
    rest = (
        f"{cell} AND NOT regexp_full_match(w, {literal(number)}) GROUP BY w ORDER BY w LIMIT {FEW_OTHERS + 1}"
    )
    return [(word, int(count)) for word, count in engine.rows(f"SELECT w, count(*) FROM {rest}")]


def _folders(root: Path, progress: Callable[[int, int], None] | None) -> list[Folder]:
    from medmm.dicom.index import scan

    found = []
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            index = scan(path, progress=progress)
            if index.series:
                found.append(Folder(path.name, index))
    return found


def _subjects(
    engine: Engine, root: Path, sheets: Sequence[Sheet], patient_ids: set[str]
) -> tuple[str, set[str]]:
    """Find the column that names the subjects: in most tables, and matching the PatientIDs."""
    tables = Counter(name for sheet in sheets for name in sheet.columns)
    best: tuple[tuple[int, int, int], str, set[str]] = ((0, 0, 0), "", set())
    for sheet in sheets:
        for column in sheet.columns.values():
            named = re.search(ID_NAMES, plain(column.name), re.IGNORECASE) is not None
            known = named or tables[column.name] > 1
            likely = known or 2 * column.distinct > len(patient_ids) > 0
            if column.filled < column.rows or not likely or column.is_date:
                continue
            words = _distinct(engine, root, sheet.name, column.name)
            if not known and 2 * len(words & patient_ids) <= len(patient_ids):
                continue  # a number may be somebody's PatientID by chance
            score = (len(words & patient_ids), tables[column.name] + named, len(words))
            if score > best[0]:
                best = (score, column.name, words)
    return best[1], best[2]


def _distinct(engine: Engine, root: Path, table: str, column: str) -> set[str]:
    sheet = open_table(engine, root, table)
    return {row[0] for row in engine.rows(f"SELECT DISTINCT trim({quoted(column)}) FROM {sheet.relation}")}
