"""PostgreSQL: sole importer of psycopg2.

Rows are streamed by COPY into a private temporary folder, within one read-only snapshot, so that the tables
fit together even while somebody writes. The password never stands in a YAML file: libpq finds it in
PGPASSWORD, a password file or a service file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from pydantic import model_validator

from medmm.columns import Declared
from medmm.errors import ConfigError, DataError
from medmm.sources.duck import Engine
from medmm.sources.tables import Table


class PostgresSource(Declared):
    """How a server is found.

    Attributes:
        dsn_from: environment variable that holds a libpq connection string or URI.
        service: a section of the user's pg_service.conf.
    """

    dsn_from: str | None = None
    service: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> PostgresSource:
        if (self.dsn_from is None) == (self.service is None):
            raise ValueError(
                "give `dsn_from`, the name of an environment variable, or `service`, a section of"
                " pg_service.conf; a connection string or a password does not belong into a YAML file"
            )
        return self


class Postgres:
    """One read-only snapshot of one schema.

    Args:
        source: how the server is found.
        schema: of the tables.

    Raises:
        ConfigError: if the connection is not told.
        DataError: if the server does not let us in; its message, which may quote the host, is dropped.
    """

    def __init__(self, source: PostgresSource, schema: str) -> None:
        import psycopg2

        self._error = psycopg2.Error
        self._schema = schema
        try:
            # what COPY writes is in the client's encoding; the engine reads UTF-8
            self._connection = psycopg2.connect(
                **_parameters(source), application_name="medmm", client_encoding="UTF8"
            )
            self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        except psycopg2.Error:
            way = f"${source.dsn_from}" if source.dsn_from else f"service {source.service!r}"
            raise DataError(
                f"PostgreSQL does not answer to {way}; try `psql` with it, and see that the password is in"
                " PGPASSWORD, ~/.pgpass or the service file"
            ) from None

    def __enter__(self) -> Postgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def fetch(
        self, engine: Engine, names: Sequence[str], subject_id: str, wanted: Sequence[str] | None
    ) -> dict[str, Table]:
        """Copy tables into the engine's private folder and return those that exist.

        Args:
            engine: takes them over.
            names: of the CDM.
            subject_id: the column of ``person`` that ``wanted`` names.
            wanted: only the rows of these subjects; None for everybody. ``concept`` comes whole.

        Raises:
            DataError: if the server breaks off.
        """
        try:
            with self._connection.cursor() as cursor:
                # what COPY writes depends on these
                cursor.execute("SET LOCAL datestyle TO 'ISO, YMD'; SET LOCAL timezone TO 'UTC'")
                return {
                    name: self._copy(
                        cursor, engine, name, columns, self._only(cursor, name, subject_id, wanted)
                    )
                    for name in names
                    if (columns := self._columns(cursor, name))
                }
        except self._error as error:
            raise DataError(
                f"PostgreSQL broke off while {self._schema} was read (SQLSTATE {error.pgcode or 'unknown'})"
            ) from None

    def _columns(self, cursor: Any, name: str) -> list[str]:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            (self._schema, name),
        )
        return [row[0] for row in cursor.fetchall()]

    def _only(self, cursor: Any, name: str, subject_id: str, wanted: Sequence[str] | None) -> str:
        from psycopg2 import sql

        if wanted is None or name == "concept":
            return ""
        condition = sql.SQL(
            " WHERE person_id IN (SELECT person_id FROM {}.person WHERE {}::text = ANY({}))"
        ).format(sql.Identifier(self._schema), sql.Identifier(subject_id), sql.Literal(list(wanted)))
        return str(condition.as_string(cursor))

    def _copy(self, cursor: Any, engine: Engine, name: str, columns: Sequence[str], where: str) -> Table:
        from psycopg2 import sql

        source = sql.SQL("SELECT * FROM {}.{}").format(sql.Identifier(self._schema), sql.Identifier(name))
        # FORCE_QUOTE keeps a line break inside its cell
        query = f"COPY ({source.as_string(cursor)}{where}) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *)"
        path = engine.private(f"{name}.csv")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            cursor.copy_expert(query, file)
        relation = engine.keep_csv(path, columns, what=name)
        return Table(name, tuple(columns), relation)


def _parameters(source: PostgresSource) -> dict[str, str]:
    """Return what libpq is told; a service is one word to it, so that no other host can hide in its name."""
    if source.service is not None:
        return {"service": source.service}
    found = os.environ.get(source.dsn_from or "")
    if not found:
        raise ConfigError(
            f"the environment variable {source.dsn_from} is not set; put the connection string there, such as"
            " 'host=… dbname=… user=…'"
        )
    return {"dsn": found}
