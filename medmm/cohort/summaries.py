"""The values of every subject, in whole arrays; a value is built when it is asked for."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmm.cohort.picks import EXPLAINED, FATES, Block, Cells, comparator_of, text_of
from medmm.columns import MISSING, ResultSpec, Status, Summary, Value


def on_disk(blocks: Sequence[Block]) -> list[Block]:
    """Return the same blocks with their arrays mapped from a file without a name, which goes with them."""
    places: dict[int, int] = {}
    with tempfile.TemporaryFile(prefix="medmm-") as file:
        file.write(bytes(_ALIGNED))  # an empty file cannot be mapped
        for array in (array for block in blocks for array in block.arrays):
            if id(array) not in places:
                file.write(bytes(-file.tell() % _ALIGNED))
                places[id(array)] = file.tell()
                file.write(np.ascontiguousarray(array).view(np.uint8).data)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def moved(array: NDArray[Any]) -> NDArray[Any]:
        return np.frombuffer(mapped, array.dtype, len(array), places[id(array)])

    return [block.with_arrays(moved) for block in blocks]


_ALIGNED = 64


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
        self._width = max(len(inputs), 1)
        everybody = [block.subject for block in blocks] + [b.absent.key // self._width for b in blocks]
        size = max((int(some.max()) + 1 for some in everybody if len(some)), default=0)
        # per subject its block, -1 for none, and its groups in it
        self._number = np.full(size, -1, dtype=np.int32)
        self._first, self._last = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        for number, block in enumerate(blocks):
            edges = np.flatnonzero(np.diff(block.subject, prepend=-1))
            subject = block.subject[edges]
            self._first[subject], self._last[subject] = (
                edges,
                np.append(edges[1:], len(block.subject))[: len(edges)],
            )
            self._number[subject] = self._number[block.absent.key // self._width] = number

    def __len__(self) -> int:
        return int((self._number >= 0).sum())

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._number >= 0).tolist())

    def __getitem__(self, subject: int) -> Row:
        if not 0 <= subject < len(self._number) or self._number[subject] < 0:
            raise KeyError(subject)
        number, first, last = self._number[subject], self._first[subject], self._last[subject]
        return Row(self, subject, int(number), int(first), int(last))

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
            return self._why_absent(block, subject * self._width + place)
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

    def _why_absent(self, block: Block, key: int) -> Value:
        absent = block.absent
        at = int(np.searchsorted(absent.key, key))
        if at == len(absent.key) or absent.key[at] != key:
            return MISSING
        cell, raw, offset = int(absent.cell[at]), float(absent.raw[at]), float(absent.offset[at])
        fate = FATES[absent.fate[at]]
        # of what could not be read, no comparator is known
        sign = "" if fate in ("unparsable", "without a unit") else comparator_of(self._cells, cell, raw)
        when = None if offset == -np.inf else offset
        return Value(None, EXPLAINED[fate], text_of(self._cells, cell, raw), sign, when)

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
