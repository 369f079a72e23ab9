"""What is tried as a predictor: one value per patient, of any kind, and how a small model reads it.

Numbers are cut at quantiles and words keep their frequent levels, on the training part alone; a missing cell
is a level of its own. So one form serves ages, scanner names and gaps alike, whatever the relation's shape.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from medmm.arrays import Bools, Float64, Ints

Cell = str | float | None
Family = Literal[
    "field",
    "missing",
    "withheld",
    "header",
    "scanner",
    "size",
    "count",
    "site",
    "date",
    "order",
    "file",
    "pixels",
    "person",
]

BINS = 8
"""Most intervals that a number is cut into."""
PER_BIN = 10
"""Training patients behind each interval: fewer make an interval's rate a matter of luck."""
LEVELS = 20
"""Most levels of words that are told apart."""
RARE = 3
"""A level of fewer training patients is one of the rare ones."""
NUMERIC = 0.9
"""A column of which this share of the cells are numbers is read as numbers."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, eq=False)
class Column:
    """One candidate predictor.

    Attributes:
        name: as a person knows it ("records.age", "zones: Rows").
        family: what kind of knowledge it is.
        cells: ``[patient]``; None where there is none.
        eligible: ``[patient]``, whom it can be asked of; None for everybody.
    """

    name: str
    family: Family
    cells: Sequence[Cell]
    eligible: Bools | None = None

    @cached_property
    def numbers(self) -> Float64 | None:
        """``[patient]``, NaN where missing or a word; None where the column holds words."""
        parsed = np.array([_number(cell) for cell in self.cells], dtype=np.float64)
        known = sum(cell is not None for cell in self.cells)
        return parsed if known and np.isfinite(parsed).sum() >= NUMERIC * known else None

    @cached_property
    def words(self) -> tuple[Ints, tuple[str, ...]]:
        """``[patient]`` a level's number, most frequent first, -1 where missing; and the levels."""
        texts = [None if cell is None else str(cell) for cell in self.cells]
        counts = Counter(text for text in texts if text is not None)
        levels = tuple(sorted(counts, key=lambda text: (-counts[text], text)))
        place = {text: number for number, text in enumerate(levels)}
        return np.array([-1 if text is None else place[text] for text in texts], dtype=np.int64), levels

    @cached_property
    def division(self) -> bytes:
        """Equal for two columns that tell patients apart alike: by words, or by the order of numbers."""
        if self.numbers is not None:
            return np.unique(self.numbers, return_inverse=True)[1].astype(np.int64).tobytes()
        place: dict[Cell, int] = {}
        return np.array([place.setdefault(cell, len(place)) for cell in self.cells], np.int64).tobytes()

    @cached_property
    def distinct(self) -> int:
        """How many different cells there are, a missing one among them."""
        return len(set(self.cells))

    def coded(self, train: Ints) -> tuple[Ints, int]:
        """Return each patient's code and how many codes there are, as the training patients define them.

        Args:
            train: positions of the training patients.
        """
        if self.numbers is None:
            return self._levels(train)
        known = self.numbers[train]
        edges = _edges(known[np.isfinite(known)])
        codes = np.searchsorted(edges, np.nan_to_num(self.numbers), side="left")
        codes[~np.isfinite(self.numbers)] = len(edges) + 1
        return codes.astype(np.int64), len(edges) + 2

    def _levels(self, train: Ints) -> tuple[Ints, int]:
        numbers, levels = self.words
        counts = np.bincount(numbers[train][numbers[train] >= 0], minlength=len(levels))
        kept = [level for level in np.argsort(-counts, kind="stable")[:LEVELS] if counts[level] >= RARE]
        codes = np.full(len(levels) + 1, len(kept), dtype=np.int64)  # the rare ones
        codes[kept] = np.arange(len(kept))
        codes[-1] = len(kept) + 1  # -1: missing
        return codes[numbers], len(kept) + 2


def gaps(column: Column) -> Column:
    """Return whether a column's cells are missing, as a column."""
    cells = ["missing" if cell is None else "known" for cell in column.cells]
    return Column(column.name, "missing", cells, column.eligible)


def _edges(known: Float64) -> Float64:
    """Return the cuts between intervals; a value at a cut belongs below it."""
    distinct = np.unique(known)
    bins = max(2, min(BINS, len(known) // PER_BIN))
    if len(distinct) <= bins:
        return (distinct[1:] + distinct[:-1]) / 2
    return np.unique(np.quantile(known, np.arange(1, bins) / bins))


def _number(cell: Cell) -> float:
    if isinstance(cell, str):
        return float(cell) if _NUMBER.fullmatch(cell.strip()) else math.nan
    return math.nan if cell is None else float(cell)
