"""Record fields that are read from events: the last one known at the prediction time.

The same rules of time as for results (:mod:`medmm.cohort.window`): what lies after the prediction time, or
became available after it, is set apart before anything else of it is read.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medmm.cohort.blocks import Events
from medmm.cohort.candidates import sql_status_rank, sql_text, sql_withdrawn
from medmm.cohort.moments import MIXED_CLOCKS, Moment, sql_clock, sql_known_by, sql_offset_days
from medmm.cohort.values import read_field, read_number
from medmm.columns import MISSING, FieldSpec, Status, Value
from medmm.errors import DataError
from medmm.sources.duck import Engine
from medmm.sources.tables import Table
from medmm.units import factor


@dataclass(frozen=True, slots=True)
class Fact:
    """One event as recorded: its value and unit, and when it was; a refused one has neither.

    Attributes:
        unit_due: whether a number without a unit is refused where its field declares one.
    """

    value: str
    unit: str
    offset_days: float | None
    refused: bool = False
    unit_due: bool = False


Facts = Mapping[str, Mapping[str, Fact]]
"""By subject id and field, the event that counts."""


def last_known(
    engine: Engine,
    spec: Events,
    table: Table,
    id_column: str,
    *,
    fields: Mapping[str, FieldSpec],
    predictions: Mapping[str, Moment],
    same_day: bool,
) -> Facts:
    """Return, per subject and field, the last event known at the prediction time.

    Of events at one time, a corrected one goes before a final one, that before others, then the greatest
    text; a dated one goes before an undated one.

    Args:
        engine: reads the table.
        spec: the declared events.
        table: the long table.
        id_column: its column of subject ids.
        fields: those that name an `event`.
        predictions: the prediction time of each subject.
        same_day: whether an event of the prediction day without a time of day was known.

    Raises:
        DataError: if times with and without an offset from UTC would have to be compared.
    """
    _asked(engine, fields, predictions)
    _known(engine, spec, table, id_column, same_day=same_day)
    if engine.rows("SELECT count(*) FROM fact WHERE mixed")[0][0]:
        raise DataError(f"{table.name}: {MIXED_CLOCKS}")
    rows = engine.rows(
        "SELECT id, field, max({'o': coalesce(offset_days, -1e300),"
        f" 'r': -{sql_status_rank('state')}, 'v': value, 'u': unit}}) FROM fact GROUP BY id, field"
    )
    found: dict[str, dict[str, Fact]] = {}
    for subject, name, fact in rows:
        undated = fact["o"] == -1e300
        found.setdefault(subject, {})[name] = Fact(
            fact["v"],
            fact["u"],
            None if undated else fact["o"],
            undated and spec.undated == "refuse",
            spec.no_unit == "refuse",
        )
    return found


def _known(engine: Engine, spec: Events, table: Table, id_column: str, *, same_day: bool) -> None:
    """The table ``fact``: the events asked for that were known by the prediction time, and in the window."""
    columns = spec.columns
    available = sql_text(columns.available_at)
    both = ("taken", "available")
    clocks = ", ".join(sql_clock(c, days=columns.day is not None) for c in both)
    known, in_time = (sql_known_by(c, same_day=same_day) for c in both)
    mixed = " OR ".join(f"({c}_us IS NOT NULL AND t_us IS NOT NULL AND {c}_aware <> t_aware)" for c in both)
    engine.run(
        "CREATE OR REPLACE TEMP TABLE fact AS SELECT *, coalesce(" + mixed + ", false) AS mixed,"
        f" {sql_offset_days('taken')} AS offset_days FROM (SELECT e.*, t_day, t_us, t_aware, field, days,"
        f" {clocks} FROM (SELECT {sql_text(id_column)} AS id,"
        f" {sql_text(columns.code or columns.name)} AS code,"
        f" {sql_text(columns.value)} AS value, {sql_text(columns.unit)} AS unit,"
        f" coalesce(nullif({sql_text(columns.time or columns.day)}, ''), {available}) AS taken,"
        f" {available} AS available, lower({sql_text(columns.status)}) AS state FROM {table.relation}) e"
        " JOIN sought USING (code) JOIN asked USING (id))"
        f" WHERE coalesce(({known}) AND (available_day IS NULL OR {in_time}), true)"
        f" AND NOT {sql_withdrawn('state')} AND NOT coalesce(offset_days < -days, false)"
        " AND (taken = '' OR taken_day IS NOT NULL) AND (available = '' OR available_day IS NOT NULL)",
        what=table.name,
    )


def _asked(engine: Engine, fields: Mapping[str, FieldSpec], predictions: Mapping[str, Moment]) -> None:
    moments: Sequence[Moment] = list(predictions.values())
    engine.put(
        "asked",
        {
            "id": ("VARCHAR", list(predictions)),
            "t_day": ("DOUBLE", [moment.day for moment in moments]),
            "t_us": ("BIGINT", [moment.instant_us for moment in moments]),
            "t_aware": ("BOOLEAN", [moment.aware for moment in moments]),
        },
    )
    engine.put(
        "sought",
        {
            "code": ("VARCHAR", [field.event for field in fields.values()]),
            "field": ("VARCHAR", list(fields)),
            "days": ("DOUBLE", [field.window_days for field in fields.values()]),
        },
    )


def read_fact(fact: Fact | None, field: FieldSpec) -> Value:
    """Read an event as its field declares; without one, what the field says of its absence."""
    if fact is None:
        return MISSING if field.absent is None else read_field(field.absent, field)
    if fact.refused:
        return Value(None, Status.UNDATED)
    text = fact.value or ("yes" if field.kind == "flag" else "")
    value = _number(text, fact, field) if field.kind == "number" else read_field(text, field)
    if value.status is Status.MISSING:
        return MISSING
    return Value(
        value.value,
        value.status,
        value.text,
        value.comparator,
        fact.offset_days,
        value.status is Status.KNOWN and fact.offset_days is None,
    )


def _number(text: str, fact: Fact, field: FieldSpec) -> Value:
    """Read a number into the field's unit; in another quantity, or without a unit that is due, it is none."""
    unit = fact.unit
    if not text or text in field.missing_codes:
        return MISSING
    if not unit and field.unit is not None and fact.unit_due:
        return Value(None, Status.UNPARSABLE, text)
    if not unit or field.unit is None or unit == field.unit:
        return read_number(text, field.plausible)
    try:
        value = read_number(text, field.plausible, scale=factor(unit, field.unit))
    except DataError:
        return Value(None, Status.UNPARSABLE, f"{text} {unit}")
    return Value(value.value, value.status, f"{text} {unit}", value.comparator)
