"""Numbers, units and times as a reader meets them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate

MINUS = "\u2212"
NARROW = "\u202f"
NOT_RECORDED = "not recorded"

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, bidirectional overrides (they reorder the text after them) and lone surrogates."""

_POWER = re.compile(r"(?<=[a-zA-Z])[23](?![0-9])")
"""An exponent of UCUM, as in "cm2"."""

_UNITS = {
    "a": "years",
    "mo": "months",
    "d": "days",
    "h": "h",
    "1": "",
    "%": "%",
    "Cel": "°C",
    "[degF]": "°F",
    "mm[Hg]": "mmHg",
    "{score}": "points",
    "10*9/L": "10⁹/L",
    "10*12/L": "10¹²/L",
    "10*3/uL": "10³/µL",
    "10*6/uL": "10⁶/µL",
    "mL/min/{1.73_m2}": "mL/min/1.73 m²",
    "mL/min/1.73.m2": "mL/min/1.73 m²",
    "kg/m2": "kg/m²",
}


def plain(text: str) -> str:
    """Return text in which every unprintable or text-reordering character is shown as "�"."""
    return _UNPRINTABLE.sub("\ufffd", text)


def whole(probability: float) -> int:
    """Return a probability as patients of 100, rounded half up: the one rounding of every page."""
    return math.floor(100 * probability + 0.5)


def of_100(probability: float) -> str:
    """Return a risk in words: "34 of 100", never finer, since no risk is known to 0.1 %."""
    return f"{count_of_100(probability)} of 100"


def count_of_100(probability: float) -> str:
    """Return "34", "fewer than 1" or "more than 99"."""
    rounded = whole(probability)
    if rounded == 0:
        return "fewer than 1"
    if rounded == 100:
        return "more than 99"
    return str(rounded)


def against_rate(probability: float, rate: float) -> str:
    """Return how a risk compares with the cohort's rate, as rounded numbers show it."""
    difference = whole(probability) - whole(rate)
    if abs(difference) <= 1:
        return "about the same as"
    return "higher than" if difference > 0 else "lower than"


def signed(value: float, decimals: int = 2) -> str:
    """Return "+0.52", "−0.52" or "0.00"."""
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def number(value: float, decimals: int = 2) -> str:
    """Return a number with a true minus sign."""
    text = f"{value:.{decimals}f}".replace("inf", "∞")
    return text.replace("-", MINUS) if "∞" in text or float(text) else text.lstrip("-")


def odds_ratio(log_odds: float) -> str:
    """Return e to the log-odds as a factor: "× 1.68"."""
    if log_odds > 6:
        return "× > 400"
    if log_odds < -6:
        return "× < 0.0025"
    factor = math.exp(log_odds)
    return f"× {factor:.2f}" if factor < 10 else f"× {factor:.0f}"


def percent(share: float) -> str:
    """Return "3.1 %" below ten percent, "42 %" above."""
    points = 100 * share
    return f"{number(points, 1 if abs(points) < 10 else 0)}{NARROW}%"


def thousands(count: int) -> str:
    """Return a count with a narrow space between groups of three digits."""
    return f"{count:,}".replace(",", NARROW)


def interval(estimate: Estimate, decimals: int = 2) -> str:
    """Return "0.66 to 0.76", or empty when the interval is not known."""
    if not (math.isfinite(estimate.lower) and math.isfinite(estimate.upper)):
        return ""
    return f"{number(estimate.lower, decimals)} to {number(estimate.upper, decimals)}"


def estimated(estimate: Estimate | None, decimals: int = 2) -> str:
    """Return "0.71 (0.66 to 0.76)", without a bracket where there is no interval, "–" for nothing."""
    if estimate is None or not math.isfinite(estimate.value):
        return "–"
    inside = interval(estimate, decimals)
    return number(estimate.value, decimals) + (f" ({inside})" if inside else "")


def unit_text(unit: str) -> str:
    """Return a UCUM unit as people write it; an unknown one stays as it is but for its powers."""
    raised = _POWER.sub(lambda found: "²" if found[0] == "2" else "³", unit)
    return _UNITS.get(unit, raised.replace("ug", "µg").replace("uL", "µL").replace("umol", "µmol"))


def with_unit(value: str, unit: str) -> str:
    """Return a value followed by its unit; words ("not recorded") get none."""
    text = unit_text(unit)
    if not text or not value or value == NOT_RECORDED:
        return value
    return f"{value}{NARROW}%" if text == "%" else f"{value} {text}"


def when(offset_days: float | None, *, undated: bool = False) -> str:
    """Return "3 days before", "11 minutes before", "same day", "UNDATED"; without a time an en dash."""
    if undated:
        return "UNDATED"
    if offset_days is None:
        return "–"
    if offset_days == 0:
        return "same day"
    side = "before" if offset_days < 0 else "after"
    days = abs(offset_days)
    minutes = max(1, round(24 * 60 * days))
    if minutes < 60:
        return f"{_counted(minutes, 'minute')} {side}"
    if days < 1:
        return f"{_counted(round(24 * days), 'hour')} {side}"
    return f"{_counted(round(days), 'day')} {side}"


def moment(time: str) -> str:
    """Return an ISO 8601 time to the minute, in UTC; a time without a zone is taken as UTC."""
    found = datetime.fromisoformat(time)
    known = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return f"{known:%Y-%m-%d %H:%M} UTC"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def adding_up(values: Sequence[float], total: float, decimals: int = 2) -> tuple[float, ...]:
    """Return the values rounded so that they add up to the rounded total (largest remainders).

    Each result is one of the two neighbours of its value whenever the values add up to the total.

    Args:
        values: what is to be printed.
        total: what the printed numbers must add up to; it is rounded first.
        decimals: digits after the point.
    """
    scale = 10**decimals
    floors = [math.floor(value * scale) for value in values]
    # Rounded as it is printed: 0.025 prints as 0.03, while 2.5 rounds to 2.
    left = round(round(total, decimals) * scale) - sum(floors)
    if not values:
        return ()
    everyone, some = divmod(left, len(values))
    remainders = [value * scale - low for value, low in zip(values, floors, strict=True)]
    order = sorted(range(len(values)), key=lambda place: -remainders[place])
    raised = set(order[:some])
    return tuple((low + everyone + (place in raised)) / scale for place, low in enumerate(floors))
