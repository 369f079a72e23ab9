"""From windowed rows to summaries, a range of patients at a time, in whole arrays.

Per (subject, result, time) one row is picked: a corrected one before a final one, then by the declared rule.
The picks of a subject, in time, are summarised. No order of rows shows in what comes out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmm.columns import ResultSpec, Status, Summary
from medmm.sample import TimedSeries

FATES = (
    "",
    "later",
    "withdrawn",
    "missing",
    "implausible",
    "unparsable",
    "without a unit",
    "undated",
    "outside the window",
    "without a limit",
)
"""What becomes of a row; the first is none. Rows hold the position."""
FATE = {name: number for number, name in enumerate(FATES)}
EXPLAINED = {
    "implausible": Status.IMPLAUSIBLE,
    "unparsable": Status.UNPARSABLE,
    "without a unit": Status.UNPARSABLE,
    "undated": Status.UNDATED,
    "outside the window": Status.OUTSIDE_WINDOW,
    "without a limit": Status.MISSING,
}
"""What a reader is told when a subject has no usable result of a code; the first that applies."""
_EXTREMES: tuple[tuple[Summary, np.ufunc], ...] = (("min", np.minimum), ("max", np.maximum))
OF_ALL = frozenset({"mean", "count", "slope"})
"""Summaries that every result of the window enters."""

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cells:
    """What the distinct cells of a table say, by number; every row names its cell.

    Attributes:
        comparator: "", "<", "<=", ">" or ">="; of a number beside it, "" (an infinite one says its own).
        text: as shown; of a number beside it, the unit that follows or "".
        numbers: whether rows bring their numbers, so that a cell is no more than a unit.
    """

    comparator: Sequence[str]
    text: Sequence[str]
    numbers: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """Windowed rows of a range of subjects, all arrays of one length.

    Attributes:
        first: the first subject of the range.
        width: how many results are declared as inputs.
        group: the subject, counted from ``first``, times ``width``, plus the position of the result.
        offset: days, -inf where undated.
        number: in the declared unit, NaN where there is none.
        raw: as recorded, where rows bring their numbers; else the number.
        rank: 0 for a corrected result, 1 for a final one, 2 for any other.
        fate: position in :data:`FATES`, by time, status and cell together.
    """

    first: int
    width: int
    group: Ints
    offset: Floats
    number: Floats
    raw: Floats
    rank: Ints
    cell: Ints
    fate: Ints

    def __len__(self) -> int:
        return len(self.group)

    @property
    def subject(self) -> Ints:
        """The subject of each row."""
        return (self.group // self.width).astype(np.int32) + np.int32(self.first)

    @property
    def result(self) -> Ints:
        """The position of the result of each row."""
        return (self.group % self.width).astype(np.uint16)

    def at(self, where: Ints | Bools) -> Rows:
        """Return some of the rows, in the order asked for."""
        number = self.number[where]
        raw = number if self.raw is self.number else self.raw[where]
        group, offset, rank = self.group[where], self.offset[where], self.rank[where]
        return Rows(
            self.first, self.width, group, offset, number, raw, rank, self.cell[where], self.fate[where]
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """One pick per group: the value, when it was, and its cell."""

    number: Floats
    raw: Floats
    offset: Floats
    cell: Ints


@dataclass(frozen=True, slots=True)
class Absent:
    """Of each (subject, result) with rows but no pick, the row that says why; ascending by key.

    Attributes:
        key: subject times the number of results, plus the position of the result.
    """

    key: Ints
    offset: Floats
    raw: Floats
    cell: Ints
    fate: Ints


@dataclass(slots=True)
class Block:
    """The summaries of a range of subjects; a group is one (subject, result) with a pick.

    Attributes:
        subject, result, offset: per group; the offset is that of the last pick.
        absent: per (subject, result) without a pick, why.
        chosen: for last, first, min and max.
        computed: for mean, count and slope (NaN below two times).
        courses: per subject, the picks of results declared ``series: true``.
        contradictions: per result, at how many times values of one status differ, and whose.
    """

    subject: Ints
    result: Ints
    offset: Floats
    absent: Absent
    chosen: dict[Summary, Chosen] = field(default_factory=dict)
    computed: dict[Summary, NDArray[Any]] = field(default_factory=dict)
    courses: dict[int, TimedSeries] = field(default_factory=dict)
    contradictions: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    picks: int = 0
    used: int = 0

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Every array that values are built from."""
        told = [self.subject, self.result, self.offset, *self.computed.values()]
        parts: list[Absent | Chosen] = [self.absent, *self.chosen.values()]
        return told + [getattr(part, name) for part in parts for name in part.__slots__]

    def with_arrays(self, moved: Callable[[NDArray[Any]], NDArray[Any]]) -> Block:
        """Return the same with each of the arrays in another place."""

        def part(old: Any) -> Any:
            return type(old)(*(moved(getattr(old, name)) for name in old.__slots__))

        return replace(
            self,
            subject=moved(self.subject),
            result=moved(self.result),
            offset=moved(self.offset),
            absent=part(self.absent),
            chosen={summary: part(chosen) for summary, chosen in self.chosen.items()},
            computed={summary: moved(found) for summary, found in self.computed.items()},
        )


