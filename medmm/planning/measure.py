"""What one loaded series says for the plan: its grid, where its foreground lies, its intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medmm.arrays import Array, Bools
    from medmm.dicom.volume import Volume

QUANTILES = (0.005, 0.05, 0.5, 0.95, 0.995)
FEW_VALUES = 12
"""An image of no more different values than this is a label map, not a measurement."""
MOST_VALUES = 1 << 20
"""Of a larger image every n-th value is looked at."""
BODY_HU = -500.0
"""Half way from air (-1000 HU) to water (0 HU): what lies above is body."""
ABOVE_BACKGROUND = 0.1
"""Share of the range of a scan without a scale of its own at which foreground begins."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One series.

    Attributes:
        modality: DICOM's.
        matrix: voxels per axis.
        spacing_mm: per axis; None where the series states none.
        reach_mm: what a grid must span to hold the foreground, per axis (see
            :class:`~medmm.planning.fingerprint.ImagePrint`); None without spacing or foreground.
        values: the different values, where there are at most :data:`FEW_VALUES`.
        quantiles: of the intensities that are no padding, at :data:`QUANTILES`.
        uptake: whether it is a PET that says what standardised uptake values need.
    """

    modality: str
    matrix: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    reach_mm: tuple[float, ...] | None
    values: tuple[float, ...]
    quantiles: tuple[float, ...]
    uptake: bool = False


def seen(volume: Volume, labels: Sequence[int] | None = None) -> Seen | None:
    """Return what a volume says; None where every pixel is padding.

    Args:
        labels: of a declared label map, () of declared intensities; None to tell by the values.
    """
    matrix = tuple(volume.valid.shape)
    gray: Array = volume.array if volume.array.ndim == len(matrix) else volume.array.mean(axis=-1)
    inside = gray.reshape(-1) if volume.valid.all() else gray[volume.valid]
    if not inside.size:
        return None
    values = _few(inside)
    is_map = bool(values) if labels is None else bool(labels)
    sampled = inside[:: _stride(inside)].astype(np.float64)
    quantiles = tuple(map(float, np.quantile(sampled, QUANTILES)))
    if is_map:
        structures = [value for value in values if value] if labels is None else labels
        reach = _box(np.isin(gray, structures) & volume.valid)
    else:
        reach = _about_the_middle(
            np.greater(gray, _threshold(volume.summary.modality, quantiles)) & volume.valid
        )
    spacing = None if volume.spacing_mm is None else tuple(map(float, volume.spacing_mm))
    known = spacing is not None and reach is not None
    reach_mm = tuple(n * mm for n, mm in zip(reach or (), spacing or (), strict=True)) if known else None
    return Seen(volume.summary.modality, matrix, spacing, reach_mm, values, quantiles)


def _few(inside: Array) -> tuple[float, ...]:
    """Return the different values, or () where they are more than :data:`FEW_VALUES`."""
    if np.unique(inside[:: _stride(inside)]).size > FEW_VALUES:
        return ()
    values = np.unique(inside)
    return tuple(map(float, values)) if values.size <= FEW_VALUES else ()


def _stride(inside: Array) -> int:
    return max(1, inside.size // MOST_VALUES)


def _threshold(modality: str, quantiles: tuple[float, ...]) -> float:
    if modality == "CT":
        return BODY_HU
    return quantiles[0] + ABOVE_BACKGROUND * (quantiles[-1] - quantiles[0])


def _ends(mask: Bools) -> list[tuple[int, int]] | None:
    """Return, per axis, the first and last index that the mask holds; None where it holds none."""
    found = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not filled.size:
            return None
        found.append((int(filled[0]), int(filled[-1])))
    return found


def _box(mask: Bools) -> tuple[int, ...] | None:
    ends = _ends(mask)
    return None if ends is None else tuple(high - low + 1 for low, high in ends)


def _about_the_middle(mask: Bools) -> tuple[int, ...] | None:
    ends = _ends(mask)
    if ends is None:
        return None
    sides = zip(mask.shape, ends, strict=True)
    return tuple(max(size - 2 * low, 2 * high + 2 - size) for size, (low, high) in sides)
