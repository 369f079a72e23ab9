"""MEDS 0.4: sharded Parquet of (subject_id, time, code, numeric_value, text_value).

Source: Medical Event Data Standard 0.4, https://medical-event-data-standard.github.io; folder ``data/`` of
shards, ``metadata/codes.parquet`` and ``metadata/subject_splits.parquet``.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from pathlib import Path
from typing import Literal

from medmm.columns import Declared
from medmm.errors import DataError
from medmm.sources import canonical
from medmm.sources.duck import Engine, literal, quoted
from medmm.sources.tables import Table, contained

REQUIRED = ("subject_id", "time", "code", "numeric_value")
BIRTH = "MEDS_BIRTH"


class MedsSource(Declared):
    """A MEDS data set.

    The kind of an event is what stands before the first "//" of its code.

    Attributes:
        path: its folder, relative to the data root.
        unit, available_at, status: columns beyond the standard's that hold these, where a data set has them.
        midnight: whether a time of exactly midnight is a date alone.
    """

    kind: Literal["meds"]
    path: str = "."
    unit: str | None = None
    available_at: str | None = None
    status: str | None = None
    midnight: Literal["date", "time"] = "date"


def open_meds(engine: Engine, root: Path, source: MedsSource) -> dict[str, Table]:
    """Return the canonical relations of a MEDS data set.

    Raises:
        DataError: if there is no shard, or one lacks a column of the standard.
    """
    folder = contained(root, source.path)
    shards = sorted((folder / "data").rglob("*.parquet"))
    if not shards:
        raise DataError(f"{source.path} has no data/**/*.parquet; a MEDS data set keeps its shards there")
    listed = ", ".join(literal(str(path)) for path in shards)
    read = f"read_parquet([{listed}], union_by_name=true)"
    columns = [row[0] for row in engine.rows(f"DESCRIBE SELECT * FROM {read}", what=f"{source.path}/data")]
    extra = [column for column in (source.unit, source.available_at, source.status) if column]
    Table(f"{source.path}/data", tuple(columns), read).require([*REQUIRED, *extra], why="MEDS")
    events = _events(engine, folder, source, columns, read)
    birth = (
        f"(SELECT subject_id, CAST(min(time) FILTER (code = {literal(BIRTH)}) AS DATE) AS birth"
        f" FROM {read} GROUP BY subject_id)"
    )
    people = {"subject_id": "subject_id", "birth_date": "birth"}
    splits = folder / "metadata" / "subject_splits.parquet"
    if splits.is_file():
        people["split"] = "split"
        birth = f"{birth} LEFT JOIN read_parquet({literal(str(splits))}) USING (subject_id)"
    notes = {"subject_id": "subject_id", "time": "time", "available_at": "available_at", "code": "code"}
    return {
        "subjects": canonical.table("subjects", people, birth),
        "events": events,
        "notes": canonical.table("notes", notes | {"text": "value"}, f"{events.relation} WHERE value <> ''"),
    }


def _events(engine: Engine, folder: Path, source: MedsSource, columns: list[str], read: str) -> Table:
    dated = source.midnight == "date"
    text = "e.text_value" if "text_value" in columns else "NULL::VARCHAR"
    select = {
        "subject_id": "e.subject_id",
        "time": canonical.day_or_instant("e.time", midnight_is_a_day=dated),
        "code": "e.code",
        "value": canonical.verbatim("e.numeric_value", text),
        "kind": "CASE WHEN contains(e.code, '//') THEN split_part(e.code, '//', 1) ELSE '' END",
    }
    for name, column in (("unit", source.unit), ("status", source.status)):
        if column:
            select[name] = f"e.{quoted(column)}"
    if source.available_at:
        select["available_at"] = canonical.day_or_instant(
            f"e.{quoted(source.available_at)}", midnight_is_a_day=dated
        )
    codes = folder / "metadata" / "codes.parquet"
    if not codes.is_file():
        return canonical.table("events", select, f"{read} e")
    described = f"(SELECT DISTINCT ON (code) code, description FROM read_parquet({literal(str(codes))}))"
    known = engine.rows(f"DESCRIBE SELECT * FROM read_parquet({literal(str(codes))})", what=str(codes))
    if "description" not in [row[0] for row in known]:
        return canonical.table("events", select, f"{read} e")
    return canonical.table(
        "events", select | {"name": "m.description"}, f"{read} e LEFT JOIN {described} m ON e.code = m.code"
    )