def summarise(rows: Rows, cells: Cells, inputs: Sequence[tuple[str, ResultSpec]], *, highest: bool) -> Block:
    """Return the summaries of a range of subjects.

    Args:
        rows: all rows of these subjects that are not later than the prediction time.
        cells: what their cells say.
        inputs: the results by position, and what is asked of them.
        highest: of differing values at one time and of one status, whether the highest is taken.
    """
    picked, (results, subjects) = _pick(_sorted(rows), cells, highest=highest)
    count = len(picked)
    picked = _without_undated(picked)
    start = np.flatnonzero(_changes(picked.group))
    stop = np.append(start[1:], len(picked))
    groups = picked.at(start)
    offset = picked.offset[stop - 1] if len(start) else picked.offset
    block = Block(groups.subject, groups.result, offset, _absent(rows, groups.group, cells), picks=count)
    for result, subject in zip(results.tolist(), subjects.tolist(), strict=True):
        met, whose = block.contradictions.setdefault(result, (0, []))
        block.contradictions[result] = (met + 1, [*whose, subject] if len(whose) < 3 else whose)
    if len(start):
        wanted = {summary for _, result in inputs for summary in result.summaries}
        _choose(block, picked, start, stop, wanted)
        _compute(block, picked, start, stop, wanted)
    block.used = _used(block, stop - start, inputs)
    block.courses = _courses(picked, cells, inputs)
    return block


def _sorted(rows: Rows) -> Rows:
    """Sort the usable rows by group and time; the sort by group is stable, and linear when that is small."""
    usable = np.flatnonzero(rows.fate == 0)
    order = usable[np.argsort(rows.offset[usable])]
    return rows.at(order[np.argsort(rows.group[order], kind="stable")])


def _changes(*columns: NDArray[np.generic]) -> Bools:
    """Where a row differs from the one before it; the first always does."""
    changed = np.ones(len(columns[0]), dtype=bool)
    if len(changed):
        changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def _pick(rows: Rows, cells: Cells, *, highest: bool) -> tuple[Rows, tuple[Ints, Ints]]:
    """Return one row per time, and (results, subjects) of the times at which values of one status differ."""
    new = _changes(rows.group, rows.offset)
    if new.all():
        return rows, (rows.group[:0], rows.group[:0])
    time = np.cumsum(new) - 1
    alone = new & np.append(new[1:], True)
    crowded = np.flatnonzero(~alone)
    few = rows.at(crowded)
    words = [
        f"{comparator_of(cells, cell, raw)}\x00{text_of(cells, cell, raw)}"
        for cell, raw in zip(few.cell.tolist(), few.raw.tolist(), strict=True)
    ]
    spelled = np.unique(words, return_inverse=True)[1]
    wish = -few.number if highest else few.number
    order = crowded[np.lexsort((spelled, wish, few.rank, time[crowded]))]
    best = order[_changes(time[order])]
    leading = dict(zip(time[best].tolist(), best.tolist(), strict=True))
    first = np.array([leading[one] for one in time[crowded].tolist()])
    differ = (rows.rank[crowded] == rows.rank[first]) & (rows.number[crowded] != rows.number[first])
    clash = np.unique(first[differ])
    keep = np.ones(len(time), dtype=bool)
    keep[crowded] = False
    keep[best] = True
    clashing = rows.at(clash)
    return rows.at(keep), (clashing.result, clashing.subject)


def _without_undated(picked: Rows) -> Rows:
    """Leave out an undated pick where the subject has a dated one; it sorts first."""
    undated = np.isneginf(picked.offset)
    if not undated.any():
        return picked
    follows = np.zeros(len(undated), dtype=bool)
    follows[:-1] = ~_changes(picked.group)[1:]
    return picked.at(~(undated & follows))


def _choose(block: Block, picked: Rows, start: Ints, stop: Ints, wanted: set[Summary]) -> None:
    numbers, everywhere = picked.number, np.arange(len(picked), dtype=np.int32)
    length = stop - start
    found: dict[Summary, Ints] = {"last": stop - 1, "first": start}
    for summary, extreme in _EXTREMES:
        if summary in wanted:
            best = np.repeat(extreme.reduceat(numbers, start), length)
            # of equal values the latest
            found[summary] = np.maximum.reduceat(np.where(numbers == best, everywhere, -1), start)
    for summary in wanted & found.keys():
        which = found[summary]
        number = numbers[which]
        raw = number if picked.raw is numbers else picked.raw[which]
        if np.array_equal(raw.view(np.int64), number.view(np.int64)):  # -0.0 is not 0.0 here
            raw = number  # no unit was converted; there are millions of them
        offset = block.offset if summary == "last" else picked.offset[which]
        block.chosen[summary] = Chosen(number, raw, offset, picked.cell[which])


