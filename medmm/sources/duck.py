"""The engine over tables: sole importer of duckdb.

One in-memory connection with bounded memory; what does not fit goes to a private temporary folder that
disappears with it. Messages of the engine may quote cells, so none of them leaves this file.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from medmm.errors import DataError, OutputError

MEMORY_MB = 1024
MAX_LINE_MB = 2
"""The longest line of a CSV file that is read."""
MAX_CELLS_BYTES = 32 << 20
"""The longest line of a table that a source has written itself."""
THREADS = 2


def quoted(identifier: str) -> str:
    """Return an identifier as SQL, whatever characters it holds."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


class Engine:
    """One in-memory database for one join.

    Args:
        memory_mb: the most memory it takes before it spills.
        threads: the most threads it takes; results do not depend on it.
    """

    def __init__(self, *, memory_mb: int = MEMORY_MB, threads: int = THREADS) -> None:
        import duckdb

        self._error = duckdb.Error
        self._spill = tempfile.TemporaryDirectory(prefix="medmm-")
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_mb}MB",
                "threads": threads,
                "temp_directory": self._spill.name,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "preserve_insertion_order": False,
            },
        )
        self._connection.execute("SET enable_progress_bar = false")  # it would write over a caller's output
        self._connection.execute("SET TimeZone = 'UTC'")  # an instant reads the same on every machine

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._spill.cleanup()

    def run(self, sql: str, parameters: Sequence[Any] = (), *, what: str = "the tables") -> None:
        """Execute a statement without a result.

        Raises:
            DataError: if the engine cannot read ``what``; its own message, which may quote cells, is dropped.
        """
        self._execute(sql, parameters, what)

    def rows(self, sql: str, parameters: Sequence[Any] = (), *, what: str = "the tables") -> list[Any]:
        """Return every row of a query, as tuples.

        Raises:
            DataError: as :meth:`run`.
        """
        try:
            found: list[Any] = self._execute(sql, parameters, what).fetchall()
        except self._error as error:
            raise _unreadable(what, error) from None
        return found

    def arrays(self, sql: str) -> dict[str, Any]:
        """Return the columns of a query as numpy arrays, masked where a cell is NULL.

        Raises:
            DataError: as :meth:`run`.
        """
        try:
            found: dict[str, Any] = self._execute(sql, (), "the tables").fetchnumpy()
        except self._error as error:
            raise _unreadable("the tables", error) from None
        return found

    def batches(self, sql: str, rows: int, *, what: str = "the tables") -> Iterator[dict[str, Any]]:
        """Yield the columns of a query as numpy arrays, so many rows at a time; no cell may be NULL.

        Raises:
            DataError: as :meth:`run`.
        """
        try:
            # not through execute(), which would keep a second copy of the rows
            reader = self._connection.sql(sql).to_arrow_reader(rows)
            for batch in reader:
                yield {name: batch.column(place).to_numpy() for place, name in enumerate(batch.schema.names)}
        except (self._error, OSError, ValueError) as error:
            raise _unreadable(what, error) from None

    def put(self, name: str, columns: Mapping[str, tuple[str, Sequence[Any]]]) -> None:
        """Make a temporary table of Python values: ``{column: (SQL type, values)}``."""
        parts = ", ".join(f"unnest(?::{kind}[]) AS {quoted(column)}" for column, (kind, _) in columns.items())
        values = [list(values) for _, values in columns.values()]
        sql = f"CREATE OR REPLACE TEMP TABLE {quoted(name)} AS SELECT {parts}"
        self._execute(sql, values, "a value that was passed in, such as an id that is not text,")

    def private(self, name: str) -> Path:
        """Return a path in the engine's own folder, which disappears with it."""
        return Path(self._spill.name) / name

    def keep_csv(self, path: Path, columns: Sequence[str], *, what: str) -> str:
        """Turn a CSV file of the private folder into Parquet and return the SQL that reads it.

        An empty cell becomes NULL.

        Raises:
            DataError: as :meth:`run`.
        """
        types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
        kept = path.with_suffix(".parquet")
        cells = ", ".join(f"nullif({quoted(column)}, '') AS {quoted(column)}" for column in columns)
        self.run(
            f"COPY (SELECT {cells}"
            f" FROM read_csv({literal(str(path))}, auto_detect=false, header=true, delim=',', quote='\"',"
            f" escape='\"', nullstr='', max_line_size={MAX_CELLS_BYTES}, columns={{{types}}}))"
            f" TO {literal(str(kept))} (FORMAT parquet)",
            what=what,
        )
        path.unlink()
        return f"read_parquet({literal(str(kept))})"

    def attach(self, path: Path, name: str, *, what: str) -> None:
        """Attach a database file, to be read only.

        Raises:
            DataError: as :meth:`run`.
        """
        self.run(f"ATTACH {literal(str(path))} AS {quoted(name)} (READ_ONLY)", what=what)

    def copy(self, sql: str, path: Path, options: str) -> None:
        """Write a query to a file atomically: a temporary file beside it, then a rename.

        Raises:
            OutputError: if the folder cannot be written.
        """
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            partial.touch(mode=0o600, exist_ok=False)
            self._connection.execute(f"COPY ({sql}) TO {literal(str(partial))} ({options})")
            partial.chmod(0o600)
            partial.replace(path)
        except (OSError, self._error) as error:
            partial.unlink(missing_ok=True)
            reason = error.strerror if isinstance(error, OSError) else "the engine could not write it"
            raise OutputError(f"{path} cannot be written ({reason}); name another folder") from None

    def _execute(self, sql: str, parameters: Sequence[Any], what: str) -> Any:
        try:
            return self._connection.execute(sql, parameters)
        except self._error as error:
            raise _unreadable(what, error) from None


