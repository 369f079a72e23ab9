"""What a plan is made from: aggregates of a cohort's images, tables and counts, and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from medmm.planning.machine import Machine
from medmm.planning.measure import Seen

FEWEST = 11
"""Of fewer patients no extremes are told: they would be single patients'."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a quantity is distributed over series; ``low`` and ``high`` (5 and 95 %) are None of few."""

    low: float | None
    median: float
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values, at least one."""
        low, median, high = (float(f"{x:.4g}") for x in np.quantile(values, (0.05, 0.5, 0.95)))
        return cls(low, median, high) if len(values) >= FEWEST else cls(None, median, None)


Axes = tuple[Spread, ...]
"""One spread per axis, in the order of the array: x, y, z or row, column."""


@dataclass(frozen=True, slots=True)
class ImagePrint:
    """One image block.

    Attributes:
        modality: DICOM's (CT, MR, CR, …), the most frequent of the series.
        kind: what its numbers are.
        labels: values of a label map that are structures.
        series: that were measured or whose headers were read; 0 where none loads.
        patients: who have the image.
        matrix: voxels per axis.
        spacing_mm: per axis; empty where most series state none.
        extent_mm: of the whole image, per axis; empty without spacing.
        reach_mm: what a grid must span to hold the foreground, per axis: the box of the labels, on which a
            grid is centred, or twice the farthest of what is brighter than the background from the image's
            middle. Empty without spacing, or without foreground.
        aspect: rows divided by columns of a 2-D image; None in 3-D.
        intensities: medians over the series of their 0.5, 5, 50, 95 and 99.5 % quantiles; empty for labels.
        uptake: share of the measured series that are a PET and say what standardised uptake values need.
    """

    modality: str
    kind: Literal["intensity", "label_map"]
    labels: tuple[int, ...] = ()
    series: int = 0
    patients: int = 0
    matrix: Axes = ()
    spacing_mm: Axes = ()
    extent_mm: Axes = ()
    reach_mm: Axes = ()
    aspect: Spread | None = None
    intensities: tuple[float, ...] = ()
    uptake: float = 0.0

    @property
    def channels(self) -> int:
        """Channels that the network sees."""
        return max(1, len(self.labels))


@dataclass(frozen=True, slots=True)
class TablePrint:
    """One block of fields.

    Attributes:
        fields: inputs.
        missing: share of the cells without a value, in [0, 1].
    """

    fields: int
    missing: float


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that a plan may know of a cohort.

    Attributes:
        patients: who are trained on.
        events: those of the rarer class of the outcome; 0 where they are fewer than eleven, None where the
            outcome is not known yet or has no classes.
        images: by block.
        tables: by block.
    """

    patients: int
    events: int | None
    machine: Machine
    images: Mapping[str, ImagePrint] = field(default_factory=dict)
    tables: Mapping[str, TablePrint] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; nothing of it is about one patient."""
        return {"schema_version": 1} | asdict(self)


def events_told(count: int | None) -> int | None:
    """Return a count of events as a fingerprint holds it: 0 for fewer than :data:`FEWEST`."""
    return count if count is None or count >= FEWEST else 0


def image_print(
    seen: Sequence[Seen],
    *,
    patients: int,
    labels: Sequence[int] | None = None,
    grids: Sequence[tuple[tuple[int, ...], tuple[float, ...] | None]] = (),
) -> ImagePrint:
    """Sum up what was measured of some series of one block.

    Args:
        seen: what was measured; may be empty, when nothing loads.
        patients: who have the image.
        labels: of a declared label map, () of declared intensities; None to tell by the values.
        grids: matrix and spacing of further series whose headers alone were read.
    """
    if not seen:
        return ImagePrint("", "label_map" if labels else "intensity", tuple(labels or ()), patients=patients)
    sizes = [len(one.matrix) for one in seen]
    axes = max(sorted(set(sizes)), key=sizes.count)  # where 2-D and 3-D tie, 2-D: it loads faster
    own = [one for one in seen if len(one.matrix) == axes]
    all_grids = [grid for grid in grids if len(grid[0]) == axes] or [(s.matrix, s.spacing_mm) for s in own]
    found = _labels(own) if labels is None else tuple(labels)
    modalities = sorted(one.modality for one in own)
    spaced = [(matrix, mm) for matrix, mm in all_grids if mm]
    stated = 2 * len(spaced) > len(all_grids)
    reaches = [one.reach_mm for one in own if one.reach_mm]
    return ImagePrint(
        modality=max(modalities, key=modalities.count),
        kind="label_map" if found else "intensity",
        labels=found,
        series=len(all_grids),
        patients=patients,
        matrix=_axes([matrix for matrix, _ in all_grids]),
        spacing_mm=_axes([mm for _, mm in spaced]) if stated else (),
        extent_mm=_axes([_product(matrix, mm) for matrix, mm in spaced]) if stated else (),
        reach_mm=_axes(reaches) if stated and reaches else (),
        aspect=Spread.of([matrix[0] / matrix[1] for matrix, _ in all_grids]) if axes == 2 else None,
        intensities=() if found else _quantiles(own),
        uptake=round(sum(one.uptake for one in own) / len(own), 3),
    )


def _labels(seen: Sequence[Seen]) -> tuple[int, ...]:
    """Return the values of a label map, if every series has few values and some is not background."""
    if not all(one.values for one in seen):
        return ()
    values = sorted({value for one in seen for value in one.values})
    whole = all(float(value).is_integer() for value in values)
    return tuple(int(value) for value in values if value) if whole and len(values) <= 12 else ()


def _quantiles(seen: Sequence[Seen]) -> tuple[float, ...]:
    return tuple(float(f"{x:.4g}") for x in np.median([one.quantiles for one in seen], axis=0))


def _axes(rows: Sequence[Sequence[float]]) -> Axes:
    return tuple(Spread.of(column) for column in zip(*rows, strict=True))


def _product(matrix: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, ...]:
    return tuple(n * mm for n, mm in zip(matrix, spacing_mm, strict=True))
