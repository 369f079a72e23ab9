"""Look-back windows: of a long table of results, what was known of each subject at the prediction time.

The only place where results meet the prediction time. Every row of the table ends in exactly one fate; what
lies after the prediction time is set apart before anything else of it is read, so nothing of it can matter.
A window of ``window_days`` includes both ends. A dated result goes before an undated one assumed known.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from medmm.cohort.moments import sql_clock, sql_known_by, sql_offset_days
from medmm.cohort.spec import Biomarkers
from medmm.cohort.values import parse_number, read_number
from medmm.columns import MISSING, AssumeKnown, ResultSpec, Status, Summary, Value
from medmm.errors import ConfigError, DataError
from medmm.sample import TimedSeries
from medmm.sources.duck import Engine, literal, quoted
from medmm.sources.tables import Table
from medmm.units import factor

STATUS_RANK = {"corrected": 0, "amended": 0, "c": 0, "final": 1, "f": 1}
"""At equal times corrected results go before final ones, and those before all others (preliminary)."""
WITHDRAWN = ("cancelled", "canceled", "entered-in-error", "entered in error", "x", "w")
"""Words of a status column (HL7 table 0085, FHIR observation-status) for a result that is none."""

ODD_YEARS = (1901, 2100)
"""A result of before the one or from the other on is reported; it is used or not like any other."""

_STATUS_OF_FATE = {
    "implausible": Status.IMPLAUSIBLE,
    "unparsable": Status.UNPARSABLE,
    "without a unit": Status.UNPARSABLE,
    "undated": Status.UNDATED,
    "outside the window": Status.OUTSIDE_WINDOW,
    "without a limit": Status.MISSING,
}
"""What a reader is told when a subject has no usable result of a code; the first that applies."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a long table says of the subjects.

    Attributes:
        rows: per position of a subject, its values by key; a subject without any has no entry.
        fates: how many rows of the table met which fate.
        total: rows of the table.
        undated: values used on a person's word that they were known in time.
        unparsable: per result, cells that could not be read and how often each stands there.
        courses: per position of a subject, the results declared with ``series: true``, one by one; a subject
            without any has no entry.
    """

    rows: Mapping[int, Mapping[str, Value]]
    fates: Mapping[str, int]
    total: int
    undated: int
    unparsable: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    courses: Mapping[int, TimedSeries] = field(default_factory=dict)
    odd: Mapping[str, tuple[int, Sequence[int]]] = field(default_factory=dict)


def keys(results: Mapping[str, ResultSpec]) -> tuple[str, ...]:
    """Return the keys of a biomarkers row: the result's name, or "name:summary" when it has several."""
    return tuple(key_of(name, result, s) for name, result in results.items() for s in result.summaries)


def key_of(name: str, result: ResultSpec, summary: Summary) -> str:
    """Return the key of one summary of one result."""
    return name if len(result.summaries) == 1 else f"{name}:{summary}"


def look_back(
    engine: Engine,
    spec: Biomarkers,
    table: Table,
    id_column: str,
    *,
    same_day: bool,
    restricted: bool,
) -> Results:
    """Window a long table against the temporary table ``kept(subject, id, t_day, t_us, t_aware)``.

    Args:
        engine: holds ``kept``.
        spec: the declared block.
        table: the long table.
        id_column: its column of subject ids.
        same_day: whether results of the prediction day without a time of day were known.
        restricted: whether only the subjects of ``wanted(id)`` are looked at, as in scoring one patient.

    Raises:
        ConfigError: if a code has no role.
        DataError: if times cannot be compared, or a result declares no unit but has one.
    """
    inputs = {name: result for name, result in spec.results.items() if result.role == "input"}
    _raw(engine, spec, table, id_column, restricted=restricted)
    _codes(engine, spec, inputs)
    fates = _rows_without_candidates(engine, spec, restricted=restricted)
    total = int(engine.rows("SELECT count(*) FROM raw", what=table.name)[0][0])
    _candidates(engine, spec, table.name, same_day=same_day)
    unparsable = _read(engine, spec, list(inputs.items()))
    by_fate = dict(engine.rows("SELECT fate, count(*) FROM candidate GROUP BY fate ORDER BY fate"))
    fine = by_fate.pop("", 0)
    rows, used, picks = _values(engine, spec, list(inputs.items()))
    counts = {"used": used, "duplicate": fine - picks, "not chosen": picks - used, **by_fate, **fates}
    undated = sum(value.undated for row in rows.values() for value in row.values())
    if not restricted:
        _check_share(engine, spec, inputs, unparsable)
    met = {fate: count for fate, count in counts.items() if count or fate == "used"}
    courses = _courses(engine, list(inputs.items()))
    return Results(rows, met, total, undated, unparsable, courses, _odd(engine, spec, list(inputs)))


