"""Inline SVG from small functions: every text is escaped, every picture has a role and a title."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from medmm.report.wording import plain


def tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return one element; ``stroke_width`` becomes ``stroke-width``, ``class_`` becomes ``class``.

    Args:
        name: the element's name.
        *children: text (escaped) or markup.
        **attributes: values are escaped; numbers are written with two decimals at most.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
    )
    inside = Markup("").join(escape(_safe(child)) for child in children)
    return Markup("<{}{}>{}</{}>").format(name, written, inside, name)


def picture(title: str, *children: str, **attributes: str | float) -> Markup:
    """Return an ``<svg>`` that a screen reader announces by its title."""
    return tag("svg", tag("title", title), *children, role="img", **attributes)


def middle(*children: str) -> Markup:
    """Return children whose heights count from the middle of a picture of any height."""
    return tag("svg", *children, y="50%", overflow="visible")


def percent_of(share: float) -> str:
    """Return a share 0 … 1 as an SVG percentage, so that a picture stretches and its text does not."""
    return f"{100 * share:.2f}%"


def path(points: Iterable[tuple[float, float]], **attributes: str | float) -> Markup:
    """Return a polyline through the points."""
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), **attributes)


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return round numbers within ``[low, high]``, at most about ``count`` steps apart."""
    span = high - low
    if span <= 0:
        return (low,)
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(place * step, 10) for place in range(first, last + 1))


def spaced(ticks: Sequence[tuple[float, str]], apart: float) -> tuple[tuple[float, str], ...]:
    """Return the ticks, left to right, that stand at least ``apart`` from the last one kept."""
    kept: list[tuple[float, str]] = []
    for place, label in sorted(ticks):
        if 0 <= place <= 1 and (not kept or place - kept[-1][0] >= apart):
            kept.append((place, label))
    return tuple(kept)


def _safe(child: str) -> str:
    return child if isinstance(child, Markup) else plain(child)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return _safe(value)
    return f"{value:.2f}".rstrip("0").rstrip(".")
