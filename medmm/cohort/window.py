"""Look-back windows: of a long table of results, what was known of each subject at the prediction time.

The only place where results meet the prediction time. Every row of the table ends in exactly one fate; what
lies after the prediction time is set apart before anything else of it is read, so nothing of it can matter.
A window of ``window_days`` includes both ends. A dated result goes before an undated one assumed known.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medmm.cohort import wide
from medmm.cohort.blocks import Biomarkers
from medmm.cohort.candidates import ODD_YEARS, Candidates, mapped, sql_text, stage
from medmm.cohort.cells import COLUMNS, Read, unit_complaint
from medmm.cohort.picks import FATES, Block, summarise
from medmm.cohort.shelf import Shelf
from medmm.cohort.summaries import Summaries, on_disk
from medmm.columns import ResultSpec, Summary, Value
from medmm.errors import ConfigError, DataError
from medmm.sample import TimedSeries
from medmm.sources.duck import Engine, quoted
from medmm.sources.tables import Table

ROWS_AT_ONCE = 1 << 20
"""So many rows are taken from the tables at a time, and at most about as many summarised."""
GROUPS_AT_ONCE = 1 << 16
"""So many (subject, result) are summarised at a time: a sort by them is linear."""


HELD_MB = 384
"""So many MB of rows put aside, and of summaries, are held in memory; more lie in files."""


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
        odd: per finding, how often it was met, and up to three positions of subjects.
        others: the ids of the table, where it may hold any that no kept subject has; else none.
    """

    rows: Mapping[int, Mapping[str, Value]]
    fates: Mapping[str, int]
    total: int
    undated: int
    unparsable: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    courses: Mapping[int, TimedSeries] = field(default_factory=dict)
    odd: Mapping[str, tuple[int, Sequence[int]]] = field(default_factory=dict)
    others: frozenset[str] = frozenset()


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
    inputs = [(name, result) for name, result in spec.results.items() if result.role == "input"]
    long = _Long(engine, spec, table, id_column, same_day, restricted)
    numbers = _raw(engine, spec, table, id_column, restricted=restricted, trimmed=restricted)
    _kinds(engine, spec, [name for name, _ in inputs], table.name)
    total, fates = _fates_by_code(engine, spec, restricted=restricted)
    step = _step(engine, len(inputs), total)
    with Shelf(engine.private("rows"), COLUMNS, step, held_bytes=HELD_MB << 20) as shelf:
        candidates, others = long.put_aside(shelf, inputs, total, numbers=numbers)
        read = Read.of(candidates.cells, inputs, numbers=numbers)
        blocks = _blocks(spec, inputs, read, shelf, step)
    if not restricted:
        _check_share(spec, inputs, read)
    names = [[key_of(name, result, s) for s in result.summaries] for name, result in inputs]
    rows = Summaries(blocks, read.cells, inputs, names)
    return Results(
        rows,
        _counts(blocks, read, candidates.later, fates),
        total,
        rows.undated,
        _listed(inputs, read),
        {subject: course for block in blocks for subject, course in block.courses.items()},
        _odd(spec, inputs, blocks, candidates),
        others,
    )


@dataclass(frozen=True, slots=True)
class _Long:
    """A long table on its way to the shelf."""

    engine: Engine
    spec: Biomarkers
    table: Table
    id_column: str
    same_day: bool
    restricted: bool

    def put_aside(
        self, shelf: Shelf, inputs: Sequence[tuple[str, ResultSpec]], total: int, *, numbers: bool
    ) -> tuple[Candidates, frozenset[str]]:
        """Put the rows of kept subjects aside; return them, and the table's ids where there may be others.

        Ids are joined as they stand. Only where a row is left over may there be one that no kept subject has,
        or one with a space around it: then the ids are read, and in the second case joined again.
        """
        found = self._once(shelf, inputs, numbers=numbers)
        if self.restricted or found.met == total:
            return found, frozenset()
        ids = wide.ids(self.engine, self.table, self.id_column, restricted=False, unique=False)
        if not ids.trimmed:
            _raw(self.engine, self.spec, self.table, self.id_column, restricted=False, trimmed=True)
            shelf.clear()
            found = self._once(shelf, inputs, numbers=numbers)
        return found, frozenset(ids.found)

    def _once(self, shelf: Shelf, inputs: Sequence[tuple[str, ResultSpec]], *, numbers: bool) -> Candidates:
        name = self.table.name
        found = stage(self.engine, self.spec, inputs, name, numbers=numbers, same_day=self.same_day)
        found.put_aside(_batches(self.engine, found.sql, name, restricted=self.restricted), shelf, name)
        return found