def sql_text(column: str | None) -> str:
    """SQL: a cell as trimmed text; an empty one, or a column that is not mapped, is ''."""
    return f"coalesce(trim({quoted(column)}), '')" if column else "''"


def sql_status_rank(column: str) -> str:
    """SQL: the rank of a status by :data:`STATUS_RANK`, of a lower-case column."""
    rank = " ".join(f"WHEN {literal(word)} THEN {place}" for word, place in STATUS_RANK.items())
    return f"CASE {column} {rank} ELSE 2 END"


def sql_withdrawn(column: str) -> str:
    """SQL: whether a status says that the result is none."""
    return f"{column} IN ({', '.join(literal(word) for word in WITHDRAWN)})"


def _raw(engine: Engine, spec: Biomarkers, table: Table, id_column: str, *, restricted: bool) -> None:
    columns = spec.columns
    available = sql_text(columns.available_at)
    cells = {
        "id": sql_text(id_column),
        "code": sql_text(columns.code),
        "name": sql_text(columns.name),
        "value": sql_text(columns.value),
        "unit": sql_text(columns.unit),
        "taken": f"coalesce(nullif({sql_text(columns.time or columns.day)}, ''), {available})",
        "available": available,
        "state": f"lower({sql_text(columns.status)})",
    }
    listed = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in cells.items())
    # one patient: one pass over the file; everybody: a view, so that a table beyond memory stays on disk
    kind, where = ("TABLE", " WHERE id IN (SELECT id FROM wanted)") if restricted else ("VIEW", "")
    engine.run(
        f"CREATE TEMP {kind} raw AS SELECT * FROM (SELECT {listed} FROM {table.relation}){where}",
        what=table.name,
    )


def _codes(engine: Engine, spec: Biomarkers, inputs: Mapping[str, ResultSpec]) -> None:
    """The table ``declared(by, word, result, window)``: result is its position among the inputs, or -1."""
    order = list(inputs)
    rows = [
        ("code" if r.code else "name", r.code or r.name, order.index(n) if n in inputs else -1, r.window_days)
        for n, r in spec.results.items()
    ]
    kinds = ("VARCHAR", "VARCHAR", "INTEGER", "DOUBLE")
    names = ("by_what", "word", "result", "days")
    engine.put(
        "declared", {n: (k, [r[i] for r in rows]) for i, (n, k) in enumerate(zip(names, kinds, strict=True))}
    )
    engine.run(
        "CREATE TEMP VIEW coded AS SELECT raw.*, coalesce(c.result, n.result) AS result,"
        " CASE WHEN c.word IS NOT NULL THEN c.days ELSE n.days END AS days FROM raw"
        " LEFT JOIN declared c ON c.by_what = 'code' AND raw.code = c.word"
        " LEFT JOIN declared n ON n.by_what = 'name' AND raw.name = n.word"
    )


