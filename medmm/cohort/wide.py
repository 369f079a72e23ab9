"""Wide tables: one row per subject; records, outcomes and prediction times are read from them."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from medmm.cohort.blocks import Records
from medmm.cohort.facts import Fact, read_fact
from medmm.cohort.moments import Moment, iso_moment, sql_aware, sql_day, sql_instant_us
from medmm.cohort.values import read_field, read_number
from medmm.columns import MISSING, FieldSpec, Status, Value
from medmm.errors import DataError
from medmm.sources.duck import Engine, quoted
from medmm.sources.tables import Table

_EPOCH = date(1970, 1, 1).toordinal()

Cells = Mapping[str, tuple[str, ...]]
"""By subject id, the trimmed cells of the columns asked for; an empty cell is ""."""


@dataclass(frozen=True, slots=True)
class Ids:
    """The subject ids of a table.

    Attributes:
        found: each once, trimmed, sorted.
        trimmed: whether none of the cells has a space around it.
    """

    found: list[str]
    trimmed: bool


def ids(engine: Engine, table: Table, column: str, *, restricted: bool, unique: bool = True) -> Ids:
    """Return the subject ids of a table.

    Args:
        engine: holds ``wanted(id)`` when restricted.
        table: any table.
        column: its column of subject ids.
        restricted: whether only the ids of ``wanted`` are looked for.
        unique: whether a subject may have one row only.

    Raises:
        DataError: if a row has no id, or a subject has several rows where one is due.
    """
    table.require([column], why="the subject's id")
    rows = engine.rows(
        # trimmed once per id, not once per row
        "SELECT id, CAST(sum(times) AS BIGINT), bool_and(raw = id) FROM"
        " (SELECT raw, coalesce(trim(raw), '') AS id, times FROM"
        f" (SELECT {quoted(column)} AS raw, count(*) AS times FROM {table.relation} GROUP BY raw))"
        f"{_only_wanted(restricted=restricted)} GROUP BY id ORDER BY id",
        what=table.name,
    )
    if rows and rows[0][0] == "":
        raise DataError(
            f"{table.name}: {rows[0][1]} rows have an empty {column!r}; every row names its subject"
        )
    repeated = sum(count > 1 for _, count, _ in rows)
    if unique and repeated:
        raise DataError(
            f"{table.name}: {repeated} subject{'s have' if repeated > 1 else ' has'} more than one row; this"
            " table has one row per subject, so decide which row stays"
        )
    return Ids([row[0] for row in rows], all(row[2] for row in rows))


def cells(engine: Engine, table: Table, id_column: str, columns: Sequence[str], *, restricted: bool) -> Cells:
    """Read some columns of a wide table."""
    listed = "".join(f", {_trimmed(column)} AS c{place}" for place, column in enumerate(columns))
    rows = engine.rows(
        f"SELECT * FROM (SELECT {_trimmed(id_column)} AS id{listed} FROM {table.relation})"
        + _only_wanted(restricted=restricted),
        what=table.name,
    )
    return {row[0]: row[1:] for row in rows}


def moments(
    engine: Engine, table: Table, id_column: str, column: str, *, whole_days: bool, restricted: bool
) -> dict[str, Moment]:
    """Read a date or datetime per subject; a subject without one that can be read has no entry.

    Args:
        engine: holds ``wanted(id)`` when restricted.
        table: a wide table.
        id_column: its column of subject ids.
        column: the column of dates.
        whole_days: drop the time of day, if there is one.
        restricted: whether only the ids of ``wanted`` are read.
    """
    rows = engine.rows(
        f"SELECT id, {sql_day('t')}, {sql_instant_us('t')}, {sql_aware('t')} FROM (SELECT * FROM (SELECT"
        f" {_trimmed(id_column)} AS id, {_trimmed(column)} AS t FROM {table.relation})"
        f"{_only_wanted(restricted=restricted)})",
        what=table.name,
    )
    return {
        subject: Moment(day, None if whole_days else instant, aware and not whole_days)
        for subject, day, instant, aware in rows
        if day is not None
    }


@dataclass(slots=True)
class Fields:
    """The fields of a wide table, read cell by cell; an equal cell is one shared Value.

    Attributes:
        same_day: whether a date of the prediction day without a time of day was known.
        unparsable: per field, cells that could not be read and how often each stands there.
        filled: per field, cells that hold something.
    """

    fields: Mapping[str, FieldSpec]
    same_day: bool
    unparsable: dict[str, Counter[str]] = field(default_factory=dict)
    filled: Counter[str] = field(default_factory=Counter)
    _seen: dict[tuple[str, str], Value] = field(default_factory=dict)

    def row(
        self, texts: Mapping[str, str], facts: Mapping[str, Fact], prediction: Moment
    ) -> dict[str, Value]:
        """Read one subject's fields, each from its cell or its event.

        Args:
            texts: the cells, by field; of a field with ``age_from``, the date of birth.
            facts: the events that count, by field.
            prediction: the subject's prediction time.
        """
        row = {}
        for name, spec in self.fields.items():
            if spec.event is not None and spec.kind != "date":
                value = read_fact(facts.get(name), spec)
            elif spec.event is not None:
                fact = facts.get(name)
                value = self._date(name, fact.value if fact and not fact.refused else "", prediction)
            elif spec.age_from is not None:
                value = _age(texts[name], spec, prediction)
            elif spec.kind == "date":
                value = self._date(name, texts[name], prediction)
            else:
                seen = (name, texts[name])
                value = self._seen.get(seen) or self._seen.setdefault(seen, read_field(texts[name], spec))
            self._count(name, value)
            row[name] = value
        return row

    def check(self, records: Records) -> None:
        """Raise if a field has more unreadable cells than the cohort declares.

        Raises:
            DataError: naming the field and the share, never a cell.
        """
        for name, counter in self.unparsable.items():
            bad, filled = sum(counter.values()), self.filled[name]
            if bad > records.max_unparsable * filled:
                raise DataError(
                    f"records.{name}: {bad} of {filled} cells in {records.table} cannot be read as"
                    f" {self.fields[name].kind}, more than the declared {records.max_unparsable:.0%}; correct"
                    " the kind, declare `missing_codes`, `levels`, a `decimal_comma` or the form of its"
                    " `dates`, or raise `max_unparsable`"
                )

    def _date(self, name: str, text: str, prediction: Moment) -> Value:
        """A date known by the prediction time; at that time, a later one was an empty cell."""
        spec = self.fields[name]
        if not text or text in spec.missing_codes:
            return MISSING
        moment = iso_moment(text)
        if moment is None:
            return Value(None, Status.UNPARSABLE, text)
        try:
            known = moment.known_by(prediction, same_day=self.same_day)
        except DataError as error:
            raise DataError(f"records.{name}: {error}") from None
        return _days_before(moment, spec, prediction) if known else MISSING

    def _count(self, name: str, value: Value) -> None:
        if value.status is not Status.MISSING:
            self.filled[name] += 1
        if value.status is Status.UNPARSABLE:
            self.unparsable.setdefault(name, Counter())[value.text] += 1


def _age(text: str, spec: FieldSpec, prediction: Moment) -> Value:
    """Completed years from a date of birth to the prediction time.

    Whoever was born on 29 February turns a year older on 1 March where there is no such day.
    """
    if not text or text in spec.missing_codes:
        return MISSING
    born = iso_moment(text[:10])
    if born is None:
        return Value(None, Status.UNPARSABLE, text)
    then, now = (date.fromordinal(int(m.day // 1) + _EPOCH) for m in (born, prediction))
    years = now.year - then.year - ((now.month, now.day) < (then.month, then.day))
    return read_number(str(years), spec.plausible)


def _days_before(moment: Moment, spec: FieldSpec, prediction: Moment) -> Value:
    """A date as days relative to the prediction time; the date itself never leaves the cohort room."""
    offset = moment.offset_days(prediction)
    shown = f"{-offset:g} days before"
    if spec.plausible and not spec.plausible[0] <= offset <= spec.plausible[1]:
        return Value(None, Status.IMPLAUSIBLE, shown, offset_days=offset)
    return Value(offset, Status.KNOWN, shown, offset_days=offset)


def _trimmed(column: str) -> str:
    return f"coalesce(trim({quoted(column)}), '')"


def _only_wanted(*, restricted: bool) -> str:
    return " WHERE id IN (SELECT id FROM wanted)" if restricted else ""
