"""Tables on disk: CSV or Parquet, wide or long, every cell as the text that was recorded."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medmm.errors import UNUSABLE_PATH, ConfigError, DataError, told
from medmm.sources.duck import MAX_LINE_MB, Engine, literal, quoted

DELIMITERS = ",;\t|"
MAX_HEADER_BYTES = 1 << 20
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
"""What a table's file name ends in."""

Where = Mapping[str, str | tuple[str, ...]]
"""Rows of a table: per column, the word or the words that it holds."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: a file, or a relation that a source offers.

    Attributes:
        name: as declared, relative to the root.
        columns: as the file names them.
        relation: the SQL that reads it, every column VARCHAR, an empty cell NULL.
        canonical: whether a source has given its columns their meaning, so that none needs a role.
        native: the same with the types of the file, where it has any.
        kinds: those types, by column.
        remark: what a person should know about how it was read; empty when nothing.
    """

    name: str
    columns: tuple[str, ...]
    relation: str
    canonical: bool = False
    remark: str = ""
    native: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict, compare=False)

    def where(self, conditions: Where) -> Table:
        """Return the rows whose columns hold the words asked for.

        Raises:
            DataError: if a column is not there.
        """
        if not conditions:
            return self
        self.require(conditions, why="where")
        parts = []
        for column, words in conditions.items():
            listed = ", ".join(literal(word) for word in ((words,) if isinstance(words, str) else words))
            parts.append(f"trim({quoted(column)}) IN ({listed})")
        kept = f"(SELECT * FROM {self.relation} WHERE {' AND '.join(parts)})"
        return replace(self, relation=kept, native="", kinds={})

    def require(self, columns: Iterable[str], *, why: str) -> None:
        """Check that columns exist.

        Raises:
            DataError: naming the first one that does not, and the nearest that does.
        """
        for column in columns:
            if column not in self.columns:
                near = difflib.get_close_matches(column, self.columns, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(self.columns[:20])}"
                raise DataError(f"{self.name} has no column {column!r} ({why}); {hint}")


def contained(root: Path, name: str) -> Path:
    """Return ``root / name``, which must stay inside ``root``.

    Raises:
        ConfigError: if it leads out of the root, in a circle, or is no path.
    """
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root.resolve())
    except UNUSABLE_PATH as error:
        raise ConfigError(f"{name!r} cannot be looked up ({told(error)}); give another name") from None
    if not inside:
        raise ConfigError(f"{name!r} leads out of the data root; give a root that holds it")
    return path


def open_table(engine: Engine, root: Path, name: str) -> Table:
    """Find a table and read its head.

    Raises:
        ConfigError: if the name leads out of the root.
        DataError: if the file is missing, empty, without a usable header, or of an unknown kind.
    """
    path = contained(root, name)
    if not path.is_file():
        raise DataError(f"the table {name} is not in {root}; check the name, or pass another --root")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{name} is no kind of table that is read; {', '.join(SUFFIXES)} are")
    if path.suffix.lower() == ".parquet":
        source = f"read_parquet({literal(str(path))})"
        kinds = {row[0]: row[1] for row in engine.rows(f"DESCRIBE SELECT * FROM {source}", what=name)}
        columns = tuple(kinds)
        cells = ", ".join(f"CAST({quoted(c)} AS VARCHAR) AS {quoted(c)}" for c in columns)
        return Table(name, columns, f"(SELECT {cells} FROM {source})", native=source, kinds=kinds)
    encoding = _encoding(path, name)
    delimiter, columns = _header(path, name, encoding)
    types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    relation = (
        f"read_csv({literal(str(path))}, auto_detect=false, header=true, delim={literal(delimiter)},"
        f" quote='\"', escape='\"', nullstr='', max_line_size={MAX_LINE_MB << 20},"
        f" encoding={literal(encoding)}, columns={{{types}}})"
    )
    remark = "" if encoding == "utf-8" else "is not UTF-8 and was read as Latin-1; look at its accents"
    return Table(name, columns, relation, remark=remark)


def _encoding(path: Path, name: str) -> str:
    """UTF-8 when the whole file is, else Latin-1, which every byte is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        head = file.read(2)
        if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{name} is UTF-16; save it as UTF-8")
        file.seek(0)
        try:
            while chunk := file.read(1 << 20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8"


def _header(path: Path, name: str, encoding: str) -> tuple[str, tuple[str, ...]]:
    with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as file:
        line = file.readline(MAX_HEADER_BYTES)
    if not line.strip():
        raise DataError(f"{name} is empty; a table begins with a line of column names")
    if len(line) >= MAX_HEADER_BYTES:
        raise DataError(f"{name}: the header is longer than {MAX_HEADER_BYTES >> 20} MB; repair the file")
    delimiter = max(DELIMITERS, key=line.count)
    try:
        columns = next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        limit = csv.field_size_limit()
        raise DataError(f"{name}: a column name is longer than {limit} characters; repair the file") from None
    if len(set(columns)) < len(columns) or not all(column.strip() for column in columns):
        raise DataError(f"{name}: the header repeats a column name, or leaves one empty; name every column")
    return delimiter, tuple(columns)