def _rows_without_candidates(engine: Engine, spec: Biomarkers, *, restricted: bool) -> dict[str, int]:
    counted = engine.rows(
        "SELECT CASE WHEN result IS NULL THEN 'undeclared' WHEN result < 0 THEN 'never'"
        " ELSE 'not in the cohort' END AS fate, count(*) FROM coded"
        " WHERE result IS NULL OR result < 0 OR id NOT IN (SELECT id FROM kept) GROUP BY fate",
        what=spec.table,
    )
    fates: dict[str, int] = dict(counted)
    if "undeclared" in fates and spec.other_results is None and not restricted:
        words = engine.rows(
            "SELECT DISTINCT CASE WHEN code <> '' THEN code ELSE name END AS word FROM coded"
            " WHERE result IS NULL ORDER BY word LIMIT 10"
        )
        named = ", ".join(repr(word[:60]) for (word,) in words)
        raise ConfigError(
            f"{spec.table}: these results have no role: {named}; list them under biomarkers.results as"
            " `input` or `never`, or say in biomarkers.other_results why no other is used"
        )
    return fates


def _candidates(engine: Engine, spec: Biomarkers, name: str, *, same_day: bool) -> None:
    """The table ``candidate``: rows of kept subjects and input codes, with the fate of their time."""
    parsed = ", ".join(sql_clock(c, days=spec.columns.day is not None) for c in ("taken", "available"))
    taken_known, available_known = (sql_known_by(c, same_day=same_day) for c in ("taken", "available"))
    undated = "'undated'" if spec.undated == "refuse" else "''"
    engine.run(
        f"CREATE TEMP VIEW timed AS SELECT coded.*, kept.subject, t_day, t_us, t_aware, {parsed}"
        " FROM coded JOIN kept ON coded.id = kept.id WHERE result >= 0"
    )
    mixed = " OR ".join(
        f"({c}_us IS NOT NULL AND t_us IS NOT NULL AND {c}_aware <> t_aware)" for c in ("taken", "available")
    )
    engine.run(
        f"CREATE TEMP TABLE candidate AS SELECT subject, result, value, unit, days, {mixed} AS mixed,"
        f" {sql_status_rank('state')} AS rank, {sql_offset_days('taken')} AS offset_days,"
        f" CASE WHEN NOT coalesce(({taken_known}) AND (available_day IS NULL OR {available_known}), true)"
        " THEN 'later'"
        f" WHEN {sql_withdrawn('state')} THEN 'withdrawn'"
        " WHEN (taken <> '' AND taken_day IS NULL) OR (available <> '' AND available_day IS NULL)"
        " THEN 'unparsable'"
        f" WHEN taken_day IS NULL THEN {undated}"
        " WHEN offset_days < -days THEN 'outside the window' ELSE '' END AS fate,"
        f" {_sql_odd_date(days=spec.columns.day is not None)} AS odd_date FROM timed",
        what=name,
    )
    if engine.rows("SELECT count(*) FROM candidate WHERE mixed")[0][0]:
        raise DataError(
            f"{name}: times with and without a UTC offset cannot be compared; write all the same way"
        )


def _sql_odd_date(*, days: bool) -> str:
    """SQL: whether a result is dated as nobody's is: 1900-01-01 and 2100-01-01, placeholders, and beyond."""
    first, last = (date(year, 1, 1).toordinal() - date(1970, 1, 1).toordinal() for year in ODD_YEARS)
    low, high = (first - last, last - first) if days else (first, last)
    return f"coalesce(taken_day < {low} OR taken_day >= {high}, false)"


