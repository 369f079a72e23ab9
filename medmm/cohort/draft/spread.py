"""Which numbers range over magnitudes, so that a logarithm suits them: told by their quantiles alone."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log1p
from pathlib import Path

from medmm.cohort.draft.profile import FEW_WORDS, NUMBER, UNSIGNED
from medmm.sources.duck import Engine, quoted
from medmm.sources.tables import open_table

SKEWED = 0.5
"""Kelly's skewness above which a logarithm is proposed: the upper nine tenths of the median's distance to the
95 % quantile is three times the lower one's. A log-normal variable of standard deviation 0.7 has it."""

Words = tuple[str, ...]


def skewed_columns(root: Path, table: str, columns: Iterable[str]) -> frozenset[str]:
    """Return the columns of a wide table whose numbers are better taken on a logarithmic scale."""
    with Engine() as engine:
        relation = open_table(engine, root, table).relation
        return frozenset(name for name in columns if _skewed(engine, relation, name, ()))


def skewed_groups(root: Path, table: str, value: str, by: Sequence[str]) -> frozenset[Words]:
    """Return the groups of a long table, as the words of ``by``, whose values are better taken so.

    Args:
        value: the column of numbers.
        by: the columns that make a group, such as code, name and unit; an empty cell is "".
    """
    with Engine() as engine:
        return frozenset(_skewed(engine, open_table(engine, root, table).relation, value, by))


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


def _skewed(engine: Engine, relation: str, value: str, by: Sequence[str]) -> list[Words]:
    cell = f"trim({quoted(value)})"
    number = f"try_cast(replace(regexp_extract({cell}, '{UNSIGNED}'), ',', '') AS DOUBLE)"
    signed = f"CASE WHEN regexp_matches({cell}, '^[<>]?=? ?-') THEN -1 ELSE 1 END"
    keys = "".join(f"coalesce(trim({quoted(column)}), '') AS k{place}, " for place, column in enumerate(by))
    named = "".join(f"k{place}, " for place in range(len(by)))
    found = engine.rows(
        f"SELECT {named}quantile_cont(v, [0.05, 0.5, 0.95]), min(v), min(v) FILTER (v > 0)"
        f" FROM (SELECT {keys}{number} * {signed} AS v FROM {relation}"
        f" WHERE regexp_full_match({cell}, '{NUMBER}')) WHERE isfinite(v)"
        f" GROUP BY ALL HAVING count(DISTINCT v) > {FEW_WORDS}"
    )
    return [
        tuple(words)
        for *words, quantiles, least, positive in found
        if positive and is_skewed(*quantiles, least=least, least_positive=positive)
    ]
