"""What the cells of a table of results say: numbers in the declared unit, comparators, or why there is none.

A distinct cell is read once, however many rows hold it; where the source keeps numbers, a cell is no more
than its unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmm.cohort.blocks import Biomarkers
from medmm.cohort.picks import FATE, FATES, Bools, Cells, Floats, Ints, Rows, text_of
from medmm.cohort.values import parse_number, read_number
from medmm.columns import AssumeKnown, ResultSpec, Status
from medmm.errors import DataError
from medmm.units import factor, spelt

COLUMNS: Mapping[str, np.dtype[Any]] = {
    "subject": np.dtype(np.int32),
    "result": np.dtype(np.uint16),
    "cell": np.dtype(np.int32),
    "value": np.dtype(np.float64),
    "offset": np.dtype(np.float64),
    "tag": np.dtype(np.uint16),
}
"""A row on its way from the tables: its number (NaN where its cell has it), days, and a tag of these bits."""
FATE_BITS, RANK_SHIFT, ODD_DATE, MIXED, EMPTY, ELSEWHERE = 15, 4, 64, 128, 256, 512
"""The fate of its time, the rank of its status, a date that is nobody's, clocks that differ, no number, a day
that is another one elsewhere."""


@dataclass(slots=True)
class Read:
    """What the cells of the candidates say, and an account of the rows that are read.

    Attributes:
        cells: by number, for whoever shows a value.
        fates: rows by position in ``FATES``, later ones left out; filled as rows are read.
        readable: per result, rows that hold something.
        unread: per (result, cell as shown), how often it could not be read.
        units: per result, the units that such cells have.
    """

    cells: Cells
    readable: Ints
    _number: Floats
    _fate: Ints
    _unit: Sequence[str]
    _inputs: Sequence[tuple[str, ResultSpec]]
    fates: Ints = field(default_factory=lambda: np.zeros(len(FATES), dtype=np.int64))
    unread: Counter[tuple[int, str]] = field(default_factory=Counter)
    units: dict[int, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: Sequence[Cell], inputs: Sequence[tuple[str, ResultSpec]], *, numbers: bool) -> Read:
        """Begin the account of a table with these cells."""
        return cls(
            Cells([cell.comparator for cell in cells], [cell.shown for cell in cells], numbers),
            np.zeros(len(inputs), dtype=np.int64),
            np.array([np.nan if cell.number is None else cell.number for cell in cells], dtype=np.float64),
            np.array([FATE[cell.fate] for cell in cells], dtype=np.uint8),
            [cell.unit for cell in cells],
            inputs,
        )

    def rows(self, first: int, found: Mapping[str, NDArray[Any]]) -> Rows:
        """Return rows of a range of subjects, none of them later, each with its fate.

        Args:
            first: the first subject of the range.
            found: the columns of :data:`COLUMNS`.
        """
        cell, result, tag = found["cell"], found["result"], found["tag"]
        number, by_cell = self._number.take(cell), self._fate.take(cell)
        raw = number
        if self.cells.numbers:
            raw = found["value"]
            number, by_cell = self._scaled(raw, (tag & EMPTY) != 0, result, number, by_cell)
        fate = _fate((tag & FATE_BITS).astype(np.uint8), by_cell)
        width = len(self._inputs)
        group = (found["subject"] - first).astype(np.int64) * width + result
        small = len(group) and int(group.max()) < 1 << 16  # a sort by it is linear then
        rows = Rows(
            first,
            width,
            group.astype(np.uint16) if small else group,
            found["offset"],
            number,
            raw,
            (tag >> RANK_SHIFT & 3).astype(np.uint8),
            cell,
            fate,
        )
        self._account(rows, result)
        return rows

    def _scaled(
        self, raw: Floats, empty: Bools, result: Ints, scale: Floats, fate: Ints
    ) -> tuple[Floats, Ints]:
        """Convert numbers by their units' scale and judge each, as ``values.read_number`` does."""
        specs = [spec for _, spec in self._inputs]
        nowhere = (-np.inf, np.inf)
        low, high = (np.array([(s.plausible or nowhere)[end] for s in specs]).take(result) for end in (0, 1))
        with np.errstate(invalid="ignore"):
            number = raw if (scale == 1.0).all() else np.where(scale == 1.0, raw, raw * scale)
            number = number + 0.0
        if np.isinf(raw).any():
            floor, ceiling = (
                np.array([(s.limits or (np.nan, np.nan))[end] for s in specs])[result] for end in (0, 1)
            )
            number = np.where(np.isposinf(raw), ceiling, np.where(np.isneginf(raw), floor, number))
        with np.errstate(invalid="ignore"):
            implausible = (number < low) | (number > high)
        if implausible.any():
            fate = np.where((fate == 0) & implausible, np.uint8(FATE["implausible"]), fate)
        odd = ~np.isfinite(raw)
        if odd.any():
            limitless = (fate == 0) & np.isinf(raw) & np.isnan(number)
            fate = np.where(limitless, np.uint8(FATE["without a limit"]), fate)
            fate = np.where(np.isnan(raw), np.uint8(FATE["unparsable"]), fate)
        for place, spec in enumerate(specs):
            for word in spec.missing_codes:
                empty = empty | ((result == place) & _says(raw, word))
        return number, np.where(empty, np.uint8(FATE["missing"]), fate) if empty.any() else fate

    def _account(self, rows: Rows, result: Ints) -> None:
        met = np.bincount(rows.fate, minlength=len(FATES))
        self.fates += met
        held = result[rows.fate != FATE["missing"]] if met[FATE["missing"]] else result
        self.readable += np.bincount(held, minlength=len(self._inputs))
        bad = np.flatnonzero((rows.fate == FATE["unparsable"]) | (rows.fate == FATE["without a unit"]))
        if not len(bad):
            return
        none = np.isnan(rows.raw[bad])
        raws = np.where(none, 0.0, rows.raw[bad])
        told = np.stack([result[bad], rows.cell[bad], none, raws, np.signbit(raws)])  # -0.0 is not 0.0 here
        distinct, counts = np.unique(told, axis=1, return_counts=True)
        for (place, cell, empty, raw, _), count in zip(distinct.T.tolist(), counts.tolist(), strict=True):
            shown = text_of(self.cells, int(cell), np.nan if empty else raw)
            self.unread[int(place), shown] += count
            if self._fate[int(cell)] == FATE["unparsable"]:
                self.units.setdefault(int(place), set()).add(self._unit[int(cell)])


