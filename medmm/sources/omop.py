"""OMOP CDM 5.4: person, visits, conditions, drugs, measurements, observations and notes.

They are read from files, from a DuckDB file or from PostgreSQL, and become the same relations.
Source: OHDSI Common Data Model 5.4, https://ohdsi.github.io/CommonDataModel/cdm54.html.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from medmm.columns import Declared
from medmm.errors import DataError
from medmm.sources import canonical
from medmm.sources.duck import Engine, literal, quoted
from medmm.sources.postgres import Postgres, PostgresSource
from medmm.sources.tables import Table, contained, open_table

OPERATORS = {4171756: "<", 4171754: "<=", 4171755: ">=", 4172704: ">"}
"""Concepts of the domain Meas Value Operator; "=" (4172703) adds nothing."""
SEXES = {8507: "male", 8532: "female"}


@dataclass(frozen=True, slots=True)
class Domain:
    """One event table of the CDM: which of its columns says what; values only where it has them."""

    table: str
    prefix: str
    time: str
    value: bool = False


DOMAINS = (
    Domain("measurement", "measurement", "measurement", value=True),
    Domain("observation", "observation", "observation", value=True),
    Domain("condition_occurrence", "condition", "condition_start"),
    Domain("drug_exposure", "drug", "drug_exposure_start"),
    Domain("visit_occurrence", "visit", "visit_start"),
)
VOCABULARY = ("concept_id", "concept_code", "concept_name")


class OmopSource(Declared):
    """An OMOP database, in one of three forms: a folder of files, a DuckDB file, or PostgreSQL.

    Attributes:
        path: folder with ``person.csv`` or ``person.parquet`` and so on, relative to the data root.
        database: a DuckDB file, relative to the data root.
        postgres: a server; the password comes from the environment or a service file, never from here.
        db_schema: of the tables in a database.
        subject_id: the column of ``person`` that images and other tables call the patient by.
        code: by which a result is found: the id or the code of its standard concept (the latter needs the
            table ``concept``), or the source's own word.
        available_at, status: columns beyond the standard's that hold these, in the tables that have them.
        midnight: whether a time of exactly midnight is a date alone, as the CDM writes it.
    """

    kind: Literal["omop"]
    path: str | None = None
    database: str | None = None
    postgres: PostgresSource | None = None
    db_schema: str | None = None
    subject_id: Literal["person_id", "person_source_value"] = "person_id"
    code: Literal["concept_id", "concept_code", "source_value"] = "concept_id"
    available_at: str | None = None
    status: str | None = None
    midnight: Literal["date", "time"] = "date"

    @model_validator(mode="after")
    def _one_form(self) -> OmopSource:
        if sum(form is not None for form in (self.path, self.database, self.postgres)) != 1:
            raise ValueError("an OMOP source has one of `path`, `database` or `postgres`")
        return self


def open_omop(
    engine: Engine, root: Path, source: OmopSource, wanted: Sequence[str] | None
) -> dict[str, Table]:
    """Return the canonical relations of an OMOP database.

    Args:
        engine: reads it.
        root: the data root.
        source: where it is.
        wanted: of a server, only these subjects are fetched; None for everybody.

    Raises:
        DataError: if ``person`` is missing, or a table lacks a column that is needed.
        ConfigError: if the connection is not told.
    """
    tables = _tables(engine, root, source, wanted)
    if "person" not in tables:
        raise DataError("this OMOP source has no table `person`; check `path`, `database` or `db_schema`")
    reader = _Reader(source, tables)
    found = {"subjects": reader.subjects()}
    events = [reader.events(domain) for domain in DOMAINS if domain.table in tables]
    if events:
        found["events"] = canonical.union("events", events)
    if "note" in tables:
        found["notes"] = reader.notes()
    return found


def _tables(engine: Engine, root: Path, source: OmopSource, wanted: Sequence[str] | None) -> dict[str, Table]:
    """Return the CDM tables that exist, by name, their columns in lower case."""
    names = ("person", "note", "concept", *(domain.table for domain in DOMAINS))
    if source.postgres is not None:
        with Postgres(source.postgres, source.db_schema or "public") as server:
            return server.fetch(engine, names, source.subject_id, wanted)
    if source.database is not None:
        path = contained(root, source.database)
        if not path.is_file():
            raise DataError(f"the database {source.database} is not in {root}; check `database`")
        engine.attach(path, "cdm", what=source.database)
        schema = source.db_schema or "main"
        present = {
            row[0].lower(): row[0]
            for row in engine.rows(
                "SELECT table_name FROM information_schema.tables"
                f" WHERE table_catalog = 'cdm' AND table_schema = {literal(schema)}"
            )
        }
        return {
            name: _lowered(engine, name, f"cdm.{quoted(schema)}.{quoted(present[name])}")
            for name in names
            if name in present
        }
    folder = contained(root, source.path or ".")
    files = {path.stem.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
    return {
        name: _lowered(
            engine, name, open_table(engine, root, str(files[name].relative_to(root.resolve()))).relation
        )
        for name in names
        if name in files
    }


def _lowered(engine: Engine, name: str, relation: str) -> Table:
    columns = [row[0] for row in engine.rows(f"DESCRIBE SELECT * FROM {relation}", what=name)]
    cells = ", ".join(f"CAST({quoted(c)} AS VARCHAR) AS {quoted(c.lower())}" for c in columns)
    return Table(name, tuple(c.lower() for c in columns), f"(SELECT {cells} FROM {relation})")


@dataclass(frozen=True, slots=True)
class _Reader:
    source: OmopSource
    tables: Mapping[str, Table]

    def subjects(self) -> Table:
        """One row per person; a birth date only where day and month are known."""
        person = self.tables["person"]
        person.require(["person_id", self.source.subject_id, "gender_concept_id"], why="OMOP person")
        parts = [_or_null(person, "p", f"{part}_of_birth") for part in ("year", "month", "day")]
        whole = (
            "CAST(try(make_date("
            + ", ".join(f"try_cast({part} AS INTEGER)" for part in parts)
            + ")) AS VARCHAR)"
        )
        born = f"regexp_extract(CAST({_or_null(person, 'p', 'birth_datetime')} AS VARCHAR), '^[^T ]*')"
        sexes = " ".join(f"WHEN {concept} THEN {literal(word)}" for concept, word in SEXES.items())
        select = {
            "subject_id": f"p.{self.source.subject_id}",
            "birth_date": f"coalesce(nullif({born}, ''), {whole})",
            "sex": f"CASE try_cast(p.gender_concept_id AS BIGINT) {sexes}"
            f" ELSE nullif({_or_null(person, 'p', 'gender_source_value')}, '') END",
        }
        return canonical.table("subjects", select, f"{person.relation} p")

    def events(self, domain: Domain) -> Table:
        """One row per row of an event table."""
        found = self.tables[domain.table]
        concept, word = f"{domain.prefix}_concept_id", f"{domain.prefix}_source_value"
        found.require(["person_id", concept, f"{domain.time}_date"], why=f"OMOP {domain.table}")
        joins, code, name = self._code(found, concept, word)
        select = {
            "subject_id": f"p.{self.source.subject_id}",
            "time": self._time(found, domain.time),
            "available_at": self._available(found),
            "code": code,
            "name": name,
            "status": _or_null(found, "e", self.source.status),
            "kind": literal(domain.table),
        }
        if domain.value:
            select["value"], more = self._value(found)
            select["unit"], units = self._unit(found)
            joins = [*joins, *more, *units]
        return canonical.table("events", select, self._from(found, joins))

    def notes(self) -> Table:
        """One row per note; its code is the class of the note."""
        found = self.tables["note"]
        found.require(["person_id", "note_date", "note_text"], why="OMOP note")
        select = {
            "subject_id": f"p.{self.source.subject_id}",
            "time": self._time(found, "note"),
            "available_at": self._available(found),
            "code": _or_null(found, "e", "note_class_concept_id"),
            "text": "e.note_text",
        }
        return canonical.table("notes", select, self._from(found, []))

    def _from(self, found: Table, joins: Sequence[str]) -> str:
        person = self.tables["person"].relation
        return f"{found.relation} e LEFT JOIN {person} p ON e.person_id = p.person_id {' '.join(joins)}"

    def _code(self, found: Table, concept: str, word: str) -> tuple[list[str], str, str]:
        """Return the joins that it takes, and the SQL of code and name."""
        if self.source.code == "source_value":
            found.require([word], why="source.code")
            return [], f"e.{word}", f"e.{word}"
        if "concept" not in self.tables:
            if self.source.code == "concept_code":
                raise DataError("source.code: concept_code needs the table `concept`, which is not there")
            return [], f"e.{concept}", _or_null(found, "e", word)
        code = "c.concept_code" if self.source.code == "concept_code" else f"e.{concept}"
        return [self._concept("c", f"e.{concept}")], code, "c.concept_name"

    def _concept(self, alias: str, key: str) -> str:
        self.tables["concept"].require(VOCABULARY, why="OMOP concept")
        return f"LEFT JOIN {self.tables['concept'].relation} {alias} ON {key} = {alias}.concept_id"

    def _time(self, found: Table, stem: str) -> str:
        instant = _or_null(found, "e", f"{stem}_datetime")
        time = f"coalesce(nullif(CAST({instant} AS VARCHAR), ''), CAST(e.{stem}_date AS VARCHAR))"
        return canonical.day_or_instant(time, midnight_is_a_day=self.source.midnight == "date")

    def _available(self, found: Table) -> str:
        column = _or_null(found, "e", self.source.available_at)
        return canonical.day_or_instant(column, midnight_is_a_day=self.source.midnight == "date")

    def _value(self, found: Table) -> tuple[str, list[str]]:
        """The number with its operator, or the word: of the concept, of the string, of the source."""
        number = f"try_cast({_or_null(found, 'e', 'value_as_number')} AS DOUBLE)"
        signs = " ".join(f"WHEN {concept} THEN {literal(sign)}" for concept, sign in OPERATORS.items())
        operator = (
            f"CASE try_cast({_or_null(found, 'e', 'operator_concept_id')} AS BIGINT) {signs} ELSE '' END"
        )
        cell = f"CAST({_or_null(found, 'e', 'value_source_value')} AS VARCHAR)"
        plain = canonical.verbatim(number, cell)
        signed = f"CASE WHEN left({plain}, 1) IN ('<', '>') THEN {plain} ELSE {operator} || {plain} END"
        words = [_or_null(found, "e", "value_as_string"), cell]
        joins: list[str] = []
        if "concept" in self.tables and "value_as_concept_id" in found.columns:
            joins = [self._concept("v", "nullif(e.value_as_concept_id, '0')")]
            words.insert(0, "v.concept_code" if self.source.code == "concept_code" else "v.concept_name")
        word = ", ".join(f"nullif({word}, '')" for word in words)
        return f"CASE WHEN {number} IS NOT NULL THEN {signed} ELSE coalesce({word}) END", joins

    def _unit(self, found: Table) -> tuple[str, list[str]]:
        """The UCUM code of the unit's concept, else the source's word."""
        word = _or_null(found, "e", "unit_source_value")
        if "concept" not in self.tables or "unit_concept_id" not in found.columns:
            return word, []
        return f"coalesce(u.concept_code, nullif({word}, ''))", [
            self._concept("u", "nullif(e.unit_concept_id, '0')")
        ]


def _or_null(found: Table, alias: str, column: str | None) -> str:
    return f"{alias}.{quoted(column)}" if column and column in found.columns else "NULL::VARCHAR"
