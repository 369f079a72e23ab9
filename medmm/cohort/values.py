"""One recorded cell, read: value, comparator, limit and flag; or the reason why it has none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medmm.columns import MISSING, FieldSpec, Range, Status, Value

_NUMBER = re.compile(
    r"(?P<comparator><=|>=|<|>|≤|≥)?\s*"
    r"(?P<number>[+-]?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?)"
    r"(?:\s*(?P<flag>HH|LL|H|L|N|A|\*{1,2}|\([HLNA]\)|\[[HLNA]\]))?"
)
_SIGNS = {"≤": "<=", "≥": ">="}
_INFINITE = {"inf": ">", "+inf": ">", "infinity": ">", "-inf": "<", "-infinity": "<"}
FLAG_WORDS = frozenset({"yes", "no", "true", "false", "1", "0", "y", "n", "t", "f", "1.0", "0.0"})
"""The words a field of kind `flag` may hold, in any case."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as recorded.

    Attributes:
        value: the number, or the limit when there is a comparator; None when the limit is unknown.
        comparator: "", "<", "<=", ">" or ">=".
        flag: the laboratory's mark ("H", "L", …), or "".
    """

    value: float | None
    comparator: str = ""
    flag: str = ""


def parse_number(text: str) -> Number | None:
    """Read a number as laboratories write it; None when it cannot be read.

    >>> parse_number("<0.01")
    Number(value=0.01, comparator='<', flag='')
    >>> parse_number("1,234")
    Number(value=1234.0, comparator='', flag='')
    >>> parse_number("5.0 H")
    Number(value=5.0, comparator='', flag='H')
    >>> parse_number("-inf")
    Number(value=None, comparator='<', flag='')
    >>> parse_number("1,5") is None and parse_number("0,875") is None
    True
    """
    text = text.strip()
    if text.lower() in _INFINITE:
        return Number(None, _INFINITE[text.lower()])
    found = _NUMBER.fullmatch(text)
    if found is None or not any(character.isdigit() for character in found["number"]):
        return None
    number = found["number"]
    if number.lstrip("+-")[:1] in ("e", "E") or number.lstrip("+-").startswith((".e", ".E")):
        return None
    value = float(number.replace(",", ""))
    if value in (float("inf"), float("-inf")):
        return None
    comparator = found["comparator"] or ""
    return Number(value, _SIGNS.get(comparator, comparator), (found["flag"] or "").strip("()[]"))


def plausible(value: float, bounds: Range | None) -> bool:
    """Whether a value lies within its bounds, both included."""
    return bounds is None or bounds[0] <= value <= bounds[1]


def read_number(text: str, bounds: Range | None, limits: Range | None = None, scale: float = 1.0) -> Value:
    """Read a number into the declared unit, checked for plausibility.

    Args:
        text: the cell.
        bounds: plausible values, in the declared unit.
        limits: limits of detection in the declared unit, for a comparator without one.
        scale: what the recorded number is multiplied by.
    """
    number = parse_number(text)
    if number is None:
        return Value(None, Status.UNPARSABLE, text)
    value = number.value
    if value is None:
        if limits is None:
            return Value(None, Status.MISSING, text, number.comparator)
        value = limits[0] if number.comparator == "<" else limits[1]
    else:
        # 1.0 is left out so that a unit that needs no conversion changes no bit, not even of -0.0
        value = value * scale if scale != 1.0 else value
    if not plausible(value, bounds):
        return Value(None, Status.IMPLAUSIBLE, text, number.comparator)
    return Value(value + 0.0, Status.KNOWN, text, number.comparator)


def read_field(text: str | None, field: FieldSpec) -> Value:
    """Read one cell of a wide table as its field declares."""
    text = (text or "").strip()
    if not text or text in field.missing_codes:
        return MISSING
    if field.kind == "number":
        return read_number(text, field.plausible)
    known = {
        "ordinal": lambda: text in field.levels,
        "category": lambda: not field.levels or text in field.levels,
        "flag": lambda: text.lower() in FLAG_WORDS,
    }.get(field.kind, lambda: True)()
    return Value(text, Status.KNOWN, text) if known else Value(None, Status.UNPARSABLE, text)
