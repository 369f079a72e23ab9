"""Dates that a table writes in a form of its own, turned into ISO 8601 before anything else reads them.

Whether 01/06/2024 is in January or in June is nothing to guess, so `dates` in cohort.yaml says it, by column.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Annotated

from pydantic import AfterValidator

from medmm.cohort.moments import sql_day
from medmm.errors import DataError
from medmm.sources.canonical import day_or_instant
from medmm.sources.duck import literal, quoted
from medmm.sources.tables import Table

ISO = "yyyy-mm-dd"
FORMS = tuple(
    form
    for order, mark in product(("dd mm yyyy", "mm dd yyyy", "yyyy mm dd"), "./-")
    if (form := order.replace(" ", mark)) != ISO
)
"""How a date may be written beside ISO 8601; a time of day may follow it in any cell."""
TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
_TIME = r" \d{1,2}:\d{2}(:\d{2}(\.\d{1,6})?)?( [AaPp][Mm])?"


def _known(form: str) -> str:
    if form == ISO:
        raise ValueError(f"{ISO} is ISO 8601, which is read unless `dates` says otherwise; leave it out")
    if form not in FORMS:
        raise ValueError(f"no form of dates; one of {', '.join(FORMS)}, each with or without a time of day")
    return form


DateForm = Annotated[str, AfterValidator(_known)]
Forms = Mapping[str, str]
"""By column, how its dates are written."""


def sql_fits(text: str, form: str) -> str:
    """SQL: whether a trimmed cell is a date of this form that exists, with or without a time of day."""
    return f"(regexp_full_match({text}, '{_date(form)}({_TIME})?') AND {_moment(text, form)} IS NOT NULL)"


def with_iso_dates(
    table: Table,
    forms: Forms,
    *,
    kept: Mapping[str, Sequence[str]] | None = None,
    midnight_is_a_day: bool = False,
) -> Table:
    """Return a table whose columns of these forms hold ISO 8601.

    A cell of another form stays as it is, and is then counted as a date that cannot be read; so is one of
    ISO 8601, since a column in two forms was put together from two sources, of which one may be wrong.

    Args:
        table: as opened.
        forms: how the dates of its columns are written.
        kept: by column, words that stay as they are: they mean that the date is missing.
        midnight_is_a_day: whether exactly midnight is a date alone (:func:`day_or_instant`).

    Raises:
        DataError: if a column is not there, or holds no text.
    """
    if not forms:
        return table
    table.require(forms, why="dates")
    for column in forms:
        kind = table.kinds.get(column, "VARCHAR")
        if kind != "VARCHAR":
            raise DataError(
                f"{table.name}: {column!r} is a {kind} in the file and needs no form; leave it out of `dates`"
            )
    isos = {
        column: _sql_iso(quoted(column), form, (kept or {}).get(column, ())) for column, form in forms.items()
    }
    cells = ", ".join(
        f"{day_or_instant(iso, midnight_is_a_day=midnight_is_a_day)} AS {quoted(column)}"
        for column, iso in isos.items()
    )

    def read(relation: str) -> str:
        return f"(SELECT * REPLACE ({cells}) FROM {relation})" if relation else ""

    return replace(table, relation=read(table.relation), native=read(table.native))


def _sql_iso(column: str, form: str, kept: Sequence[str]) -> str:
    text = f"trim({column})"
    moment = _moment(text, form)
    missing = f"WHEN {text} IN ({', '.join(map(literal, kept))}) THEN {column} " if kept else ""
    return (
        f"CASE {missing}WHEN {sql_fits(text, form)} THEN CASE WHEN regexp_full_match({text}, '{_date(form)}')"
        f" THEN CAST(CAST({moment} AS DATE) AS VARCHAR) ELSE CAST({moment} AS VARCHAR) END"
        f" WHEN {sql_day(text)} IS NOT NULL THEN concat('not ', {literal(form)}, ': ', {text})"
        f" ELSE {column} END"
    )


def _date(form: str) -> str:
    """The form as a regular expression; strptime alone would read "24" as the year 24."""
    return re.sub("dd|mm", r"\\d{1,2}", re.escape(form)).replace("yyyy", r"\d{4}")


def _moment(text: str, form: str) -> str:
    day = form.replace("dd", "%d").replace("mm", "%m").replace("yyyy", "%Y")
    listed = ", ".join(literal(spelt) for spelt in (day, *(f"{day} {time}" for time in TIMES)))
    return f"try_strptime({text}, [{listed}])"
