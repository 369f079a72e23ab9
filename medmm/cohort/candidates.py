"""The candidates of a window: rows of kept subjects and declared codes, timed and read.

What lies after the prediction time is set apart here, before anything else of it is looked at. A distinct
cell is read once, however many rows hold it; where the source keeps numbers, a cell is no more than its unit.
"""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from medmm.cohort.moments import sql_clock, sql_known_by, sql_offset_days
from medmm.cohort.picks import FATE, FATES, Bools, Cells, Floats, Ints, Rows, text_of
from medmm.cohort.spec import Biomarkers
from medmm.cohort.values import parse_number, read_number
from medmm.columns import AssumeKnown, ResultSpec, Status
from medmm.errors import DataError
from medmm.sources.duck import Engine, literal, quoted
from medmm.units import factor

STATUS_RANK = {"corrected": 0, "amended": 0, "c": 0, "final": 1, "f": 1}
"""At equal times corrected results go before final ones, and those before all others (preliminary)."""
WITHDRAWN = ("cancelled", "canceled", "entered-in-error", "entered in error", "x", "w")
"""Words of a status column (HL7 table 0085, FHIR observation-status) for a result that is none."""

ODD_YEARS = (1901, 2100)
"""A result of before the one or from the other on is reported; it is used or not like any other."""


def sql_text(column: str | None) -> str:
    """SQL: a cell as trimmed text; an empty one, or a column that is not mapped, is ''."""
    return f"coalesce(trim(CAST({quoted(column)} AS VARCHAR)), '')" if column else "''"


def sql_status_rank(column: str) -> str:
    """SQL: the rank of a status by :data:`STATUS_RANK`, of a lower-case column."""
    rank = " ".join(f"WHEN {literal(word)} THEN {place}" for word, place in STATUS_RANK.items())
    return f"CASE {column} {rank} ELSE 2 END"


def sql_withdrawn(column: str) -> str:
    """SQL: whether a status says that the result is none."""
    return f"{column} IN ({', '.join(literal(word) for word in WITHDRAWN)})"


@dataclass(slots=True)
class Read:
    """The temporary table ``candidate``, and what its cells say.

    Attributes:
        cells: by number, for whoever shows a value.
        fates: rows by position in ``FATES``, later ones left out; filled as rows are read.
        later: rows after the prediction time.
        readable: per result, rows that hold something.
        unread: per (result, cell as shown), how often it could not be read.
        units: per result, the units that such cells have.
        odd: per result, how many dates are nobody's, and whose rows they stand in.
    """

    cells: Cells
    later: int
    readable: Ints
    odd: Mapping[int, tuple[int, Sequence[int]]]
    _number: Floats
    _fate: Ints
    _unit: Sequence[str]
    _inputs: Sequence[tuple[str, ResultSpec]]
    fates: Ints = field(default_factory=lambda: np.zeros(len(FATES), dtype=np.int64))
    unread: Counter[tuple[int, str]] = field(default_factory=Counter)
    units: dict[int, set[str]] = field(default_factory=dict)

    def rows(self, engine: Engine, start: int, stop: int) -> Rows:
        """Return the rows of a range of subjects that are not later, each with its fate."""
        found = engine.arrays(
            "SELECT subject, result, cell, value, rank, offset_days, fate FROM candidate"
            f" WHERE fate <> {FATE['later']} AND subject >= {start} AND subject < {stop}"
        )
        cell, result = found["cell"].astype(np.int64), found["result"].astype(np.int64)
        number, by_cell = self._number[cell], self._fate[cell]
        raw = number
        if self.cells.numbers:
            raw = np.ma.filled(found["value"].astype(np.float64), np.nan)
            number, by_cell = self._scaled(raw, np.ma.getmaskarray(found["value"]), result, number, by_cell)
        fate = _fate(found["fate"].astype(np.int64), by_cell)
        rows = Rows(
            found["subject"].astype(np.int64),
            result,
            np.ma.filled(found["offset_days"], -np.inf),
            number,
            raw,
            found["rank"].astype(np.int64),
            cell,
            fate,
        )
        self._account(rows)
        return rows

    def _scaled(
        self, raw: Floats, empty: Bools, result: Ints, scale: Floats, fate: Ints
    ) -> tuple[Floats, Ints]:
        """Convert numbers by their units' scale and judge each, as ``values.read_number`` does."""
        specs = [spec for _, spec in self._inputs]
        nowhere = (-np.inf, np.inf)
        low, high = (np.array([(s.plausible or nowhere)[end] for s in specs])[result] for end in (0, 1))
        floor, ceiling = (
            np.array([(s.limits or (np.nan, np.nan))[end] for s in specs])[result] for end in (0, 1)
        )
        with np.errstate(invalid="ignore"):
            number = np.where(scale == 1.0, raw, raw * scale) + 0.0
        number = np.where(np.isposinf(raw), ceiling, np.where(np.isneginf(raw), floor, number))
        with np.errstate(invalid="ignore"):
            implausible = (number < low) | (number > high)
        fate = np.where((fate == 0) & implausible, FATE["implausible"], fate)
        fate = np.where((fate == 0) & np.isinf(raw) & np.isnan(number), FATE["without a limit"], fate)
        fate = np.where(np.isnan(raw), FATE["unparsable"], fate)
        for place, spec in enumerate(specs):
            for word in spec.missing_codes:
                told = parse_number(word)
                if told is not None and told.value is not None:
                    empty = empty | ((result == place) & (raw == told.value))
        return number, np.where(empty, FATE["missing"], fate)

    def _account(self, rows: Rows) -> None:
        self.fates += np.bincount(rows.fate, minlength=len(FATES))
        held = rows.result[rows.fate != FATE["missing"]]
        self.readable += np.bincount(held, minlength=len(self._inputs))
        bad = np.flatnonzero((rows.fate == FATE["unparsable"]) | (rows.fate == FATE["without a unit"]))
        if not len(bad):
            return
        none = np.isnan(rows.raw[bad])
        told = np.stack([rows.result[bad], rows.cell[bad], none, np.where(none, 0.0, rows.raw[bad])])
        distinct, counts = np.unique(told, axis=1, return_counts=True)
        for (place, cell, empty, raw), count in zip(distinct.T.tolist(), counts.tolist(), strict=True):
            shown = text_of(self.cells, int(cell), np.nan if empty else raw)
            self.unread[int(place), shown] += count
            if self._fate[int(cell)] == FATE["unparsable"]:
                self.units.setdefault(int(place), set()).add(self._unit[int(cell)])


