"""A starter catalogue of laboratory tests: code, names, unit, ranges and molar mass, each with its source.

cohort.yaml inherits from it what it leaves out: `catalogue: sodium`, or just `code: 2951-2`. It is read when
a cohort.yaml is read and at no other time: a bundle keeps what it was trained with. The figures and their
sources stand in catalogue.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from medmm.errors import ConfigError, DataError
from medmm.units import factor

Pair = tuple[float, float]
DIGITS = 6
"""Significant digits of a range that was converted to another unit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One laboratory test.

    Attributes:
        key: its name in the catalogue.
        code: LOINC.
        also: LOINC codes of the same analyte by another property, method or specimen.
        in_units: of these, the unit of each that counts in another one, such as an amount of substance.
        label: in English.
        label_zh: in Chinese.
        unit: UCUM.
        units: other units that laboratories report, convertible.
        names: names of columns by which it is recognised.
        formula: chemical formula that the molar mass follows from, or "".
        molar_mass_g_per_mol: or None.
        plausible: in ``unit``, or None.
        reference: of adults, in ``unit``, or None.
        sources: of the ranges, by "plausible" and "reference".
    """

    key: str
    code: str
    also: tuple[str, ...]
    in_units: Mapping[str, str]
    label: str
    label_zh: str
    unit: str
    units: tuple[str, ...]
    names: tuple[str, ...]
    formula: str
    molar_mass_g_per_mol: float | None
    plausible: Pair | None
    reference: Pair | None
    sources: Mapping[str, str]

    def unit_of(self, code: str | None) -> str:
        """Return the unit that a code of this test counts in; ``unit`` for any other word."""
        return self.in_units.get((code or "").strip(), self.unit)

    def range_in(self, which: str, unit: str) -> Pair | None:
        """Return the "plausible" or "reference" range in another unit; None where there is none.

        Raises:
            DataError: if the unit does not measure the same thing.
        """
        found: Pair | None = getattr(self, which)
        if found is None or unit == self.unit:
            return found
        times = factor(self.unit, unit, molar_mass_g_per_mol=self.molar_mass_g_per_mol)
        low, high = (float(f"{value * times:.{DIGITS}g}") for value in found)
        return low, high


@cache
def entries() -> Mapping[str, Entry]:
    """Return every test, by key."""
    return {key: _entry(key, values) for key, values in _file()["tests"].items()}


@cache
def sources() -> Mapping[str, str]:
    """Return where figures come from, by the word that an entry names."""
    return dict(_file()["sources"])


def by_code(code: str) -> Entry | None:
    """Return the test of a LOINC code, or None."""
    return _codes().get(code.strip())


def by_name(name: str) -> Entry | None:
    """Return the test that a column or a word names ("Hgb", "serum_sodium"), or None."""
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    for tried in (word, re.sub(r"^(serum|plasma|blood|s|p|b)_|_(serum|plasma|blood)$", "", word)):
        if tried in _names():
            return _names()[tried]
    return None


def with_catalogue(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cohort.yaml says, with what its fields and results leave out filled in.

    Raises:
        ConfigError: if `catalogue` names no test.
    """
    filled = dict(values)
    for block, part in (("records", "fields"), ("biomarkers", "results")):
        inside = values.get(block)
        declared = inside.get(part) if isinstance(inside, Mapping) else None
        if isinstance(inside, Mapping) and isinstance(declared, Mapping):
            where = f"{block}.{part}"
            columns = {
                name: _inherited(column, f"{where}.{name}", result=block == "biomarkers")
                if isinstance(column, Mapping)
                else column
                for name, column in declared.items()
            }
            filled[block] = {**inside, part: columns}
    return filled


def agreement(spec: Any) -> str:
    """Return which of a column's declarations stand in the catalogue, and from where; "" for none.

    Args:
        spec: a FieldSpec or ResultSpec with a `code`.
    """
    entry = by_code(spec.code) if spec.code else None
    if entry is None:
        return ""
    same = []
    for which in ("plausible", "reference"):
        found = getattr(spec, which)
        if found is not None and spec.unit and found == _range_or_none(entry, which, spec.unit):
            same.append(f"{which} range ({entry.sources[which]})")
    return f"{', '.join(same)} from the catalogue's {entry.key}" if same else ""


def _range_or_none(entry: Entry, which: str, unit: str) -> Pair | None:
    try:
        return entry.range_in(which, unit)
    except DataError:
        return None


def _inherited(column: Mapping[str, Any], where: str, *, result: bool) -> dict[str, Any]:
    own = {key: value for key, value in column.items() if key != "catalogue"}
    entry = _asked(column, where)
    if entry is None:
        return own
    offered: dict[str, Any] = {"label": entry.label, "label_zh": entry.label_zh}
    if not (result and "name" in own):
        offered["code"] = entry.code
    number = result or own.get("kind", "number") == "number"
    if number and own.get("role") != "never":
        code = own.get("code")
        unit = own.get("unit") or entry.unit_of(code if isinstance(code, str) else None)
        ranges = {which: _range_or_none(entry, which, unit) for which in ("plausible", "reference")}
        offered |= {"unit": unit} | {which: list(found) for which, found in ranges.items() if found}
        if result and entry.molar_mass_g_per_mol:
            offered["molar_mass_g_per_mol"] = entry.molar_mass_g_per_mol
        if not result:
            offered["kind"] = "number"
    return offered | {key: value for key, value in own.items() if value is not None}


def _asked(column: Mapping[str, Any], where: str) -> Entry | None:
    key = column.get("catalogue")
    if key is None:
        code = column.get("code")
        return by_code(code) if isinstance(code, str) else None
    if key not in entries():
        near = by_name(str(key))
        hint = f"; did you mean {near.key!r}?" if near else "; medmm/catalogue.yaml lists them"
        raise ConfigError(f"{where}.catalogue: {key!r} is no test of the catalogue{hint}")
    return entries()[key]


@cache
def _file() -> dict[str, Any]:
    text = files("medmm").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
    return loaded


@cache
def _codes() -> Mapping[str, Entry]:
    return {code: entry for entry in entries().values() for code in (entry.code, *entry.also)}


@cache
def _names() -> Mapping[str, Entry]:
    return {name: entry for entry in entries().values() for name in (entry.key, *entry.names)}


def _entry(key: str, values: Mapping[str, Any]) -> Entry:
    def pair(which: str) -> Pair | None:
        found = values.get(which)
        return None if found is None else (float(found[0]), float(found[1]))

    froms = {which: values[f"{which}_from"] for which in ("plausible", "reference") if which in values}
    return Entry(
        key,
        values["code"],
        tuple(values.get("also", ())),
        dict(values.get("in_units", {})),
        values["label"]["en"],
        values["label"]["zh"],
        values["unit"],
        tuple(values.get("units", ())),
        tuple(str(name) for name in values["names"]),
        values.get("formula", ""),
        values.get("molar_mass_g_per_mol"),
        pair("plausible"),
        pair("reference"),
        froms,
    )