def _counts(blocks: Sequence[Block], read: Read, later: int, fates: Mapping[str, int]) -> dict[str, int]:
    """Return how many rows met which fate; each has one."""
    picks, used = sum(block.picks for block in blocks), sum(block.used for block in blocks)
    met = {FATES[number]: int(count) for number, count in enumerate(read.fates) if count}
    fine = met.pop("", 0)
    met |= {"later": later, **fates}
    met["not in the cohort"] = (
        fates.get("not in the cohort", 0)
        - fine
        - sum(count for fate, count in met.items() if fate not in fates)
    )
    counts = {"used": used, "duplicate": fine - picks, "not chosen": picks - used, **met}
    return {fate: count for fate, count in counts.items() if count or fate == "used"}


def _batches(engine: Engine, sql: str, name: str, *, restricted: bool) -> Iterator[dict[str, Any]]:
    if restricted:
        return iter((engine.arrays(sql),))  # one patient: not worth a library that moves many rows
    return engine.batches(sql, ROWS_AT_ONCE, what=name)


def _raw(
    engine: Engine, spec: Biomarkers, table: Table, id_column: str, *, restricted: bool, trimmed: bool
) -> bool:
    """The relation ``raw``; return whether its values are numbers, and not text that has to be read.

    What a file keeps as numbers and as times is not turned into text and back. To trim every id costs as much
    as to join by it, so it is done only where asked for.
    """
    columns = spec.columns
    kinds = table.kinds
    numbers = kinds.get(columns.value) == "DOUBLE"
    timed = [column for column in (columns.time, columns.available_at) if column]
    instants = bool(columns.time) and all(kinds.get(column) == "TIMESTAMP" for column in timed)
    available = quoted(columns.available_at) if columns.available_at else "NULL::TIMESTAMP"
    if not instants:
        available = sql_text(columns.available_at)
    taken = sql_text(columns.time or columns.day)
    relation = table.native if numbers or instants else table.relation
    cells = {
        "id": sql_text(id_column) if trimmed else f"CAST({quoted(id_column)} AS VARCHAR)",
        "code": sql_text(columns.code),
        "name": sql_text(columns.name),
        "value": quoted(columns.value) if numbers else sql_text(columns.value),
        "unit": sql_text(columns.unit),
        "taken": f"coalesce({quoted(columns.time or '')}, {available})"
        if instants
        else f"coalesce(nullif({taken}, ''), {available})",
        "available": available,
        "state": f"lower({sql_text(columns.status)})",
    }
    listed = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in cells.items())
    # one patient: one pass over the file; everybody: a view, so that a table beyond memory stays on disk
    kind, where = ("TABLE", " WHERE id IN (SELECT id FROM wanted)") if restricted else ("VIEW", "")
    engine.run(
        f"CREATE OR REPLACE TEMP {kind} raw AS SELECT * FROM (SELECT {listed} FROM {relation}){where}",
        what=table.name,
    )
    return numbers


def _kinds(engine: Engine, spec: Biomarkers, inputs: Sequence[str], name: str) -> None:
    """The table ``kind``: every code, name, unit and status that occur together, and how often.

    With the position of their result among the inputs, or -1; NULL for none.
    """
    by: dict[str, list[tuple[str | None, int, float | None]]] = {}
    for result_name, result in spec.results.items():
        place = inputs.index(result_name) if result_name in inputs else -1
        by.setdefault("code" if result.code else "name", []).append(
            (result.code or result.name, place, result.window_days)
        )
    joins = []
    for column, rows in by.items():
        words, places, days = zip(*rows, strict=True)
        told = {"word": ("VARCHAR", words), "result": ("INTEGER", places), "days": ("DOUBLE", days)}
        engine.put(f"by_{column}", told)
        joins.append(f"LEFT JOIN by_{column} ON found.{column} = by_{column}.word")
    places_of = ", ".join(f"by_{column}.result" for column in sorted(by))
    days_of = " ".join(f"WHEN by_{column}.word IS NOT NULL THEN by_{column}.days" for column in sorted(by))
    listed = ", ".join(mapped(spec))
    empty = "".join(f", '' AS {c}" for c in ("code", "name", "unit", "state") if c not in mapped(spec))
    engine.run(
        f"CREATE TEMP TABLE kind AS SELECT found.*, coalesce({places_of}) AS result,"
        f" CASE {days_of} END AS days"
        f" FROM (SELECT {listed}{empty}, count(*) AS times FROM raw GROUP BY {listed}) found"
        f" {' '.join(joins)}",
        what=name,
    )


