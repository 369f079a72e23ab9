"""Rows put aside by ranges of subjects, in memory and then in one file, and read a range at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]


class Shelf:
    """Columns of rows, written as they come and read a range of subjects at a time.

    Args:
        path: a file in a private folder; it is made, and whoever owns the folder removes it.
        kinds: the type of each column.
        step: subjects to a range.
        held_bytes: so much is held in memory, the rest in the file.
    """

    def __init__(
        self, path: Path, kinds: Mapping[str, np.dtype[Any]], step: int, *, held_bytes: int = 0
    ) -> None:
        self._file = path.open("w+b", buffering=0)
        self._kinds = kinds
        self._step = step
        self._room = self._held_bytes = held_bytes
        self._end = 0
        # per lot: each column, or where it begins in the file; and at which row each range does
        self._lots: list[tuple[dict[str, NDArray[Any] | int], NDArray[np.int64]]] = []

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        """The number of ranges up to the last one with a row."""
        return max((len(edges) - 1 for _, edges in self._lots), default=0)

    def clear(self) -> None:
        """Take every row away."""
        self._lots.clear()
        self._room, self._end = self._held_bytes, 0

    def put(self, subject: NDArray[Any], rows: Columns, which: NDArray[np.intp]) -> None:
        """Add some of the rows.

        Args:
            subject: the subject of every row.
            rows: the columns, each as long as ``subject``.
            which: the rows that are meant.
        """
        if not len(which):
            return
        number = subject[which] // self._step
        last = int(number.max())
        small = number.astype(np.uint16) if last < 1 << 16 else number  # the sort is linear then
        order = which[np.argsort(small, kind="stable")]
        edges = np.concatenate([[0], np.cumsum(np.bincount(small, minlength=last + 1))])
        self._room -= len(order) * sum(kind.itemsize for kind in self._kinds.values())
        lot: dict[str, NDArray[Any] | int] = {}
        for name, kind in self._kinds.items():
            column = rows[name][order].astype(kind, copy=False)
            lot[name] = column if self._room >= 0 else self._written(column)
        self._lots.append((lot, edges))

    def _written(self, column: NDArray[Any]) -> int:
        """Append a column to the file and return where it begins."""
        begin = self._end
        self._file.seek(begin)
        left = column.view(np.uint8).data
        while left:
            written = self._file.write(left)
            self._end += written
            left = left[written:]
        return begin

    def take(self, number: int) -> dict[str, NDArray[Any]]:
        """Return the rows of one range, lot by lot."""
        parts = [
            (lot, int(edges[number]), int(edges[number + 1]))
            for lot, edges in self._lots
            if number + 1 < len(edges)
        ]
        size = sum(stop - start for _, start, stop in parts)
        found = {name: np.empty(size, dtype=kind) for name, kind in self._kinds.items()}
        for name, column in found.items():
            filled = 0
            for lot, start, stop in parts:
                space, place = column[filled : filled + stop - start], lot[name]
                if isinstance(place, int):
                    self._file.seek(place + start * column.itemsize)
                    self._fill(space)
                else:
                    space[:] = place[start:stop]
                filled += stop - start
        return found

    def _fill(self, part: NDArray[Any]) -> None:
        if not len(part):
            return
        space = part.view(np.uint8).data
        while space:
            read = self._file.readinto(space)
            if not read:
                raise EOFError("rows that were put aside are gone; is the temporary folder full?")
            space = space[read:]
