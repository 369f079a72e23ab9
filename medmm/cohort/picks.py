"""From windowed rows to summaries, a range of patients at a time, in whole arrays.

Per (subject, result, time) one row is picked: a corrected one before a final one, then by the declared rule.
The picks of a subject, in time, are summarised. No order of rows shows in what comes out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medmm.columns import MISSING, ResultSpec, Status, Summary, Value
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
_EXPLAINED = {
    "implausible": Status.IMPLAUSIBLE,
    "unparsable": Status.UNPARSABLE,
    "without a unit": Status.UNPARSABLE,
    "undated": Status.UNDATED,
    "outside the window": Status.OUTSIDE_WINDOW,
    "without a limit": Status.MISSING,
}
"""What a reader is told when a subject has no usable result of a code; the first that applies."""
OF_ALL = frozenset({"mean", "count", "slope"})
"""Summaries that every result of the window enters."""

Ints = NDArray[np.int64]
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
        offset: days, -inf where undated.
        number: in the declared unit, NaN where there is none.
        raw: as recorded, where rows bring their numbers; else the number.
        rank: 0 for a corrected result, 1 for a final one, 2 for any other.
        fate: position in :data:`FATES`, by time, status and cell together.
    """

    subject: Ints
    result: Ints
    offset: Floats
    number: Floats
    raw: Floats
    rank: Ints
    cell: Ints
    fate: Ints

    def at(self, where: Ints | Bools) -> Rows:
        """Return some of the rows, in the order asked for."""
        return Rows(*(getattr(self, name)[where] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Chosen:
    """One pick per group: the value, when it was, and its cell."""

    number: Floats
    raw: Floats
    offset: Floats
    cell: NDArray[np.int32]


@dataclass(slots=True)
class Block:
    """The summaries of a range of subjects; a group is one (subject, result) with a pick.

    Attributes:
        subject, result, offset: per group; the offset is that of the last pick.
        chosen: for last, first, min and max.
        computed: for mean, count and slope (NaN below two times).
        absent: per (subject, result) without a pick, why.
        courses: per subject, the picks of results declared ``series: true``.
        contradictions: per result, at how many times values of one status differ, and whose.
    """

    subject: Ints
    result: Ints
    offset: Floats
    chosen: dict[Summary, Chosen] = field(default_factory=dict)
    computed: dict[Summary, Floats] = field(default_factory=dict)
    absent: dict[tuple[int, int], Value] = field(default_factory=dict)
    courses: dict[int, TimedSeries] = field(default_factory=dict)
    contradictions: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    picks: int = 0
    used: int = 0


def summarise(rows: Rows, cells: Cells, inputs: Sequence[tuple[str, ResultSpec]], *, highest: bool) -> Block:
    """Return the summaries of a range of subjects.

    Args:
        rows: all rows of these subjects that are not later than the prediction time.
        cells: what their cells say.
        inputs: the results by position, and what is asked of them.
        highest: of differing values at one time and of one status, whether the highest is taken.
    """
    block = Block(rows.subject[:0], rows.result[:0], rows.offset[:0])
    picked, contradicting = _pick(_sorted(rows.at(rows.fate == 0)), cells, highest=highest)
    for result, subject in zip(*contradicting, strict=True):
        count, whose = block.contradictions.setdefault(int(result), (0, []))
        block.contradictions[int(result)] = (count + 1, [*whose, int(subject)] if len(whose) < 3 else whose)
    block.picks = len(picked.subject)
    picked = _without_undated(picked)
    start = np.flatnonzero(_changes(picked.subject, picked.result))
    stop = np.append(start[1:], len(picked.subject))
    block.subject, block.result = picked.subject[start], picked.result[start]
    block.offset = picked.offset[stop - 1] if len(start) else picked.offset[:0]
    if len(start):
        wanted = {summary for _, result in inputs for summary in result.summaries}
        _choose(block, picked, start, stop, wanted)
        _compute(block, picked, start, stop, wanted)
    block.used = _used(block, start, stop, inputs)
    block.courses = _courses(picked, cells, inputs)
    _explain(block, rows, cells)
    return block


def _sorted(rows: Rows) -> Rows:
    """Sort by subject, result and time; the sorts by whole numbers are stable, and small ones linear."""
    order = np.argsort(rows.offset)
    order = order[np.argsort(rows.result[order].astype(np.uint16), kind="stable")]
    first = rows.subject.min() if len(rows.subject) else 0
    local = (rows.subject - first)[order]
    narrow = local.astype(np.uint16) if len(local) and local.max() < 1 << 16 else local
    return rows.at(order[np.argsort(narrow, kind="stable")])


def _changes(*columns: NDArray[np.generic]) -> Bools:
    """Where a row differs from the one before it; the first always does."""
    changed = np.ones(len(columns[0]), dtype=bool)
    if len(changed):
        changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def _pick(rows: Rows, cells: Cells, *, highest: bool) -> tuple[Rows, tuple[Ints, Ints]]:
    """Return one row per time, and (results, subjects) of the times at which values of one status differ."""
    new = _changes(rows.subject, rows.result, rows.offset)
    nobody = (rows.result[:0], rows.subject[:0])
    if new.all():
        return rows, nobody
    time = np.cumsum(new) - 1
    crowded = np.flatnonzero(np.bincount(time)[time] > 1)
    few = rows.at(crowded)
    words = np.array([(cells.comparator[cell], cells.text[cell]) for cell in few.cell], dtype=object)
    spelled = np.unique([f"{sign}\x00{text}" for sign, text in words], return_inverse=True)[1]
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
    return rows.at(keep), (rows.result[clash], rows.subject[clash])


def _without_undated(picked: Rows) -> Rows:
    """Leave out an undated pick where the subject has a dated one; it sorts first."""
    undated = np.isneginf(picked.offset)
    if not undated.any():
        return picked
    follows = np.zeros(len(undated), dtype=bool)
    follows[:-1] = ~_changes(picked.subject, picked.result)[1:]
    return picked.at(~(undated & follows))


def _choose(block: Block, picked: Rows, start: Ints, stop: Ints, wanted: set[Summary]) -> None:
    numbers, everywhere = picked.number, np.arange(len(picked.number))
    length = stop - start
    found: dict[Summary, Ints] = {"last": stop - 1, "first": start}
    for summary, extreme in (("min", np.minimum), ("max", np.maximum)):
        if summary in wanted:
            best = np.repeat(extreme.reduceat(numbers, start), length)
            # of equal values the latest
            found[summary] = np.maximum.reduceat(np.where(numbers == best, everywhere, -1), start)
    for summary in wanted & found.keys():
        which = found[summary]
        number = picked.number[which]
        raw = picked.raw[which]
        if np.array_equal(raw, number):
            raw = number  # no unit was converted; there are millions of them
        offset = block.offset if summary == "last" else picked.offset[which]
        block.chosen[summary] = Chosen(number, raw, offset, picked.cell[which].astype(np.int32))


def _compute(block: Block, picked: Rows, start: Ints, stop: Ints, wanted: set[Summary]) -> None:
    length = stop - start
    if "count" in wanted:
        block.computed["count"] = length.astype(np.float64)
    if not wanted & {"mean", "slope"}:
        return
    mean = np.add.reduceat(picked.number, start) / length
    # a sum of equal numbers may round away from them
    low, high = np.minimum.reduceat(picked.number, start), np.maximum.reduceat(picked.number, start)
    block.computed["mean"] = np.clip(mean, low, high)
    if "slope" in wanted:
        day = np.add.reduceat(picked.offset, start) / length
        with np.errstate(invalid="ignore", divide="ignore"):
            away = picked.offset - np.repeat(day, length)
            rise = picked.number - np.repeat(mean, length)
            slope = np.add.reduceat(away * rise, start) / np.add.reduceat(away * away, start)
        block.computed["slope"] = np.where((length > 1) & np.isfinite(slope), slope, np.nan)


def _used(block: Block, start: Ints, stop: Ints, inputs: Sequence[tuple[str, ResultSpec]]) -> int:
    """Count the picks that enter a summary or a course."""
    used = 0
    for place, (_, result) in enumerate(inputs):
        groups = np.flatnonzero(block.result == place)
        asked = set(result.summaries)
        if result.series or asked & OF_ALL:
            used += int((stop - start)[groups].sum())
        elif asked:
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
    edges = [*np.flatnonzero(_changes(rows.subject)).tolist(), len(rows.subject)]
    names = tuple(inputs[place][0] for place in places)
    signs = [
        comparator_of(cells, c, raw) for c, raw in zip(rows.cell.tolist(), rows.raw.tolist(), strict=True)
    ]
    return {
        int(rows.subject[a]): TimedSeries(
            names,
            tuple(rows.offset[a:b].tolist()),
            tuple(code[rows.result[a:b]].tolist()),
            tuple(rows.number[a:b].tolist()),
            tuple(signs[a:b]),
        )
        for a, b in itertools.pairwise(edges)
    }


def _explain(block: Block, rows: Rows, cells: Cells) -> None:
    """Where a subject has rows of a code but none that counts, say why, from the rows known in time."""
    worth = np.full(len(FATES), -1)
    worth[[FATE[fate] for fate in _EXPLAINED]] = np.arange(len(_EXPLAINED))
    left = np.flatnonzero(worth[rows.fate] >= 0)
    if not len(left):
        return
    width = int(rows.result.max()) + 1
    key = rows.subject[left] * width + rows.result[left]
    left = left[~np.isin(key, block.subject * width + block.result)]
    failed = rows.at(left)
    spelled = np.array(
        [text_of(cells, c, r) for c, r in zip(failed.cell.tolist(), failed.raw.tolist(), strict=True)]
    )
    order = np.lexsort((spelled, -failed.offset, worth[failed.fate], failed.result, failed.subject))
    for n in order[_changes(failed.subject[order], failed.result[order])].tolist():
        offset, fate = float(failed.offset[n]), FATES[failed.fate[n]]
        # of what could not be read, no comparator is known
        unread = fate in ("unparsable", "without a unit")
        sign = "" if unread else comparator_of(cells, int(failed.cell[n]), float(failed.raw[n]))
        when = None if offset == -np.inf else offset
        block.absent[int(failed.subject[n]), int(failed.result[n])] = Value(
            None, _EXPLAINED[fate], str(spelled[n]), sign, when
        )


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


class Summaries(Mapping[int, Mapping[str, Value]]):
    """The rows of all subjects, built from blocks when they are asked for.

    Args:
        blocks: of ascending, disjoint ranges of subjects.
        cells: what their cells say.
        inputs: the results by position.
        names: per result, the keys of its summaries.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        cells: Cells,
        inputs: Sequence[tuple[str, ResultSpec]],
        names: Sequence[Sequence[str]],
    ) -> None:
        self._blocks = blocks
        self._cells = cells
        self._keys = {
            key: (place, summary)
            for place, (_, result) in enumerate(inputs)
            for key, summary in zip(names[place], result.summaries, strict=True)
        }
        self._where: dict[int, tuple[int, int, int]] = {}
        for number, block in enumerate(blocks):
            edges = [*np.flatnonzero(_changes(block.subject)).tolist(), len(block.subject)]
            for a, b in itertools.pairwise(edges):
                self._where[int(block.subject[a])] = (number, a, b)
            for subject, _ in block.absent:
                self._where.setdefault(subject, (number, 0, 0))

    def __len__(self) -> int:
        return len(self._where)

    def __iter__(self) -> Iterator[int]:
        return iter(self._where)

    def __getitem__(self, subject: int) -> Row:
        return Row(self, subject, *self._where[subject])

    @property
    def keys_of_a_row(self) -> Mapping[str, tuple[int, Summary]]:
        """Per key of a row, the position of its result and the summary."""
        return self._keys

    @property
    def undated(self) -> int:
        """Values used on a person's word that they were known in time."""
        count = 0
        for block in self._blocks:
            groups = block.result[np.isneginf(block.offset)]
            for place, summary in self._keys.values():
                if summary not in ("slope", "time_since_last"):
                    count += int((groups == place).sum())
        return count

    def value(self, subject: int, number: int, group: int, key: tuple[int, Summary]) -> Value:
        """Return one value: of a group, or why there is none."""
        block, (place, summary) = self._blocks[number], key
        if group < 0:
            return block.absent.get((subject, place), MISSING)
        last = float(block.offset[group])
        if summary in block.chosen:
            chosen = block.chosen[summary]
            cell, raw, offset = int(chosen.cell[group]), float(chosen.raw[group]), float(chosen.offset[group])
            undated = offset == -np.inf
            text, sign = text_of(self._cells, cell, raw), comparator_of(self._cells, cell, raw)
            return Value(
                float(chosen.number[group]), Status.KNOWN, text, sign, None if undated else offset, undated
            )
        undated = last == -np.inf
        if summary == "time_since_last":
            return Value(None, Status.UNDATED) if undated else Value(0.0 - last, offset_days=last)
        found = float(block.computed[summary][group])
        offset_days = None if undated else last
        if summary == "slope":
            status = Status.KNOWN if found == found else Status.MISSING  # noqa: PLR0124 - NaN
            return Value(found if status is Status.KNOWN else None, status, offset_days=offset_days)
        return Value(found, offset_days=offset_days, undated=undated)

    def group(self, number: int, first: int, last: int, place: int) -> int:
        """Return the group of a result among those of a subject; -1 for none."""
        results = self._blocks[number].result[first:last]
        at = int(np.searchsorted(results, place))
        return first + at if at < len(results) and results[at] == place else -1


class Row(Mapping[str, Value]):
    """One subject's values by key, each built when it is asked for."""

    __slots__ = ("_all", "_first", "_last", "_number", "_subject")

    def __init__(self, every: Summaries, subject: int, number: int, first: int, last: int) -> None:
        self._all, self._subject, self._number = every, subject, number
        self._first, self._last = first, last

    def __getitem__(self, key: str) -> Value:
        place, summary = self._all.keys_of_a_row[key]
        group = self._all.group(self._number, self._first, self._last, place)
        return self._all.value(self._subject, self._number, group, (place, summary))

    def __iter__(self) -> Iterator[str]:
        return iter(self._all.keys_of_a_row)

    def __len__(self) -> int:
        return len(self._all.keys_of_a_row)

    def __repr__(self) -> str:
        return repr(dict(self))