def _fates_by_code(engine: Engine, spec: Biomarkers, *, restricted: bool) -> tuple[int, dict[str, int]]:
    """Count all rows; and those of no declared code, of a code that is never used, and (as yet) others."""
    counted = engine.rows(
        "SELECT CASE WHEN result IS NULL THEN 'undeclared' WHEN result < 0 THEN 'never'"
        " ELSE 'not in the cohort' END AS fate, sum(times)::BIGINT FROM kind GROUP BY fate"
        " ORDER BY fate"
    )
    fates: dict[str, int] = dict(counted)
    if "undeclared" in fates and spec.other_results is None and not restricted:
        words = engine.rows(
            "SELECT DISTINCT CASE WHEN code <> '' THEN code ELSE name END AS word FROM kind"
            " WHERE result IS NULL ORDER BY word LIMIT 10"
        )
        named = ", ".join(repr(word[:60]) for (word,) in words)
        raise ConfigError(
            f"{spec.table}: these results have no role: {named}; list them under biomarkers.results as"
            " `input` or `never`, or say in biomarkers.other_results why no other is used"
        )
    return sum(fates.values()), fates


def _blocks(
    spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]], read: Read, shelf: Shelf, step: int
) -> list[Block]:
    """Summarise a range of subjects at a time; of many, the summaries lie on disk."""
    highest = spec.duplicates == "highest"
    laid_down: list[Block] = []
    held: list[Block] = []
    size = 0
    for number in range(len(shelf)):
        rows = read.rows(number * step, shelf.take(number))
        held.append(summarise(rows, read.cells, inputs, highest=highest))
        size += sum({id(array): array.nbytes for array in held[-1].arrays}.values())
        if size > HELD_MB << 20:
            laid_down += on_disk(held)
            held, size = [], 0
    return laid_down + held


def _step(engine: Engine, results: int, total: int) -> int:
    """Return how many subjects are summarised at a time."""
    subjects = int(engine.rows("SELECT count(*) FROM kept")[0][0])
    by_groups = GROUPS_AT_ONCE // max(results, 1)
    by_rows = ROWS_AT_ONCE * subjects // max(total, 1)
    return max(1, min(by_groups, by_rows))


def _listed(inputs: Sequence[tuple[str, ResultSpec]], read: Read) -> dict[str, dict[str, int]]:
    """Return, per result, the cells that could not be read, the most frequent first."""
    found: dict[str, dict[str, int]] = {}
    for (place, shown), count in sorted(read.unread.items(), key=lambda one: (one[0][0], -one[1], one[0][1])):
        found.setdefault(inputs[place][0], {})[shown] = count
    return found


def _odd(
    spec: Biomarkers,
    inputs: Sequence[tuple[str, ResultSpec]],
    blocks: Sequence[Block],
    candidates: Candidates,
) -> dict[str, tuple[int, Sequence[int]]]:
    """Results that contradict each other at one time and status, and dates that are nobody's."""
    found: dict[str, tuple[int, Sequence[int]]] = {}
    for place, (name, _) in enumerate(inputs):
        told = [block.contradictions[place] for block in blocks if place in block.contradictions]
        if told:
            what = f"biomarkers.{name}: times with different values of one status"
            whose = [subject for _, some in told for subject in some][:3]
            found[f"{what}; the {spec.duplicates} is taken"] = (sum(count for count, _ in told), whose)
        if place in candidates.odd:
            what = f"biomarkers.{name}: results dated before {ODD_YEARS[0]} or after {ODD_YEARS[1]}"
            found[what] = candidates.odd[place]
        if place in candidates.elsewhere:
            what = (
                f"biomarkers.{name}: times in UTC that a clock east of it puts too late for a prediction day"
            )
            found[f"{what}; write local times, or give predictions a time of day"] = candidates.elsewhere[
                place
            ]
    return found


def _check_share(spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]], read: Read) -> None:
    for place, (name, result) in enumerate(inputs):
        bad = sum(count for (of, _), count in read.unread.items() if of == place)
        readable = int(read.readable[place])
        if bad > spec.max_unparsable * readable:
            units = sorted(read.units.get(place, ()))
            why = [said for unit in units if (said := unit_complaint(result, spec, unit))]
            raise DataError(
                f"biomarkers.{name}: {bad} of {readable} results in {spec.table} cannot be read, more than"
                f" the declared {spec.max_unparsable:.0%}; "
                + (
                    why[0]
                    if why
                    else "declare `missing_codes`, `no_unit`, `decimal_comma` or the form of its `dates`,"
                    " or raise `max_unparsable`"
                )
            )
