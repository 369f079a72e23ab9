"""The fingerprint of a cohort: some of its series measured in workers, its patients and fields counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmm.columns import ImageSpec, Status
from medmm.errors import DicomRefusal
from medmm.planning.fingerprint import Fingerprint, ImagePrint, TablePrint, events_told, image_print
from medmm.planning.machine import this_machine
from medmm.planning.measure import Seen, seen
from medmm.sample import Patient, SeriesSource

if TYPE_CHECKING:  # a worker that measures opens no table
    from medmm.cohort.link import Cohort
    from medmm.dicom.wanted import Wanted

MOST_MEASURED = 24
"""Series of a block whose voxels are looked at; of the rest, their grids."""

Progress = Callable[[int, int], None]
Grids = Sequence[tuple[tuple[int, ...], tuple[float, ...] | None]]
"""Matrix and spacing in mm, per series."""


def measured(
    series: Sequence[Sequence[Path]],
    *,
    labels: Sequence[int] | None = None,
    volume: Wanted | None = None,
    progress: Progress | None = None,
) -> list[Seen]:
    """Measure at most :data:`MOST_MEASURED` of some series, spread evenly, without those that do not load.

    Args:
        series: the files of each.
        labels: of a declared label map, () of declared intensities; None to tell by the values.
        volume: which one is meant of a series of several (:func:`medmm.dicom.load_files`).
        progress: called with (done, total).
    """
    from medmm.dicom.parallel import each_bounded

    chosen = spread_evenly(series)
    found = []
    for done, one in enumerate(each_bounded(partial(_measure, labels, volume), chosen, lost=_nothing), 1):
        found.append(one)
        if progress:
            progress(done, len(chosen))
    return [one for one in found if one is not None]


def spread_evenly(series: Sequence[Sequence[Path]], most: int = MOST_MEASURED) -> Sequence[Sequence[Path]]:
    """Return at most so many of some series, from the first on at even distances."""
    count = min(len(series), most)
    return [series[index * len(series) // count] for index in range(count)]


def _measure(labels: Sequence[int] | None, volume: Wanted | None, files: Sequence[Path]) -> Seen | None:
    from medmm.dicom.bag import load_bag
    from medmm.dicom.loading import load_files

    try:
        found = seen(load_files(files, volume=volume), labels)
        return found and replace(found, uptake=_states_uptake(files))
    except DicomRefusal as refusal:
        if refusal.reason not in ("multiple_volumes", "multiframe_not_spatial"):
            return None
    try:  # views of one study are often one series, and a loop is many pictures
        return seen(load_bag(files, frames=1).images[0], labels)
    except DicomRefusal:
        return None


def _states_uptake(files: Sequence[Path]) -> bool:
    from medmm.dicom.suv import suv_factor

    try:
        return suv_factor(files[0]) > 0
    except DicomRefusal:
        return False


def _nothing(files: Sequence[Path]) -> None:
    """A series whose worker died is not measured."""


def fingerprint(
    cohort: Cohort,
    patients: Sequence[Patient],
    outcome: str,
    *,
    blocks: Mapping[str, str],
    grids: Mapping[str, Grids],
    progress: Callable[[str, int, int], None] | None = None,
) -> Fingerprint:
    """Return the fingerprint of the patients who are trained on.

    Args:
        outcome: whose rarer class is counted.
        blocks: of the recipe: "image", or the kind of a table of fields.
        grids: per image block, those of every patient whose series could be loaded.
        progress: called with (stage, done, total).
    """
    images: dict[str, ImagePrint] = {}
    tables: dict[str, TablePrint] = {}
    for name, kind in blocks.items():
        sources = [patient.sources.get(name) for patient in patients]
        if kind == "image":
            declared = cohort.declarations[name]
            assert isinstance(declared, ImageSpec)
            files = [source.files for source in sources if isinstance(source, SeriesSource)]
            bar = partial(progress, f"measuring {name}") if progress else None
            found = measured(files, labels=declared.labels, volume=declared.volume, progress=bar)
            images[name] = image_print(
                found, patients=len(grids[name]), labels=declared.labels, grids=grids[name]
            )
        else:
            tables[name] = _table([source for source in sources if isinstance(source, Mapping)])
    labels = [patient.targets[outcome] for patient in patients if outcome in patient.targets]
    events = events_told(rarer(cohort.spec.outcomes[outcome].kind, labels))
    return Fingerprint(len(patients), events, this_machine(), images, tables)


def _table(rows: Sequence[Mapping[str, Any]]) -> TablePrint:
    cells = [value for row in rows for value in row.values()]
    known = sum(value.status is Status.KNOWN for value in cells)
    return TablePrint(len(rows[0]) if rows else 0, round(1 - known / len(cells), 3) if cells else 1.0)


def rarer(kind: str, labels: Sequence[float]) -> int | None:
    """Return the patients of the rarest class, or those with the event; None of a quantity.

    Args:
        kind: of the outcome (:class:`~medmm.cohort.outcomes.OutcomeSpec`).
        labels: that are known; of a survival positive where the event happened.
    """
    if kind == "regression":
        return None
    if kind == "survival":
        return sum(label > 0 for label in labels)
    counts = Counter(labels).values()
    return min(counts) if len(counts) > 1 else 0
