"""Which mask goes with a chosen series: drawn on it, of the wanted structures, and in time.

A contour drawn after the prediction time may know what happened since. So a mask counts like any other
source, by when it was drawn, unless the cohort says why it could not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medmm.cohort.moments import Moment, dicom_moment
from medmm.columns import MaskSpec

if TYPE_CHECKING:
    from medmm.dicom.index import MaskEntry


@dataclass(frozen=True, slots=True)
class MaskLook:
    """One mask that names the chosen series, looked at.

    Attributes:
        reason: why it cannot be taken ("not_eligible: structures", "later", "undated"); empty when it can.
        offset_days: when it was drawn, relative to the prediction time; None when undated.
        drawn: as (day, microseconds), for the order; the undated are the oldest.
    """

    entry: MaskEntry
    reason: str
    offset_days: float | None = None
    drawn: tuple[float, int] = (float("-inf"), 0)


def look_at_masks(
    entries: Iterable[MaskEntry], spec: MaskSpec, prediction: Moment, *, same_day: bool
) -> tuple[MaskLook, ...]:
    """Look at every mask that was drawn on one series."""
    return tuple(_look(entry, spec, prediction, same_day) for entry in entries)


def choose_mask(looks: Sequence[MaskLook]) -> MaskLook | None:
    """Return the mask drawn last, of equals that of the smaller SOPInstanceUID; None when none can be."""
    eligible = [found for found in looks if not found.reason]
    if not eligible:
        return None
    last = max(found.drawn for found in eligible)
    return min((found for found in eligible if found.drawn == last), key=lambda found: found.entry.sop_uid)


def _look(entry: MaskEntry, spec: MaskSpec, prediction: Moment, same_day: bool) -> MaskLook:
    if spec.kind and entry.reference.kind != spec.kind:
        return MaskLook(entry, "not_eligible: kind")
    held = [name.casefold() for name in entry.reference.structures]
    if any(held.count(name.casefold()) != 1 for name in spec.structures):
        return MaskLook(entry, "not_eligible: structures")
    moment = dicom_moment(entry.drawn_datetime, entry.timezone_offset)
    if moment is None:
        return MaskLook(entry, "undated" if spec.late == "refuse" else "")
    order = (moment.day, moment.instant_us or 0)
    if not moment.comparable(prediction):
        moment = Moment(moment.day)
    offset = moment.offset_days(prediction)
    in_time = spec.late != "refuse" or moment.known_by(prediction, same_day=same_day)
    return MaskLook(entry, "" if in_time else "later", offset, order)
