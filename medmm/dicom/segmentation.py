"""Segmentation objects (PS3.3 C.8.20): frames of one segment in one plane each, laid onto a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmm.arrays import Array, Bools, Float64
from medmm.dicom import tags
from medmm.dicom.elements import Elements
from medmm.dicom.geometry import directions
from medmm.dicom.header import Header
from medmm.dicom.pixels import stored_frames
from medmm.dicom.planes import Plane, planes_of
from medmm.errors import DicomRefusal

GRID_TOLERANCE = 0.2
"""Farthest, in voxels, that a pixel of a segmentation may lie from the voxel it stands for."""
INSIDE_FRACTION = 0.5
"""Share of MaximumFractionalValue from which a fractional segmentation counts as inside."""


def paint_segments(
    header: Header, canvas: Bools, to_index: Float64, chosen: Sequence[int]
) -> tuple[str, ...]:
    """Draw the chosen segments.

    Args:
        header: a segmentation.
        canvas: ``Bool[structure i j k]``, all False, written to.
        to_index: 4×4, LPS mm → (i, j, k).
        chosen: per structure of the canvas, its position in SegmentSequence.

    Returns:
        What was left out.

    Raises:
        DicomRefusal: ``inconsistent_geometry`` when a frame lies beside the grid, ``missing_geometry``,
            ``missing_tags``, ``corrupt`` …
    """
    numbers = [item.integer(tags.SEGMENT_NUMBER) for item in header.elements.sequences[tags.SEGMENTS]]
    if len(set(numbers)) < len(numbers) or None in numbers:
        raise DicomRefusal("corrupt", "SegmentNumber is absent or given twice")
    rows = {numbers[position]: row for row, position in enumerate(chosen)}
    label_map = header.text(tags.SEGMENTATION_TYPE) == "LABELMAP"
    planes = planes_of(header)
    segments = [None] * len(planes) if label_map else _segments(header, len(planes))
    wanted = [at for at, segment in enumerate(segments) if label_map or segment in rows]
    inside = _least(header)
    outside = 0
    frames = stored_frames(header, planes[0].layout, wanted) if wanted else iter(())
    for at, stored in zip(wanted, frames, strict=True):
        window = _window(planes[at], canvas, to_index)
        if window is None:
            outside += 1
            continue
        image: Any = stored[window.pixels]
        for number, row in rows.items():
            if label_map or number == segments[at]:
                drawn = image == number if label_map else image >= inside
                canvas[(row, *window.voxels)] |= drawn.T if window.transposed else drawn
    if wanted and outside == len(wanted):
        raise DicomRefusal("inconsistent_geometry", "no frame of the segmentation lies on the image")
    return (f"{outside} frames outside the image",) if outside else ()


def background(header: Header) -> set[int]:
    """Return which items of SegmentSequence are the background: number 0, in a label map alone."""
    items = header.elements.sequences.get(tags.SEGMENTS, [])
    return {position for position, item in enumerate(items) if item.integer(tags.SEGMENT_NUMBER) == 0}


def _segments(header: Header, count: int) -> list[int | None]:
    """Return the segment of each frame, from its own functional groups or from the shared ones."""
    shared = header.elements.first(tags.SHARED_GROUPS) or Elements()
    own = header.elements.sequences.get(tags.PER_FRAME_GROUPS) or [Elements()] * count
    found = []
    for groups in own:
        item = groups.first(tags.SEGMENT_IDENTIFICATION) or shared.first(tags.SEGMENT_IDENTIFICATION)
        if item is None:
            raise DicomRefusal("missing_tags", "a frame does not say which segment it shows")
        found.append(item.integer(tags.REFERENCED_SEGMENT))
    return found


def _least(header: Header) -> float:
    """Return the stored value from which a pixel is inside."""
    kind = header.text(tags.SEGMENTATION_TYPE)
    if kind in ("BINARY", "LABELMAP"):
        return 1
    largest = header.elements.integer(tags.MAXIMUM_FRACTION)
    if kind != "FRACTIONAL" or not largest:
        raise DicomRefusal("missing_tags", "SegmentationType or MaximumFractionalValue says not enough")
    return INSIDE_FRACTION * largest


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of a frame that lies on the canvas, and where."""

    pixels: tuple[slice, slice]
    voxels: tuple[Array | int, ...]
    transposed: bool


def _window(plane: Plane, canvas: Bools, to_index: Float64) -> _Window | None:
    """Return where a frame lies on the canvas, None when it lies outside.

    Raises:
        DicomRefusal: ``inconsistent_geometry`` when its pixels are not voxels of the canvas.
    """
    if plane.position is None or plane.orientation is None or plane.spacing is None:
        raise DicomRefusal("missing_geometry", "a frame of the segmentation has no place in space")
    along_row, down_column, _ = directions(plane.orientation)
    origin = to_index[:3, :3] @ np.array(plane.position) + to_index[:3, 3]
    steps = np.array(
        [
            to_index[:3, :3] @ (down_column * plane.spacing[0]),
            to_index[:3, :3] @ (along_row * plane.spacing[1]),
        ]
    )
    whole, first = np.rint(steps).astype(int), np.rint(origin).astype(int)
    reach = np.array(plane.shape)[:, None] - 1
    astray = np.abs(origin - first) + (np.abs(steps - whole) * reach).sum(axis=0)
    if (np.abs(whole).sum(axis=1) != 1).any() or astray.max() > GRID_TOLERANCE:
        raise DicomRefusal("inconsistent_geometry", "the segmentation lies on another grid than the image")
    axes = np.abs(whole).argmax(axis=1)
    if axes[0] == axes[1]:
        raise DicomRefusal("inconsistent_geometry", "the segmentation's rows and columns run the same way")
    voxels: list[Array | int] = [int(value) for value in first]
    parts: list[slice] = []
    for size, axis, step in zip(plane.shape, axes, whole, strict=True):
        places = first[axis] + step[axis] * np.arange(size)
        kept = np.flatnonzero((places >= 0) & (places < canvas.shape[1 + axis]))
        if kept.size == 0:
            return None
        parts.append(slice(int(kept[0]), int(kept[-1]) + 1))
        voxels[axis] = places[kept]
    fixed = 3 - int(axes.sum())
    if not 0 <= int(first[fixed]) < canvas.shape[1 + fixed]:
        return None
    # An outer index of both axes: the first array index varies down, the second across.
    low, high = sorted(int(axis) for axis in axes)
    voxels[low], voxels[high] = np.ix_(np.asarray(voxels[low]), np.asarray(voxels[high]))
    return _Window((parts[0], parts[1]), tuple(voxels), transposed=bool(axes[0] > axes[1]))
