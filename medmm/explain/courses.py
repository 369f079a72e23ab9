"""A course of results and a patient's notes, as a page shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medmm.columns import ResultSpec
from medmm.report.patient import UsedField
from medmm.report.waterfall import PlayerText
from medmm.report.wording import with_unit
from medmm.sample import NotesSource, TimedSeries

Results = Mapping[str, ResultSpec]


def results_used(course: TimedSeries, declared: Results) -> tuple[UsedField, ...]:
    """Return one line per code that the course has: how many results, and the newest one."""
    return tuple(
        UsedField(
            label=f"{spec.label or name}, {_counted(course, name)}",
            recorded=_newest(course, name),
            value=_newest(course, name),
            unit=spec.unit or "",
            offset_days=course.offset_days[_places(course, name)[-1]],
        )
        for name, spec in declared.items()
        if _places(course, name)
    )


def results_missing(course: TimedSeries, declared: Results) -> tuple[str, ...]:
    """Return the labels of the codes that the course lacks."""
    return tuple(spec.label or name for name, spec in declared.items() if not _places(course, name))


def results_player(course: TimedSeries, name: str, spec: ResultSpec) -> PlayerText:
    """Return one code as a player of a waterfall."""
    reference = f"{spec.reference[0]:g} – {spec.reference[1]:g}" if spec.reference else ""
    if not _places(course, name):
        return PlayerText(label=spec.label or name, value="not recorded", reference=reference)
    said = f"{_counted(course, name)}, newest {with_unit(_newest(course, name), spec.unit or '')}"
    return PlayerText(label=spec.label or name, value=said, reference=reference)


def newest_number(course: TimedSeries, name: str) -> float:
    """Return the newest result of a code, NaN where there is none."""
    places = _places(course, name)
    return course.value[places[-1]] if places else math.nan


def notes_used(notes: NotesSource) -> tuple[UsedField, ...]:
    """Return how many notes were read and when the newest was written; never their text."""
    count = len(notes.texts)
    said = f"{count} note{'s' if count > 1 else ''}"
    return (
        UsedField(
            label="Notes",
            recorded=said,
            value=said,
            offset_days=notes.as_of_days,
            undated=bool(notes.undated),
        ),
    )


def _places(course: TimedSeries, name: str) -> list[int]:
    own = course.names.index(name) if name in course.names else -1
    return [place for place, code in enumerate(course.code) if code == own]


def _counted(course: TimedSeries, name: str) -> str:
    count = len(_places(course, name))
    return f"{count} result{'s' if count > 1 else ''}"


def _newest(course: TimedSeries, name: str) -> str:
    place = _places(course, name)[-1]
    return f"{course.comparator[place]}{course.value[place]:g}"
