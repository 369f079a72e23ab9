"""Moments: a day, and where it was recorded the microsecond of it; compared as the cohort decides.

A moment without a time of day is never given one. What shares the prediction day but cannot be put
before or after it is a question of ``same_day``.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from medmm.errors import DataError

US_PER_DAY = 86_400_000_000
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_DICOM = re.compile(
    r"([0-9]{4})([0-9]{2})([0-9]{2})(?:([0-9]{2})([0-9]{2})?([0-9]{2})?(?:\.([0-9]{1,6})[0-9]*)?)?(.*)"
)
_DICOM_ZONE = re.compile(r"[+-][0-9]{2}[0-5][0-9]")
_WEST, _EAST = -12 * 60, 14 * 60
"""The offsets from UTC that DICOM allows, in minutes (PS3.5 table 6.2-1, DT)."""


MIXED_CLOCKS = (
    "times with and without a UTC offset cannot be compared; say the site's `timezone` in cohort.yaml, or"
    " write all the same way"
)
"""What is wrong where only some times say their offset, and what to do."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A day, and perhaps an instant in it.

    Attributes:
        day: days since 1970-01-01, or the day number of a source that counts days.
        instant_us: microseconds since 1970-01-01 (UTC where the source says an offset), or None.
        aware: whether the source gave an offset from UTC.
    """

    day: float
    instant_us: int | None = None
    aware: bool = False

    def offset_days(self, prediction: Moment) -> float:
        """Return this moment relative to the prediction time, in days; negative is before."""
        if self.instant_us is not None and prediction.instant_us is not None:
            return (self.instant_us - prediction.instant_us) / US_PER_DAY
        return self.day - prediction.day + 0.0

    def comparable(self, other: Moment) -> bool:
        """Whether both say their offset from UTC or neither does, or one has no time of day."""
        timed = self.instant_us is not None and other.instant_us is not None
        return not timed or self.aware == other.aware

    def known_by(self, prediction: Moment, *, same_day: bool) -> bool:
        """Whether this moment lies at or before the prediction time.

        Raises:
            DataError: if only one of the two says its offset from UTC.
        """
        if self.instant_us is not None and prediction.instant_us is not None:
            if not self.comparable(prediction):
                raise DataError(MIXED_CLOCKS)
            return self.instant_us <= prediction.instant_us
        day, limit = int(self.day // 1), int(prediction.day // 1)
        return day < limit or (day == limit and same_day)


def dicom_moment(text: str, offset: str = "") -> Moment | None:
    """Read DICOM's "YYYYMMDD[HHMMSS[.FFFFFF]][&ZZXX]"; None when it is empty or no date.

    A time of day, or an offset from UTC, that cannot be read leaves the day alone.

    Args:
        text: a DT, or a DA and a TM joined.
        offset: TimezoneOffsetFromUTC (0008,0201), for a text that says none.
    """
    found = _DICOM.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    zone = zone or offset.strip()
    try:
        date = datetime.date(int(year), int(month), int(day))
    except ValueError:
        return None
    days = date.toordinal() - _EPOCH
    if hour is None or int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
        return Moment(days)
    if zone and not (_DICOM_ZONE.fullmatch(zone) and _WEST <= _offset_minutes(zone) <= _EAST):
        return Moment(days)
    seconds = int(hour) * 3600 + int(minute or 0) * 60 + int(second or 0) - _offset_minutes(zone) * 60
    microseconds = int((fraction or "0").ljust(6, "0"))
    return Moment(days, days * US_PER_DAY + seconds * 1_000_000 + microseconds, bool(zone))


def iso_moment(text: str) -> Moment | None:
    """Read an ISO 8601 date or datetime, as :func:`sql_day` and the others do; None when it is none."""
    found = _ISO_PARTS.fullmatch(text)
    if found is None:
        return None
    date, clock, second, fraction, zone = found.groups()
    # ISO 8601 calls the end of a day 24:00
    midnight = clock == "24:00" and not int(second or 0) and not int(fraction or 0)
    start = "00:00" if midnight or clock is None else clock
    try:
        read = datetime.datetime.fromisoformat(f"{date} {start}:{second or '00'}")
    except ValueError:
        return None
    days = read.toordinal() - _EPOCH
    if clock is None:
        return Moment(days)
    hour = 24 if midnight else read.hour
    seconds = hour * 3600 + read.minute * 60 + read.second - _offset_minutes(zone or "") * 60
    microseconds = int((fraction or "0")[:6].ljust(6, "0"))
    return Moment(days, days * US_PER_DAY + seconds * 1_000_000 + microseconds, zone is not None)


def _offset_minutes(zone: str) -> int:
    """Return "+02", "+0200", "+02:00" in minutes east of UTC; 0 for "Z"."""
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return -minutes if zone.startswith("-") else minutes


_ISO_PARTS = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?: ?(Z|[+-][0-9]{2}(?::?[0-9]{2})?))?)?"
)
_ISO = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?)?"
_ZONE = r"(Z|[+-]\d{2}(?::?\d{2})?)$"


def sql_day(text: str) -> str:
    """SQL: days since 1970-01-01 of an ISO 8601 date or datetime; NULL when it is none."""
    whole = f"length({text}) = 10 OR {sql_instant_us(text)} IS NOT NULL"
    return (
        f"CASE WHEN regexp_full_match({text}, '{_ISO}') AND ({whole})"
        f" THEN try_cast(left({text}, 10) AS DATE) - DATE '1970-01-01' END"
    )


def sql_aware(text: str) -> str:
    """SQL: whether an ISO 8601 datetime says its offset from UTC."""
    return f"coalesce(length({text}) > 16 AND regexp_matches({text}, '{_ZONE}'), false)"


def sql_instant_us(text: str) -> str:
    """SQL: microseconds since 1970-01-01 of an ISO 8601 datetime; NULL for a date alone."""
    zone = f"regexp_extract({text}, '{_ZONE}', 1)"
    hours = f"coalesce(try_cast(substr({zone}, 2, 2) AS BIGINT), 0)"
    minutes = f"coalesce(try_cast(substr(replace({zone}, ':', ''), 4, 2) AS BIGINT), 0)"
    west = f"CASE WHEN left({zone}, 1) = '-' THEN -1 ELSE 1 END"
    offset = f"CASE WHEN {sql_aware(text)} THEN {west} * ({hours} * 60 + {minutes}) ELSE 0 END"
    local = f"CASE WHEN {sql_aware(text)} THEN regexp_replace({text}, ' ?{_ZONE}', '') ELSE {text} END"
    return (
        f"CASE WHEN length({text}) > 10 AND regexp_full_match({text}, '{_ISO}')"
        f" THEN epoch_us(try_cast(replace({local}, ',', '.') AS TIMESTAMP)) - ({offset}) * 60000000 END"
    )


def sql_clock(column: str, *, days: bool) -> str:
    """SQL: ``<column>_day``, ``_us`` and ``_aware`` of a text column of day offsets, or of datetimes."""
    if days:
        number = f"try_cast({column} AS DOUBLE)"
        return (
            f"CASE WHEN isfinite({number}) THEN {number} END AS {column}_day, NULL::BIGINT AS {column}_us,"
            f" false AS {column}_aware"
        )
    return (
        f"({sql_day(column)})::DOUBLE AS {column}_day, {sql_instant_us(column)} AS {column}_us,"
        f" {sql_aware(column)} AS {column}_aware"
    )


def sql_known_by(moment: str, *, same_day: bool) -> str:
    """SQL of :meth:`Moment.known_by`: ``<moment>_day`` and ``_us`` against ``t_day`` and ``t_us``."""
    day, instant = f"{moment}_day", f"{moment}_us"
    return (
        f"CASE WHEN {instant} IS NOT NULL AND t_us IS NOT NULL THEN {instant} <= t_us"
        f" ELSE floor({day}) {'<=' if same_day else '<'} floor(t_day) END"
    )


def sql_on_the_day_elsewhere(moment: str, *, same_day: bool) -> str:
    """SQL: whether a time in UTC, on a clock east of it, is too late for a prediction day.

    A database hands out instants in UTC, whatever clock hangs in the ward. Beside a prediction time without a
    time of day, a result of the morning there would then lie on the day before.
    """
    day = f"floor(({moment}_us + {_EAST * 60_000_000}) / {US_PER_DAY}.0::DOUBLE)"
    return (
        f"(t_us IS NULL AND {moment}_us IS NOT NULL AND {moment}_aware"
        f" AND {day} {'>' if same_day else '>='} floor(t_day)"
        f" AND regexp_matches({moment}, '(Z|[+-]00(:?00)?)$'))"
    )


def sql_offset_days(moment: str) -> str:
    """SQL of :meth:`Moment.offset_days`: ``<moment>_day`` and ``_us`` against ``t_day`` and ``t_us``."""
    return (
        f"CASE WHEN {moment}_us IS NOT NULL AND t_us IS NOT NULL"
        f" THEN ({moment}_us - t_us) / {US_PER_DAY}.0::DOUBLE ELSE {moment}_day - t_day + 0.0::DOUBLE END"
    )