def _read(
    engine: Engine, spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]]
) -> dict[str, dict[str, int]]:
    """Read every distinct cell once; complete the fates of ``candidate`` in place of the time's."""
    cells = engine.rows("SELECT DISTINCT result, value, unit FROM candidate WHERE fate <> 'later'")
    read = [(place, text, unit, *_cell(inputs[place], spec, text, unit)) for place, text, unit in cells]
    names = ("result", "value", "unit", "number", "comparator", "shown", "cell_fate")
    kinds = ("INTEGER", "VARCHAR", "VARCHAR", "DOUBLE", "VARCHAR", "VARCHAR", "VARCHAR")
    engine.put(
        "cell", {n: (k, [r[i] for r in read]) for i, (n, k) in enumerate(zip(names, kinds, strict=True))}
    )
    engine.run(
        "CREATE OR REPLACE TEMP TABLE candidate AS SELECT subject, result, rank, offset_days, number,"
        " comparator, shown, unit, odd_date, CASE WHEN fate IN ('later', 'withdrawn') THEN fate"
        " WHEN cell_fate IN ('missing', 'unparsable', 'without a unit') THEN cell_fate"
        " WHEN fate <> '' THEN fate ELSE cell_fate END AS fate"
        " FROM candidate LEFT JOIN cell USING (result, value, unit)"
    )
    bad: dict[str, dict[str, int]] = {}
    for result, shown, count in engine.rows(
        "SELECT result, shown, count(*) FROM candidate WHERE fate IN ('unparsable', 'without a unit')"
        " GROUP BY ALL ORDER BY result, count(*) DESC, shown"
    ):
        bad.setdefault(inputs[result][0], {})[shown] = count
    return bad


def _cell(
    named: tuple[str, ResultSpec], spec: Biomarkers, text: str, unit: str
) -> tuple[float | None, str, str, str]:
    """Return (number in the declared unit, comparator, the cell as shown, fate) of one distinct cell."""
    name, result = named
    if not text or text in result.missing_codes:
        return None, "", "", "missing"
    meant = spec.units.get(unit, unit)
    if result.unit is None and meant:
        raise DataError(
            f"biomarkers.{name} declares no unit, but {spec.table} gives {meant[:40]!r}; declare `unit`"
        )
    if parse_number(text) is None:
        return None, "", text, "unparsable"
    shown = text if meant in ("", result.unit) else f"{text} {unit}"
    if not meant and result.unit is not None and not isinstance(spec.no_unit, AssumeKnown):
        return None, "", shown, "without a unit"
    try:
        scale = _scale(result, meant)
    except DataError:
        return None, "", shown, "unparsable"
    value = read_number(text, result.plausible, result.limits, scale)
    fate = {
        Status.KNOWN: "",
        Status.MISSING: "without a limit",
        Status.UNPARSABLE: "unparsable",
        Status.IMPLAUSIBLE: "implausible",
    }[value.status]
    number = value.value if isinstance(value.value, float) else None
    return number, value.comparator, shown, fate


def _scale(result: ResultSpec, meant: str) -> float:
    """What a number in the unit ``meant`` is multiplied by; 1.0 where it has none, or none is declared."""
    if not meant or result.unit is None:
        return 1.0
    return factor(meant, result.unit, molar_mass_g_per_mol=result.molar_mass_g_per_mol)


_EXTREME = (
    "{{'v': pick.v, 'k': {0}coalesce(offset_days, -1e300), 'c': pick.c, 't': pick.t, 'o': offset_days}}"
)
_ALL = "{'all': list(pick.v ORDER BY pick.v), 'o': max(offset_days)}"
_PAIRS = (
    "{'all': list({'x': offset_days, 'y': pick.v} ORDER BY offset_days)"
    " FILTER (offset_days IS NOT NULL), 'o': max(offset_days)}"
)
_SQL_SUMMARY: Mapping[Summary, str] = {
    "last": "arg_max(pick, coalesce(offset_days, -1e300))",
    "first": "arg_min(pick, coalesce(offset_days, 1e300))",
    "min": f"min({_EXTREME.format('-')})",  # of equal values the latest, here and below
    "max": f"max({_EXTREME.format('')})",
    "mean": _ALL,
    "count": _ALL,
    "slope": _PAIRS,
    "time_since_last": "{'o': max(offset_days)}",
}
_OF_ALL = {"mean", "count", "slope"}
"""Summaries that every result of the window enters."""


