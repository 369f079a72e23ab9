"""Which numbers range over magnitudes, so that a logarithm suits them: told by their quantiles alone."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Sequence
from math import log1p
from pathlib import Path

from medmm.cohort.decimals import Numbers, with_decimal_points
from medmm.cohort.draft.profile import FEW_WORDS, NUMBER, UNSIGNED, Sheet
from medmm.sources.duck import Engine, quoted
from medmm.sources.tables import Table, open_table

SKEWED = 0.5
"""Kelly's skewness above which a logarithm is proposed: the upper nine tenths of the median's distance to the
95 % quantile is three times the lower one's. A log-normal variable of standard deviation 0.7 has it."""


def skewed_columns(root: Path, sheet: Sheet, columns: Sequence[str]) -> frozenset[str]:
    """Return the columns of a wide table whose numbers are better taken on a logarithmic scale."""
    if not columns:
        return frozenset()
    numbers = ", ".join(f"{_number(column)} AS v{place}" for place, column in enumerate(columns))
    measured = ", ".join(_measures(f"v{place}") for place in range(len(columns)))
    with Engine() as engine:
        relation = _opened(engine, root, sheet, columns).relation
        (row,) = engine.rows(f"SELECT {measured} FROM (SELECT {numbers} FROM {relation})", what=sheet.name)
    found = zip(columns, (row[place : place + 4] for place in range(0, len(row), 4)), strict=True)
    return frozenset(column for column, measures in found if _suits(*measures))


def skewed_results(
    root: Path, sheet: Sheet, value: str, *, called: Sequence[str], unit: str | None
) -> frozenset[tuple[str, str]]:
    """Return the results of a long table, each with its unit, whose values are better taken so.

    Args:
        value: the column of numbers.
        called: the columns that say which result it is; the first that holds something does, else "".
        unit: the column of units; "" where it is empty, or there is none.
    """
    first = ", ".join(f"nullif(trim({quoted(column)}), '')" for column in called)
    stated = f"coalesce(trim({quoted(unit)}), '')" if unit else "''"
    with Engine() as engine:
        relation = _opened(engine, root, sheet, [value]).relation
        rows = engine.rows(
            f"SELECT called, stated, {_measures('v')} FROM (SELECT coalesce({first}, '') AS called,"
            f" {stated} AS stated, {_number(value)} AS v FROM {relation}) GROUP BY ALL",
            what=sheet.name,
        )
    return frozenset((name, stated) for name, stated, *measures in rows if _suits(*measures))


def _opened(engine: Engine, root: Path, sheet: Sheet, numbers: Sequence[str]) -> Table:
    table = open_table(engine, root, sheet.name)
    return with_decimal_points(table, dict.fromkeys(numbers, Numbers())) if sheet.decimal_comma else table


def is_skewed(low: float, median: float, high: float, *, least: float, least_positive: float) -> bool:
    """Tell whether a logarithm makes a distribution more even that was very uneven.

    Args:
        low: the 5 % quantile.
        median: of all.
        high: the 95 % quantile.
        least: the smallest number; a negative one has no logarithm.
        least_positive: the smallest number above zero, the unit of the logarithm
            (:class:`medmm.modalities.fields.Number`).

    >>> is_skewed(2, 10, 100, least=1, least_positive=1), is_skewed(40, 60, 80, least=18, least_positive=18)
    (True, False)
    """
    plain = _kelly(low, median, high)
    if least < 0 or plain <= SKEWED:
        return False
    return abs(_kelly(*(log1p(x / least_positive) for x in (low, median, high)))) < plain


def _kelly(low: float, median: float, high: float) -> float:
    """Return the skewness of Kelly (1923) from quantiles, in [-1, 1]; 0 where they are one."""
    return (low + high - 2 * median) / (high - low) if high > low else 0.0


def _number(column: str) -> str:
    """SQL: the number in a cell, past a comparator; NULL where it is none, or has no end."""
    cell = f"trim({quoted(column)})"
    number = f"try_cast(replace(regexp_extract({cell}, '[+-]?{UNSIGNED}'), ',', '') AS DOUBLE)"
    return f"CASE WHEN regexp_full_match({cell}, '{NUMBER}') AND isfinite({number}) THEN {number} END"


def _measures(number: str) -> str:
    return (
        f"quantile_cont({number}, [0.05, 0.5, 0.95]), min({number}), min({number}) FILTER ({number} > 0),"
        f" count(DISTINCT {number})"
    )


def _suits(quantiles: Sequence[float], least: float, positive: float | None, different: int) -> bool:
    """Tell whether the numbers of :func:`_measures` are many, and skewed."""
    if positive is None or different <= FEW_WORDS:
        return False
    return is_skewed(*quantiles, least=least, least_positive=positive)
