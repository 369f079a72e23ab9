"""Which series of a subject is the image of a block: eligible, acquired in time, and chosen by a stated rule.

Ties end in the larger series, then in the smaller SeriesInstanceUID, so that no order of files matters.
Only what was acquired at or before the prediction time can be chosen: `nearest` and `last` are the latest of
it, `first` the earliest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medmm.cohort.moments import Moment, dicom_moment
from medmm.columns import ImageSpec
from medmm.errors import ConfigError

if TYPE_CHECKING:
    from medmm.dicom.index import SeriesEntry

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The patient axis along which the slices of an orientation are stacked."""
ABSENCE_ORDER = ("later", "undated", "multiple_patients", "several_issuers", "not_eligible", "no_series")
"""Of several reasons why a subject's series were not chosen, the one that is told: the nearest miss."""


@dataclass(frozen=True, slots=True)
class Look:
    """One series, looked at for one block.

    Attributes:
        reason: why it cannot be chosen; empty when it can.
        offset_days: relative to the prediction time, None when undated or not looked at.
        clock: the attribute its time came from.
    """

    entry: SeriesEntry
    reason: str
    offset_days: float | None = None
    clock: str = ""

    @property
    def pixels(self) -> int:
        """Rows x columns x frames of all files: the size by which `largest` and ties are decided."""
        return self.entry.rows * self.entry.columns * self.entry.frames


def acquired(entry: SeriesEntry, image: ImageSpec) -> tuple[Moment | None, str]:
    """Return when a series was acquired and which attribute says so.

    AcquisitionDateTime goes before SeriesDateTime, that before StudyDate (PS3.3 C.7.6.1, C.7.3.1, C.7.2.1);
    TimezoneOffsetFromUTC holds for a time that says no offset of its own (PS3.3 C.12.1.1.8);
    `longitudinal_offset` reads LongitudinalTemporalOffsetFromEvent (0012,0052).
    """
    if image.time == "longitudinal_offset":
        days = entry.longitudinal_offset_days
        return (None if days is None else Moment(days)), "LongitudinalTemporalOffsetFromEvent"
    for clock, text in (
        ("AcquisitionDateTime", entry.acquisition_datetime),
        ("SeriesDateTime", entry.series_datetime),
        ("StudyDate", entry.study_date),
    ):
        moment = dicom_moment(text, entry.timezone_offset)
        if moment is not None:
            return moment, clock
    return None, ""


def look(entry: SeriesEntry, image: ImageSpec, prediction: Moment | None, *, same_day: bool) -> Look:
    """Look at one series for one block.

    Where only the series or only the prediction time says its offset from UTC, their times of day cannot
    be compared (and no one can write an archive anew): the series then counts as one without a time.

    Args:
        entry: the series.
        image: the block.
        prediction: the prediction time, or None while this block is what defines it.
        same_day: whether a study of the prediction day without a time of day was known.
    """
    reason = _ineligible(entry, image)
    if reason:
        return Look(entry, reason)
    moment, clock = acquired(entry, image)
    if moment is None:
        return Look(entry, "undated" if image.undated == "refuse" or prediction is None else "")
    if prediction is None:
        return Look(entry, "", clock=clock)
    if not moment.comparable(prediction):
        moment = Moment(moment.day)
    offset = moment.offset_days(prediction)
    known = moment.known_by(prediction, same_day=same_day)
    return Look(entry, "" if known else "later", offset, clock)


def choose(looks: Iterable[Look], image: ImageSpec) -> tuple[Look, ...]:
    """Return the series that the block's rule takes: one or all of the eligible, as it says; perhaps none."""
    eligible = sorted(
        (found for found in looks if not found.reason), key=lambda found: _preference(found, image)
    )
    return tuple(eligible if image.choose == "all" else eligible[:1])


def absence(looks: Sequence[Look]) -> str:
    """Return why a subject has no image in a block."""
    reasons = {found.reason.partition(":")[0] for found in looks}
    return next((reason for reason in ABSENCE_ORDER if reason in reasons), "no_series")


def earliest_or_latest(looks: Sequence[Look], image: ImageSpec) -> tuple[Look, Moment] | None:
    """Return the series that defines the prediction time (`first` or `last`), and when that was."""
    dated = [
        (found, moment) for found in looks if not found.reason and (moment := acquired(found.entry, image)[0])
    ]
    if not dated:
        return None
    sign = 1 if image.choose == "first" else -1
    # local days of different offsets do not follow one another as their instants do
    by_instant = all(moment.aware for _, moment in dated)

    def order(item: tuple[Look, Moment]) -> tuple[float, float, int, str]:
        found, moment = item
        # of the same day, a series without a time of day counts as the day's first moment
        day = 0.0 if by_instant else sign * moment.day
        return (day, sign * (moment.instant_us or 0), -found.pixels, found.entry.series_uid)

    return min(dated, key=order)


def _preference(found: Look, image: ImageSpec) -> tuple[bool, float, int, str]:
    # undated series come last: any dated one goes before what is only assumed known
    time = found.offset_days or 0.0
    rank = {"first": time, "largest": float(-found.pixels)}.get(image.choose, -time)
    return (found.offset_days is None, rank, -found.pixels, found.entry.series_uid)


def _ineligible(entry: SeriesEntry, image: ImageSpec) -> str:
    if len(entry.patient_ids) > 1:
        return "multiple_patients"
    fits = {
        "localizer": "LOCALIZER" not in (part.upper() for part in entry.image_type),
        "burned-in annotation": entry.burned_in.upper() != "YES" or image.allow_burned_in,
        "modality": not image.modality or entry.modality.upper() == image.modality.upper(),
        "body part": not image.body_part or entry.body_part.upper() == image.body_part.upper(),
        "description": not image.description or _described(image.description, entry.description),
        "orientation": not image.orientation or _stacking_axis(entry.orientation) == AXES[image.orientation],
        "slice thickness": not image.thickness_mm or _within(entry.thickness_mm, image.thickness_mm),
    }
    return next((f"not_eligible: {what}" for what, fit in fits.items() if not fit), "")


def _described(pattern: str, description: str) -> bool:
    try:
        return re.search(pattern, description[:256], re.IGNORECASE) is not None
    except re.error as error:
        raise ConfigError(f"images: the description {pattern!r} is no regular expression ({error})") from None


def _stacking_axis(cosines: tuple[float, ...]) -> int | None:
    if len(cosines) != 6:
        return None
    row, column = cosines[:3], cosines[3:]
    normal = [
        abs(row[1] * column[2] - row[2] * column[1]),
        abs(row[2] * column[0] - row[0] * column[2]),
        abs(row[0] * column[1] - row[1] * column[0]),
    ]
    return normal.index(max(normal))


def _within(value: float | None, bounds: tuple[float, float]) -> bool:
    return value is not None and bounds[0] <= value <= bounds[1]