def _compute(block: Block, picked: Rows, start: Ints, stop: Ints, wanted: set[Summary]) -> None:
    length = stop - start
    if "count" in wanted:
        block.computed["count"] = length.astype(np.int32)
    if not wanted & {"mean", "slope"}:
        return
    mean = np.add.reduceat(picked.number, start) / length
    # a sum of equal numbers may round away from them
    low, high = (
        block.chosen[at].number if at in block.chosen else extreme.reduceat(picked.number, start)
        for at, extreme in _EXTREMES
    )
    block.computed["mean"] = np.clip(mean, low, high)
    if "slope" in wanted:
        day = np.add.reduceat(picked.offset, start) / length
        with np.errstate(invalid="ignore", divide="ignore"):
            away = picked.offset - np.repeat(day, length)
            rise = picked.number - np.repeat(mean, length)
            slope = np.add.reduceat(away * rise, start) / np.add.reduceat(away * away, start)
        block.computed["slope"] = np.where((length > 1) & np.isfinite(slope), slope, np.nan)


def _used(block: Block, length: Ints, inputs: Sequence[tuple[str, ResultSpec]]) -> int:
    """Count the picks that enter a summary or a course."""
    used = 0
    picks = np.bincount(block.result, weights=length, minlength=len(inputs))
    for place, (_, result) in enumerate(inputs):
        asked = set(result.summaries)
        if result.series or asked & OF_ALL:
            used += int(picks[place])
        elif asked and picks[place]:
            groups = np.flatnonzero(block.result == place)
            offsets = [block.offset[groups]] + [
                block.chosen[s].offset[groups] for s in asked if s in block.chosen and s != "last"
            ]
            if not asked & {"last", "time_since_last"}:
                offsets = offsets[1:]
            stacked = np.sort(np.stack(offsets), axis=0)
            used += int(stacked.shape[1] + (stacked[1:] != stacked[:-1]).sum())
    return used


def _courses(picked: Rows, cells: Cells, inputs: Sequence[tuple[str, ResultSpec]]) -> dict[int, TimedSeries]:
    places = [place for place, (_, result) in enumerate(inputs) if result.series]
    if not places:
        return {}
    code = np.full(len(inputs), -1)
    code[places] = np.arange(len(places))
    dated = picked.at(np.isin(picked.result, places) & np.isfinite(picked.offset))
    rows = dated.at(np.lexsort((dated.result, dated.offset, dated.subject)))
    subject, results = rows.subject, rows.result
    edges = [*np.flatnonzero(_changes(subject)).tolist(), len(rows)]
    names = tuple(inputs[place][0] for place in places)
    signs = [
        comparator_of(cells, c, raw) for c, raw in zip(rows.cell.tolist(), rows.raw.tolist(), strict=True)
    ]
    return {
        int(subject[a]): TimedSeries(
            names,
            tuple(rows.offset[a:b].tolist()),
            tuple(code[results[a:b]].tolist()),
            tuple(rows.number[a:b].tolist()),
            tuple(signs[a:b]),
        )
        for a, b in itertools.pairwise(edges)
    }


def _absent(rows: Rows, settled: Ints, cells: Cells) -> Absent:
    """Where a subject has rows of a code but none that counts, the row that says why.

    Of the rows known in time the one with the first fate of :data:`EXPLAINED`, of those the latest, of those
    the one whose text sorts first.
    """
    worth = np.full(len(FATES), -1, dtype=np.int8)
    worth[[FATE[fate] for fate in EXPLAINED]] = np.arange(len(EXPLAINED))
    unsettled = np.ones(int(rows.group.max()) + 1 if len(rows) else 0, dtype=bool)
    unsettled[settled] = False
    failed = rows.at(np.flatnonzero((worth[rows.fate] >= 0) & unsettled[rows.group]))
    merit = worth[failed.fate]
    order = np.lexsort((-failed.offset, merit, failed.group))
    alike = ~_changes(failed.group[order], merit[order], failed.offset[order])
    if alike.any():
        spelled = np.full(len(failed), "", dtype=object)
        for n in order[alike | np.append(alike[1:], False)].tolist():
            spelled[n] = text_of(cells, int(failed.cell[n]), float(failed.raw[n]))
        order = np.lexsort((spelled.astype(str), -failed.offset, merit, failed.group))
    told = failed.at(order[_changes(failed.group[order])])
    key = told.group.astype(np.int64) + rows.first * rows.width
    return Absent(key, told.offset, told.raw, told.cell, told.fate)


def text_of(cells: Cells, cell: int, raw: float) -> str:
    """Return a row's cell as it is shown: the number as recorded, and its unit where that is not declared."""
    if not cells.numbers:
        return cells.text[cell]
    return f"{raw!r} {cells.text[cell]}".strip() if raw == raw else "nan"  # noqa: PLR0124 - NaN


def comparator_of(cells: Cells, cell: int, raw: float) -> str:
    """Return a row's comparator; an infinite number is a limit that nobody wrote down."""
    if not cells.numbers:
        return cells.comparator[cell]
    return {np.inf: ">", -np.inf: "<"}.get(raw, "")
