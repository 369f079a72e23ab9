"""Units of laboratory results: UCUM, by whitelist.

The atoms of clinical laboratories and their prefixes are written down here and nothing else is accepted,
because a general UCUM parser finds a meaning for every accident: it reads "K/uL" as kelvin per microlitre.
Factors are exact fractions rounded once, so a converted value is the same on every machine, and no unit
library is loaded while a patient is scored. Source: UCUM 2.2, https://ucum.org/ucum, tables 2-8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from medmm.errors import DataError

_PREFIXES = {
    "k": 3, "h": 2, "da": 1, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15,
}  # fmt: skip
_Dimension = tuple[tuple[str, int], ...]
_ATOMS: dict[str, tuple[Fraction, dict[str, int], bool]] = {
    # atom: (size in the base unit of its dimension, dimension, whether it takes a prefix)
    "g": (Fraction(1), {"mass": 1}, True),
    "mol": (Fraction(1), {"substance": 1}, True),
    "osm": (Fraction(1), {"osmole": 1}, True),
    "eq": (Fraction(1), {"equivalent": 1}, True),
    "m": (Fraction(1), {"length": 1}, True),
    "L": (Fraction(1, 1000), {"length": 3}, True),
    "l": (Fraction(1, 1000), {"length": 3}, True),
    "s": (Fraction(1), {"time": 1}, True),
    "min": (Fraction(60), {"time": 1}, False),
    "h": (Fraction(3600), {"time": 1}, False),
    "d": (Fraction(86400), {"time": 1}, False),
    "wk": (Fraction(7 * 86400), {"time": 1}, False),
    "mo": (Fraction(86400 * 1461, 48), {"time": 1}, False),
    "a": (Fraction(86400 * 1461, 4), {"time": 1}, False),
    "Pa": (Fraction(1), {"pressure": 1}, True),
    "m[Hg]": (Fraction(133322), {"pressure": 1}, True),
    "m[H2O]": (Fraction(980665, 100), {"pressure": 1}, True),
    "bar": (Fraction(100000), {"pressure": 1}, True),
    "U": (Fraction(1), {"enzyme": 1}, True),
    "[iU]": (Fraction(1), {"international": 1}, True),
    "[IU]": (Fraction(1), {"international": 1}, True),
    "[arb'U]": (Fraction(1), {"arbitrary": 1}, False),
    "[pH]": (Fraction(1), {"pH": 1}, False),
    "Cel": (Fraction(1), {"celsius": 1}, False),
    "%": (Fraction(1, 100), {}, False),
    "[ppth]": (Fraction(1, 1000), {}, False),
    "[ppm]": (Fraction(1, 10**6), {}, False),
}
_MICRO = str.maketrans({"\u00b5": "u", "\u03bc": "u"})
"""The micro sign and the Greek letter mean micro and nothing else; UCUM writes it u."""
_TERM = re.compile(r"(?P<atom>[^0-9{}+-][^0-9{}+]*?|10[*^]|)(?P<exponent>[+-]?[0-9]+)?(?:\{[^{}]*\})?")
_MOLAR = {"substance": -1, "mass": 1}


@dataclass(frozen=True, slots=True)
class _Unit:
    size: Fraction
    dimension: Mapping[str, int]


@lru_cache(maxsize=4096)
def factor(recorded: str, declared: str, *, molar_mass_g_per_mol: float | None = None) -> float:
    """Return what a number in ``recorded`` is multiplied by to be in ``declared``.

    Args:
        recorded: UCUM unit of the source.
        declared: UCUM unit of the cohort.
        molar_mass_g_per_mol: of the analyte; needed between mass and amount of substance.

    Raises:
        DataError: if a unit is not one that medmm knows, or the two do not measure the same thing.

    >>> factor("ug/L", "ng/mL")
    1.0
    >>> factor("µmol/L", "umol/L")
    1.0
    >>> round(factor("mmol/L", "mg/dL", molar_mass_g_per_mol=180.156), 4)
    18.0156
    """
    if recorded == declared:
        return 1.0
    source, target = _parse(recorded), _parse(declared)
    if _normalisations(recorded) != _normalisations(declared):
        raise DataError(
            f"{recorded!r} and {declared!r} are normalised differently; map one under `biomarkers.units`"
        )
    ratio = source.size / target.size
    difference = _difference(source.dimension, target.dimension)
    if not difference:
        return float(ratio)
    if difference in (_MOLAR, {name: -power for name, power in _MOLAR.items()}):
        if molar_mass_g_per_mol is None:
            raise DataError(
                f"between {recorded!r} and {declared!r} stands the analyte's molar mass;"
                " declare molar_mass_g_per_mol"
            )
        mass = Fraction(repr(molar_mass_g_per_mol))
        return float(ratio * mass if difference == _MOLAR else ratio / mass)
    raise DataError(f"{recorded!r} and {declared!r} do not measure the same thing; check the unit column")


def _normalisations(unit: str) -> list[str]:
    # UCUM gives an annotation no meaning, but mL/min and mL/min/{1.73_m2} are different quantities
    return sorted(found for found in re.findall(r"\{([^{}]*)\}", unit) if any(c.isdigit() for c in found))


def spelt(unit: str) -> str:
    """Return a unit with its micro as UCUM writes it: "µmol/L" is "umol/L"."""
    return unit.translate(_MICRO)


def check_unit(unit: str) -> None:
    """Check that a declared unit is one that results can be converted to.

    Raises:
        DataError: if it is not on the whitelist.
    """
    _parse(unit)


def is_unit(text: str) -> bool:
    """Tell whether results can be converted to a unit (:func:`check_unit`)."""
    try:
        check_unit(text)
    except DataError:
        return False
    return True


def _difference(source: Mapping[str, int], target: Mapping[str, int]) -> dict[str, int]:
    """What must be multiplied onto ``source`` to have the dimension of ``target``."""
    powers = {name: target.get(name, 0) - source.get(name, 0) for name in {*source, *target}}
    return {name: power for name, power in powers.items() if power}


@lru_cache(maxsize=1024)
def _parse(text: str) -> _Unit:
    size, dimension = Fraction(1), dict[str, int]()
    text = spelt(text)
    # UCUM reads left to right: in "a/b.c" the c is in the numerator again
    for operator, term in re.findall(r"(^|[./])([^./{}]*(?:\{[^{}]*\})?)", text):
        sign = -1 if operator == "/" else 1
        term_size, term_dimension, exponent = _term(term, text)
        size *= term_size ** (sign * exponent)
        for name, power in term_dimension.items():
            dimension[name] = dimension.get(name, 0) + sign * exponent * power
    return _Unit(size, {name: power for name, power in dimension.items() if power})


def _term(term: str, text: str) -> tuple[Fraction, Mapping[str, int], int]:
    found = _TERM.fullmatch(term)
    if found is None or (not term and text[:1] != "/"):
        raise _unknown(text)
    atom, exponent = found["atom"], int(found["exponent"] or 1)
    if not atom:
        return Fraction(exponent), {}, 1  # a plain number, or an annotation alone: "1", "{score}"
    if atom in ("10*", "10^"):
        return Fraction(10), {}, exponent
    if atom in _ATOMS:
        size, dimension, _ = _ATOMS[atom]
        return size, dimension, exponent
    for prefix, power in _PREFIXES.items():
        size, dimension, prefixed = _ATOMS.get(atom.removeprefix(prefix), (Fraction(0), {}, False))
        if atom.startswith(prefix) and prefixed:
            return size * Fraction(10) ** power, dimension, exponent
    raise _unknown(text)


def _unknown(text: str) -> DataError:
    return DataError(
        f"the unit {text[:40]!r} is not one that medmm knows (UCUM, case matters); write what is meant under"
        " `units:`, as in {K/uL: 10*3/uL}"
    )