def _values(
    engine: Engine, spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]]
) -> tuple[dict[int, dict[str, Value]], int, int]:
    """Return the values by subject, the number of rows used, and of distinct times."""
    order = "-number" if spec.duplicates == "highest" else "number"
    engine.run(
        "CREATE TEMP TABLE picked AS SELECT subject, result, offset_days,"
        f" min({{'r': rank, 'k': {order}, 'c': comparator, 't': shown, 'v': number, 'o': offset_days}})"
        " AS pick,"
        f" max({{'r': -rank, 'k': {order}}}).k AS other"
        " FROM candidate WHERE fate = '' GROUP BY subject, result, offset_days"
    )
    picks = int(engine.rows("SELECT count(*) FROM picked")[0][0])
    # an undated result counts only where the subject has no dated one
    engine.run(
        "DELETE FROM picked WHERE offset_days IS NULL AND (subject, result) IN"
        " (SELECT (subject, result) FROM picked WHERE offset_days IS NOT NULL)"
    )
    rows: dict[int, dict[str, Value]] = {}
    used = 0
    for place, (name, result) in enumerate(inputs):
        listed = ", ".join(_SQL_SUMMARY[summary] for summary in result.summaries)
        found = engine.rows(
            f"SELECT subject, count(*), {listed} FROM picked WHERE result = {place} GROUP BY subject"
        )
        names = [(summary, key_of(name, result, summary)) for summary in result.summaries]
        whole = result.series or bool(_OF_ALL & set(result.summaries))
        for subject, count, *summaries in found:
            row = rows.setdefault(subject, {})
            for (summary, key), summarised in zip(names, summaries, strict=True):
                row[key] = _value(summary, summarised)
            used += count if whole else len({summarised["o"] for summarised in summaries})
    _explain_absences(engine, inputs, rows)
    every = keys(dict(inputs))
    ordered = {subject: {key: row.get(key, MISSING) for key in every} for subject, row in rows.items()}
    return ordered, used, picks


def _value(summary: Summary, found: Mapping[str, Any]) -> Value:
    offset = found["o"]
    undated = offset is None
    if summary == "mean":
        # fsum is exact, so no order of rows can change a bit of it
        return Value(math.fsum(found["all"]) / len(found["all"]), offset_days=offset, undated=undated)
    if summary == "count":
        return Value(float(len(found["all"])), offset_days=offset, undated=undated)
    if summary == "slope":
        slope = _slope(found["all"] or ())
        return Value(slope, Status.MISSING if slope is None else Status.KNOWN, offset_days=offset)
    if summary == "time_since_last":
        return Value(None, Status.UNDATED) if offset is None else Value(0.0 - offset, offset_days=offset)
    return Value(found["v"], Status.KNOWN, found["t"], found["c"], offset, undated)


def _slope(points: Sequence[Mapping[str, float]]) -> float | None:
    """Least-squares slope in units per day, summed exactly; None below two times, which have none."""
    if len(points) < 2:
        return None
    days, values = [point["x"] for point in points], [point["y"] for point in points]
    day, value = math.fsum(days) / len(days), math.fsum(values) / len(values)
    spread = math.fsum((x - day) ** 2 for x in days)
    return math.fsum((x - day) * (y - value) for x, y in zip(days, values, strict=True)) / spread


def _odd(engine: Engine, spec: Biomarkers, names: Sequence[str]) -> dict[str, tuple[int, Sequence[int]]]:
    """Results that contradict each other at one time and status, and dates that are nobody's."""
    some = "(list(DISTINCT subject ORDER BY subject))[:3]"
    found = {}
    for result, count, subjects in engine.rows(
        f"SELECT result, count(*), {some} FROM picked WHERE other <> pick.k GROUP BY result ORDER BY result"
    ):
        what = f"biomarkers.{names[result]}: times with different values of one status"
        found[f"{what}; the {spec.duplicates} is taken"] = (count, subjects)
    for result, count, subjects in engine.rows(
        f"SELECT result, count(*), {some} FROM candidate WHERE odd_date GROUP BY result ORDER BY result"
    ):
        found[f"biomarkers.{names[result]}: results dated before {ODD_YEARS[0]} or after {ODD_YEARS[1]}"] = (
            count,
            subjects,
        )
    return found