def _fate(by_time: Ints, by_cell: Ints) -> Ints:
    """Withdrawn goes before what cannot be read, that before the time, and that before the number."""
    unread = np.isin(by_cell, [FATE[fate] for fate in ("missing", "unparsable", "without a unit")])
    settled = (by_time == FATE["withdrawn"]) | ((by_time != 0) & ~unread)
    return np.where(settled, by_time, by_cell)


def stage(
    engine: Engine,
    spec: Biomarkers,
    inputs: Sequence[tuple[str, ResultSpec]],
    name: str,
    *,
    numbers: bool,
    same_day: bool,
) -> Read:
    """Fill ``candidate(subject, result, cell, value, rank, offset_days, fate)`` from ``coded`` and ``kept``.

    Args:
        engine: holds the views ``coded`` and ``kept``.
        spec: the declared block.
        inputs: the results by position.
        name: of the table, for messages.
        numbers: whether values are numbers already.
        same_day: whether results of the prediction day without a time of day were known.

    Raises:
        DataError: if times cannot be compared, or a result declares no unit but has one.
    """
    cells = _units(engine, spec, inputs) if numbers else []
    _time(engine, spec, name, numbers=numbers, same_day=same_day)
    if engine.rows("SELECT count(*) FROM candidate WHERE mixed")[0][0]:
        raise DataError(
            f"{name}: times with and without a UTC offset cannot be compared; write all the same way"
        )
    known = f"fate <> {FATE['later']}"
    if numbers:
        _refuse(engine, cells, known)
    else:
        cells = _texts(engine, spec, inputs, known)
    later = int(engine.rows(f"SELECT count(*) FROM candidate WHERE NOT ({known})")[0][0])
    some = "(list(DISTINCT subject ORDER BY subject))[:3]"
    odd = {
        place: (count, subjects)
        for place, count, subjects in engine.rows(
            f"SELECT result, count(*), {some} FROM candidate WHERE odd_date GROUP BY result ORDER BY result"
        )
    }
    return Read(
        Cells([cell.comparator for cell in cells], [cell.shown for cell in cells], numbers),
        later,
        np.zeros(len(inputs), dtype=np.int64),
        odd,
        np.array([np.nan if cell.number is None else cell.number for cell in cells], dtype=np.float64),
        np.array([FATE[cell.fate] for cell in cells], dtype=np.int64),
        [cell.unit for cell in cells],
        inputs,
    )


@dataclass(frozen=True, slots=True)
class _Cell:
    """One distinct cell; where the source keeps numbers, one distinct unit, and ``number`` is its scale."""

    number: float | None
    comparator: str
    shown: str
    fate: str
    unit: str
    refused: DataError | None = None


def _units(engine: Engine, spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]]) -> list[_Cell]:
    """Read every distinct unit into ``cell(result, unit, cell)``; a wrong one may be of later rows only."""
    found = engine.rows("SELECT DISTINCT result, unit FROM coded WHERE result >= 0 ORDER BY ALL")
    engine.put(
        "cell",
        {
            "result": ("INTEGER", [place for place, _ in found]),
            "unit": ("VARCHAR", [unit for _, unit in found]),
            "cell": ("INTEGER", range(len(found))),
        },
    )
    read = []
    for place, unit in found:
        try:
            read.append(_unit(inputs[place], spec, unit))
        except DataError as error:
            read.append(_Cell(None, "", "", "unparsable", unit, error))
    return read