def _unreadable(what: str, error: Exception) -> DataError:
    text = str(error)
    line = re.search(r"[Ll]ine:? (\d+)", text)
    place = f", line {line.group(1)}" if line else ""
    if "Expected Number of Columns" in text or "Too many columns" in text:
        return DataError(f"{what}{place}: this line has not as many cells as the header; repair the file")
    if (
        "aximum line size" in text
        or "max_line_size" in text
        or "currently does not support a full read" in text
    ):
        return DataError(f"{what}{place}: a line is longer than {MAX_LINE_MB} MB; is a quote not closed?")
    if "unterminated quote" in text or "invalid state" in text:
        return DataError(f"{what}{place}: a quote is not closed, or line endings are mixed; repair the file")
    if type(error).__name__ == "OutOfMemoryException":
        return DataError(
            f"{what}: memory, or room in the temporary folder, ended; free some, or name another with TMPDIR"
        )
    return DataError(f"{what}{place} cannot be read as a table ({type(error).__name__}); repair the file")


def write_parquet(
    columns: Mapping[str, Sequence[Any]], path: Path, *, types: Mapping[str, str] | None = None
) -> None:
    """Write named columns of equal length to a Parquet file, atomically and with mode 0600.

    Args:
        columns: text, numbers or booleans; None is a missing cell. A column of nothing but None is text.
        path: the file to write.
        types: SQL types of columns whose values may not show them, such as lists ("DOUBLE[]").

    Raises:
        OutputError: if the folder cannot be written.
    """
    known = types or {}
    typed = {name: (known.get(name) or _sql_type(values), values) for name, values in columns.items()}
    with Engine(threads=1) as engine:
        engine.put("written", typed)
        engine.copy("SELECT * FROM written", Path(path), "FORMAT parquet, COMPRESSION zstd")


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """Read a Parquet file back into columns.

    Raises:
        DataError: if it is missing or no Parquet file.
    """
    with Engine(threads=1) as engine:
        source = f"read_parquet({literal(str(path))})"
        names = [row[0] for row in engine.rows(f"DESCRIBE SELECT * FROM {source}", what=str(path))]
        rows = engine.rows(f"SELECT * FROM {source}", what=str(path))
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _sql_type(values: Sequence[Any]) -> str:
    kinds = set(_kinds(values))
    for kind, sql in ((bool, "BOOLEAN"), (int, "BIGINT")):
        if kinds == {kind}:
            return sql
    return "DOUBLE" if kinds and kinds <= {int, float} else "VARCHAR"


def _kinds(values: Sequence[Any]) -> Iterator[type]:
    for value in values:
        if value is not None:
            yield type(value)