def _courses(engine: Engine, inputs: Sequence[tuple[str, ResultSpec]]) -> dict[int, TimedSeries]:
    """Return the dated results of ``picked`` that are declared ``series: true``, by subject, in time."""
    places = [place for place, (_, result) in enumerate(inputs) if result.series]
    if not places:
        return {}
    names = tuple(inputs[place][0] for place in places)
    code = {place: code for code, place in enumerate(places)}
    found = engine.rows(
        "SELECT subject, list({'o': offset_days, 'r': result, 'v': pick.v, 'c': pick.c}"
        " ORDER BY offset_days, result) FROM picked WHERE offset_days IS NOT NULL"
        f" AND result IN ({', '.join(map(str, places))}) GROUP BY subject"
    )
    return {
        subject: TimedSeries(
            names,
            tuple(point["o"] for point in points),
            tuple(code[point["r"]] for point in points),
            tuple(point["v"] for point in points),
            tuple(point["c"] for point in points),
        )
        for subject, points in found
    }


def _explain_absences(
    engine: Engine, inputs: Sequence[tuple[str, ResultSpec]], rows: dict[int, dict[str, Value]]
) -> None:
    """Where a subject has rows of a code but none that counts, say why, from the rows known in time."""
    places = " ".join(f"WHEN {literal(fate)} THEN {place}" for place, fate in enumerate(_STATUS_OF_FATE))
    statuses = list(_STATUS_OF_FATE.values())
    found = engine.rows(
        f"SELECT subject, result, min({{'p': CASE fate {places} END, 'late': -coalesce(offset_days, -1e300),"
        " 't': shown, 'c': comparator, 'o': offset_days}) FROM candidate c"
        " WHERE fate NOT IN ('', 'later', 'missing', 'withdrawn') AND NOT EXISTS (SELECT 1 FROM picked p"
        " WHERE p.subject = c.subject AND p.result = c.result) GROUP BY subject, result"
    )
    for subject, result, why in found:
        value = Value(None, statuses[why["p"]], why["t"] or "", why["c"] or "", why["o"])
        name, spec = inputs[result]
        row = rows.setdefault(subject, {})
        for summary in spec.summaries:
            row[key_of(name, spec, summary)] = value


def _check_share(
    engine: Engine,
    spec: Biomarkers,
    inputs: Mapping[str, ResultSpec],
    unparsable: Mapping[str, Mapping[str, int]],
) -> None:
    rows = engine.rows(
        "SELECT result, count(*), list(DISTINCT unit ORDER BY unit) FILTER (fate = 'unparsable')"
        " FROM candidate WHERE fate NOT IN ('later', 'missing') GROUP BY result ORDER BY result"
    )
    for result, readable, units in rows:
        name = list(inputs)[result]
        bad = sum(unparsable.get(name, {}).values())
        if bad > spec.max_unparsable * readable:
            why = [
                complaint for unit in units or () if (complaint := _unit_complaint(inputs[name], spec, unit))
            ]
            raise DataError(
                f"biomarkers.{name}: {bad} of {readable} results in {spec.table} cannot be read, more than"
                f" the declared {spec.max_unparsable:.0%}; "
                + (why[0] if why else "declare `missing_codes` or `no_unit`, or raise `max_unparsable`")
            )


def _unit_complaint(result: ResultSpec, spec: Biomarkers, unit: str) -> str:
    meant = spec.units.get(unit, unit)
    try:
        _scale(result, meant)
    except DataError as error:
        return str(error)
    return ""
