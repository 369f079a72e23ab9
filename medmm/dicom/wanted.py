"""Which volume of a series is meant, by the elements that tell its volumes apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmm.columns import VolumeElement
from medmm.dicom.header import read_header
from medmm.dicom.planes import NAMED, SPLITTING
from medmm.dicom.series import Plan, plan_series
from medmm.errors import DicomRefusal

Wanted = Mapping[VolumeElement, float | tuple[float, float] | str]
"""Per element of :data:`~medmm.dicom.planes.SPLITTING`: a number, the ends of a range, or a word."""

SAME_NUMBER = 0.01
"""Relative difference of a number from the one that is wanted; scanners round nominal values."""
MOST_TOLD = 8
"""Values of an element that a refusal lists."""


def one_volume(plans: Sequence[Plan], wanted: Wanted | None) -> Plan:
    """Return the one volume, image or waveform of a series that is meant.

    Args:
        plans: what the series becomes, at least one.
        wanted: the values that every plane of the volume has; None or empty for the only one.

    Raises:
        DicomRefusal: ``multiple_volumes`` if several are meant, ``no_volume`` if none has these values.
    """
    meant = [plan for plan in plans if _is(plan, wanted or {})]
    if len(meant) == 1:
        return meant[0]
    asked = ", ".join(f"{name} {value}" for name, value in (wanted or {}).items())
    if not meant:
        raise DicomRefusal("no_volume", f"none of {len(plans)} volumes has {asked}{_told(plans)}")
    having = f" with {asked}" if asked else ""
    raise DicomRefusal(
        "multiple_volumes", f"{len(meant)} volumes or images{having} in one series{_told(meant)}"
    )


def volumes_of(paths: Sequence[Path]) -> dict[VolumeElement, tuple[float | str, ...]]:
    """Return what tells the volumes of a series apart, and its values in order; empty for one volume.

    Args:
        paths: the files of one series.
    """
    try:
        plans = plan_series([read_header(path) for path in paths]).plans
    except DicomRefusal:
        return {}
    if len(plans) < 2 or any(plan.kind != "volume" for plan in plans):
        return {}
    found = {name: values for name in _names(plans) if (values := _values(plans, name))}
    return {
        name: tuple(
            int(v) if isinstance(v, float) and v.is_integer() else v for v in values if v not in (None, "")
        )
        for name, values in found.items()
        if not any(isinstance(v, tuple) for v in values)
    }


def _is(plan: Plan, wanted: Wanted) -> bool:
    if wanted and not plan.planes:
        return False
    return all(
        _fits(plane.traits[SPLITTING.index(name)], value)
        for name, value in wanted.items()
        for plane in plan.planes
    )


def _fits(found: Any, wanted: float | tuple[float, float] | str) -> bool:
    if isinstance(wanted, str):
        words = found if isinstance(found, tuple) else (found,)
        return wanted.upper() in {str(word).upper() for word in words}
    number = _number(found)
    if number is None:
        return False
    low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    room = 0.0 if isinstance(wanted, tuple) else SAME_NUMBER * abs(wanted)
    return low - room <= number <= high + room


def _number(found: Any) -> float | None:
    try:
        return float(found)
    except (TypeError, ValueError):
        return None


def _told(plans: Sequence[Plan]) -> str:
    """Return which elements tell the volumes apart, and their values; "" where none does."""
    parts = []
    for name in _names(plans):
        values = _values(plans, name)
        listed = ", ".join(_word(value) for value in values[:MOST_TOLD])
        parts.append(f"{name} ({listed}{', …' if len(values) > MOST_TOLD else ''})")
    return f", told apart by {' and '.join(parts)}" if parts else ""


def _names(plans: Sequence[Plan]) -> list[VolumeElement]:
    told = {name for plan in plans for name in plan.told_apart_by}
    return [name for name in NAMED if name in told]


def _values(plans: Sequence[Plan], name: str) -> list[Any]:
    found = {plan.planes[0].traits[SPLITTING.index(name)] for plan in plans if plan.planes}
    return sorted(found, key=lambda value: (_number(value) is None, _number(value) or 0.0, str(value)))


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "\\".join(map(str, value)) if isinstance(value, tuple) else str(value or "none")
