"""Every column of every table that is read has a role; a column without one stops the join."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from medmm.cohort.spec import CohortSpec
from medmm.errors import ConfigError
from medmm.sources.tables import Table


def tables_to_read(spec: CohortSpec, *, outcomes: bool) -> tuple[str, ...]:
    """Return the tables that a join reads; those of outcomes alone only when outcomes are wanted."""
    if outcomes:
        return spec.used_tables
    return spec.model_copy(update={"outcomes": {}}).used_tables


def needed(spec: CohortSpec, *, outcomes: bool) -> dict[str, dict[str, str]]:
    """Return, per table, the columns that must exist and what for."""
    columns: dict[str, dict[str, str]] = defaultdict(dict)
    for table, column, why in (*_of_subjects(spec), *_of_records(spec), *_of_long_tables(spec)):
        columns[table][column] = why
    for name, outcome in spec.outcomes.items() if outcomes else ():
        columns[outcome.table][outcome.id or spec.subjects.id] = f"outcomes.{name}.id"
        for column in outcome.columns(name):
            word = "event" if column == outcome.event else "column"
            columns[outcome.table][column] = f"outcomes.{name}.{word}"
    return dict(columns)


def _of_subjects(spec: CohortSpec) -> Iterator[tuple[str, str, str]]:
    yield spec.subjects.table, spec.subjects.id, "subjects.id"
    time = spec.prediction_time
    if time.table and time.column:
        yield time.table, spec.subjects.id, "subjects.id"
        yield time.table, time.column, "prediction_time.column"


def _of_records(spec: CohortSpec) -> Iterator[tuple[str, str, str]]:
    if spec.records is None:
        return
    table = spec.records.table
    yield table, spec.records.id or spec.subjects.id, "records.id"
    for name, field in spec.records.columns.items():
        if field.role in ("input", "subgroup") or name == spec.splits.groups:
            yield table, name, f"records.fields.{name}"
    for name, field in spec.records.fields.items():
        if field.age_from:
            yield table, field.age_from, f"records.fields.{name}.age_from"
    for reason, exclusion in spec.exclusions.items():
        if exclusion.field in spec.records.columns:
            yield table, exclusion.field, f"exclusions.{reason}"
    if spec.records.events:
        mapped = {"id": spec.subjects.id} | spec.records.events.columns.model_dump(exclude_none=True)
        for key, column in mapped.items():
            yield spec.records.events.table, column, f"records.events.columns.{key}"


def _of_long_tables(spec: CohortSpec) -> Iterator[tuple[str, str, str]]:
    for block, part in (("biomarkers", spec.biomarkers), ("notes", spec.notes)):
        if part is not None:
            mapped = {"id": spec.subjects.id} | part.columns.model_dump(exclude_none=True)
            for key, column in mapped.items():
                yield part.table, column, f"{block}.columns.{key}"
    if spec.crosswalk:
        for key, column in spec.crosswalk.model_dump(exclude_none=True, exclude={"table"}).items():
            yield spec.crosswalk.table, column, f"crosswalk.{key}"


def _filtered(spec: CohortSpec, table: str) -> Iterator[str]:
    """Columns of a table that only choose its rows."""
    events = spec.records.events if spec.records else None
    parts = (
        spec.subjects,
        spec.prediction_time,
        spec.biomarkers,
        spec.notes,
        events,
        *spec.outcomes.values(),
    )
    for part in parts:
        if part is not None and part.table == table:
            yield from part.where


def check_columns(spec: CohortSpec, tables: Mapping[str, Table], *, outcomes: bool) -> None:
    """Check that declared columns exist and that every other column has a role.

    Raises:
        DataError: if a declared column is not in its table.
        ConfigError: naming every column without a role, of all tables at once.
    """
    declared = needed(spec, outcomes=outcomes)
    every = needed(spec, outcomes=True)
    homeless: list[str] = []
    for name, table in tables.items():
        for column, why in declared.get(name, {}).items():
            table.require([column], why=why)
        settled = {*every.get(name, {}), *spec.never_columns.get(name, {}), *_filtered(spec, name)}
        if spec.records and spec.records.table == name:
            settled |= set(spec.records.fields)
        if table.canonical:
            continue  # what its columns are is settled, and none is an input by itself
        homeless += [f"{name}: {column}" for column in table.columns if column not in settled]
    if homeless:
        more = f" and {len(homeless) - 20} more" if len(homeless) > 20 else ""
        raise ConfigError(
            f"{len(homeless)} column{'s have' if len(homeless) > 1 else ' has'} no role ("
            + "; ".join(homeless[:20])
            + f"{more}); give each one under records.fields, or say why it is never used under never_columns"
        )