def _says(raw: Floats, word: str) -> Bools:
    """Where a number is what a word says; "<5" and "5 H" say more than a number can."""
    if word.strip().lower() == "nan":
        return np.isnan(raw)
    told = parse_number(word)
    if told is None or told.flag or (told.comparator and told.value is not None):
        return np.zeros(len(raw), dtype=bool)
    infinite = np.inf if told.comparator == ">" else -np.inf
    return np.equal(raw, infinite if told.value is None else told.value)


def _fate(by_time: Ints, by_cell: Ints) -> Ints:
    """Withdrawn goes before what cannot be read, that before the time, and that before the number."""
    if not by_cell.any():
        return by_time
    unread = np.isin(by_cell, [FATE[fate] for fate in ("missing", "unparsable", "without a unit")])
    settled = (by_time == FATE["withdrawn"]) | ((by_time != 0) & ~unread)
    return np.where(settled, by_time, by_cell)


@dataclass(frozen=True, slots=True)
class Cell:
    """One distinct cell; where the source keeps numbers, one distinct unit, and ``number`` is its scale."""

    number: float | None
    comparator: str
    shown: str
    fate: str
    unit: str
    refused: DataError | None = None


def read_unit(named: tuple[str, ResultSpec], spec: Biomarkers, unit: str) -> Cell:
    """Return one distinct unit: its scale, and what follows a number as shown; perhaps why it is refused."""
    name, result = named
    try:
        scale, _, shown, fate = _cell((name, result.model_copy(update=_ANY)), spec, "1", unit)
    except DataError as error:
        return Cell(None, "", "", "unparsable", unit, error)
    return Cell(scale, "", shown.removeprefix("1").strip(), fate, unit)


def read_cell(named: tuple[str, ResultSpec], spec: Biomarkers, text: str, unit: str) -> Cell:
    """Return one distinct cell.

    Raises:
        DataError: if the result declares no unit but has one.
    """
    return Cell(*_cell(named, spec, text, unit), unit)


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
    shown = text if spelt(meant) in ("", spelt(result.unit or "")) else f"{text} {unit}"
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


_ANY = {"plausible": None, "missing_codes": ()}
"""A unit is judged without its number."""


def unit_complaint(result: ResultSpec, spec: Biomarkers, unit: str) -> str:
    """Return why numbers in a unit cannot be converted; "" where they can."""
    meant = spec.units.get(unit, unit)
    try:
        _scale(result, meant)
    except DataError as error:
        return str(error)
    return ""
