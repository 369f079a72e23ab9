"""Instants that say their offset from UTC become the local time of the site before anything is compared.

Databases and devices hand out instants in UTC, clinical systems what the clock on the wall shows. Which clock
that is, `timezone` in cohort.yaml says; in the hour that it shows twice, an instant becomes a date alone.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from medmm.cohort.moments import dicom_moment, sql_aware, sql_instant_us
from medmm.sources.duck import literal, quoted
from medmm.sources.tables import Table

if TYPE_CHECKING:
    from medmm.dicom.index import Index

_BACK_US = (1_800_000_000, 3_600_000_000)
"""By so much clocks are put back, in microseconds: an hour; half an hour on Lord Howe Island."""


def with_local_times(table: Table, columns: Iterable[str], zone: str) -> Table:
    """Return a table whose instants of these columns are local times, as text without an offset.

    Args:
        table: as opened, its dates ISO 8601.
        columns: that are read as dates or datetimes; others of the table stay as they are.
        zone: of the IANA's names.
    """
    cells = ", ".join(
        f"{_sql_local(f'trim({quoted(column)})', quoted(column), zone)} AS {quoted(column)}"
        for column in sorted(columns)
        if column in table.columns
    )
    if not cells:
        return table
    return replace(table, relation=f"(SELECT * REPLACE ({cells}) FROM {table.relation})", native="", kinds={})


def _sql_local(text: str, column: str, zone: str) -> str:
    instant = sql_instant_us(text)

    def local(us: str) -> str:
        return f"timezone({literal(zone)}, make_timestamptz({us}))"

    twice = " OR ".join(
        f"{local(instant)} = {local(f'{instant} {sign} {by}')}" for by in _BACK_US for sign in "+-"
    )
    return (
        f"CASE WHEN {sql_aware(text)} AND {instant} IS NOT NULL THEN CASE WHEN {twice}"
        f" THEN CAST(CAST({local(instant)} AS DATE) AS VARCHAR) ELSE CAST({local(instant)} AS VARCHAR) END"
        f" ELSE {column} END"
    )


def local_index(index: Index, zone: str) -> Index:
    """Return an index whose series and masks say the site's local time, where they say an offset from UTC."""
    clock = ZoneInfo(zone)
    series = tuple(
        replace(
            entry,
            series_datetime=_local(entry.series_datetime, entry.timezone_offset, clock),
            acquisition_datetime=_local(entry.acquisition_datetime, entry.timezone_offset, clock),
            timezone_offset="",
        )
        for entry in index.series
    )
    masks = tuple(
        replace(
            mask,
            drawn_datetime=_local(mask.drawn_datetime, mask.timezone_offset, clock),
            timezone_offset="",
        )
        for mask in index.masks
    )
    return replace(index, series=series, masks=masks)


def _local(text: str, offset: str, clock: ZoneInfo) -> str:
    """Return a DICOM date and time in local time; without an offset it is local already."""
    moment = dicom_moment(text, offset)
    if moment is None or not moment.aware or moment.instant_us is None:
        return text
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment.instant_us)
    local = instant.astimezone(clock)
    if local.utcoffset() != local.replace(fold=1 - local.fold).utcoffset():
        return f"{local:%Y%m%d}"
    return f"{local:%Y%m%d%H%M%S.%f}"