def _refuse(engine: Engine, cells: Sequence[_Cell], known: str) -> None:
    refused = [number for number, cell in enumerate(cells) if cell.refused is not None]
    if refused:
        listed = ", ".join(map(str, refused))
        met = engine.rows(f"SELECT min(cell) FROM candidate WHERE {known} AND cell IN ({listed})")[0][0]
        if met is not None and (error := cells[met].refused) is not None:
            raise error


def _texts(
    engine: Engine, spec: Biomarkers, inputs: Sequence[tuple[str, ResultSpec]], known: str
) -> list[_Cell]:
    """Read every distinct cell once, and put its number in the place of its text; a later row has none."""
    found = engine.rows(f"SELECT DISTINCT result, value, unit FROM candidate WHERE {known} ORDER BY ALL")
    engine.put(
        "cell",
        {
            "result": ("USMALLINT", [row[0] for row in found]),
            "value": ("VARCHAR", [row[1] for row in found]),
            "unit": ("VARCHAR", [row[2] for row in found]),
            "cell": ("INTEGER", range(len(found))),
        },
    )
    engine.run("ALTER TABLE candidate RENAME TO written")
    engine.run(
        "CREATE TEMP TABLE candidate AS SELECT subject, result, coalesce(cell, 0)::INTEGER AS cell,"
        " NULL::DOUBLE AS value, rank, offset_days, fate, odd_date"
        " FROM written LEFT JOIN cell USING (result, value, unit)"
    )
    engine.run("DROP TABLE written")
    return [_Cell(*_cell(inputs[place], spec, text, unit), unit) for place, text, unit in found]


def _time(engine: Engine, spec: Biomarkers, name: str, *, numbers: bool, same_day: bool) -> None:
    """The table ``candidate``: rows of kept subjects and input codes, with the fate of their time."""
    instants = (
        dict(engine.rows("SELECT column_name, column_type FROM (DESCRIBE raw)"))["taken"] == "TIMESTAMP"
    )
    both = ("taken", "available")
    if instants:
        clocks = ", ".join(
            f"CAST(CAST({c} AS DATE) - DATE '1970-01-01' AS DOUBLE) AS {c}_day, epoch_us({c}) AS {c}_us,"
            f" false AS {c}_aware"
            for c in both
        )
        unread = "false"
    else:
        clocks = ", ".join(sql_clock(c, days=spec.columns.day is not None) for c in both)
        unread = " OR ".join(f"({c} <> '' AND {c}_day IS NULL)" for c in both)
    known, available = (sql_known_by(c, same_day=same_day) for c in both)
    mixed = " OR ".join(f"({c}_us IS NOT NULL AND t_us IS NOT NULL AND {c}_aware <> t_aware)" for c in both)
    undated = FATE["undated"] if spec.undated == "refuse" else 0
    odd = _sql_odd_date(days=spec.columns.day is not None)
    cell, join = (", cell.cell", "JOIN cell USING (result, unit)") if numbers else ("", "")
    engine.run(
        f"CREATE TEMP VIEW timed AS SELECT coded.*, kept.subject, t_day, t_us, t_aware, {clocks}{cell}"
        f" FROM coded JOIN kept ON coded.id = kept.id {join} WHERE result >= 0"
    )
    engine.run(
        "CREATE TEMP TABLE candidate AS SELECT subject, result::USMALLINT AS result, value,"
        f" {'cell' if numbers else 'unit'},"
        f" coalesce({mixed}, false) AS mixed, ({sql_status_rank('state')})::UTINYINT AS rank,"
        f" {sql_offset_days('taken')} AS offset_days, {odd} AS odd_date,"
        f" (CASE WHEN NOT coalesce(({known}) AND (available_day IS NULL OR {available}), true)"
        f" THEN {FATE['later']} WHEN {sql_withdrawn('state')} THEN {FATE['withdrawn']}"
        f" WHEN {unread} THEN {FATE['unparsable']} WHEN taken_day IS NULL THEN {undated}"
        f" WHEN offset_days < -days THEN {FATE['outside the window']} ELSE 0 END)::UTINYINT AS fate"
        " FROM timed",
        what=name,
    )


def _sql_odd_date(*, days: bool) -> str:
    """SQL: whether a result is dated as nobody's is: 1900-01-01 and 2100-01-01, placeholders, and beyond."""
    first, last = (date(year, 1, 1).toordinal() - date(1970, 1, 1).toordinal() for year in ODD_YEARS)
    low, high = (first - last, last - first) if days else (first, last)
    return f"coalesce(taken_day < {low} OR taken_day >= {high}, false)"


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


def _unit(named: tuple[str, ResultSpec], spec: Biomarkers, unit: str) -> _Cell:
    """Return one distinct unit: its scale, and what follows a number as shown."""
    name, result = named
    scale, _, shown, fate = _cell((name, result.model_copy(update=_ANY)), spec, "1", unit)
    return _Cell(scale, "", shown.removeprefix("1").strip(), fate, unit)


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
