"""Structure sets (PS3.3 C.8.8.6): closed planar contours, filled even-odd on the slices of a grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.dicom import tags
from medmm.dicom.elements import Elements
from medmm.dicom.header import Header
from medmm.errors import DicomRefusal

CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
"""Contours that enclose something; points and open lines do not."""
SLICE_TOLERANCE = 0.2
"""Farthest, in slices, that a contour may lie from the slice it is drawn on."""
MAX_CROSSINGS = 50_000_000
"""Most crossings of contours with pixel rows in one structure set."""
_EDGES_AT_ONCE = 4096


def draw_contours(header: Header, canvas: Bools, to_index: Float64, chosen: Sequence[int]) -> tuple[str, ...]:
    """Draw the chosen structures.

    A voxel is inside where its centre is enclosed by an odd number of contours of its slice, so that a
    contour inside another one is a hole, as is the inside of a keyhole.

    Args:
        header: a structure set.
        canvas: ``Bool[structure i j k]``, all False, written to.
        to_index: 4×4, LPS mm → (i, j, k).
        chosen: per structure of the canvas, its position in StructureSetROISequence.

    Returns:
        What was left out.

    Raises:
        DicomRefusal: ``inconsistent_geometry`` when a contour lies between the slices or across them,
            ``corrupt`` when its points are not numbers, ``resource_limit``.
    """
    items = header.elements.sequences[tags.ROIS]
    drawn: dict[int | None, list[Elements]] = defaultdict(list)
    for item in header.elements.sequences.get(tags.ROI_CONTOURS, []):
        drawn[item.integer(tags.CONTOURED_ROI)].extend(item.sequences.get(tags.CONTOURS, []))
    left_out, outside, budget = 0, 0, MAX_CROSSINGS
    for row, position in enumerate(chosen):
        by_slice: dict[int, list[Float64]] = defaultdict(list)
        contours = drawn.get(items[position].integer(tags.ROI_NUMBER), [])
        closed = [contour for contour in contours if contour.text(tags.CONTOUR_TYPE).upper() in CLOSED]
        left_out += len(contours) - len(closed)
        points = [_points(contour, to_index) for contour in closed]
        axis = _slice_axis(points)
        for polygon in points:
            at = _slice(polygon[:, axis], canvas.shape[1 + axis])
            if at is None:
                outside += 1
            else:
                by_slice[at].append(np.delete(polygon, axis, axis=1))
        for at, polygons in by_slice.items():
            plane = np.moveaxis(canvas[row], axis, 0)[at]
            budget = _fill(plane, polygons, budget)
    counts = {"contours that are points or open lines": left_out, "contours outside the image": outside}
    return tuple(f"{count} {what}" for what, count in counts.items() if count)


def check_frames(header: Header, chosen: Sequence[int], *, frame: str, series: str) -> None:
    """Refuse structures that are drawn in another frame of reference than the image (PS3.3 C.8.8.5).

    A structure set may hold structures of several frames, whose coordinates have nothing to do with each
    other.

    Args:
        header: a structure set.
        chosen: positions in StructureSetROISequence.
        frame: FrameOfReferenceUID of the image, "" where it has none.
        series: SeriesInstanceUID of the image; the frame that the object names it under is its own, too.

    Raises:
        DicomRefusal: ``inconsistent_geometry``.
    """
    own = {frame, ""}
    for item in header.elements.sequences.get(tags.RT_FRAMES, []):
        studies = item.sequences.get(tags.RT_STUDIES, [])
        named = [
            one.text(tags.SERIES_INSTANCE)
            for study in studies
            for one in study.sequences.get(tags.RT_SERIES, [])
        ]
        if series in named:
            own.add(item.text(tags.FRAME_OF_REFERENCE))
    items = header.elements.sequences[tags.ROIS]
    if any(items[position].text(tags.ROI_FRAME) not in own for position in chosen):
        raise DicomRefusal(
            "inconsistent_geometry",
            "a structure is drawn in another frame of reference than the image; name those that are not",
        )


def _points(contour: Elements, to_index: Float64) -> Float64:
    """Return the points of one contour in voxels, ``Float[point 3]``."""
    values = np.array(contour.numbers(tags.CONTOUR_DATA), dtype=np.float64)
    if values.size == 0 or values.size % 3 or not np.isfinite(values).all() or np.abs(values).max() > 1e6:
        raise DicomRefusal("corrupt", "the points of a contour are not triples of numbers")
    points: Float64 = values.reshape(-1, 3) @ to_index[:3, :3].T + to_index[:3, 3]
    return points


def _slice_axis(polygons: Sequence[Float64]) -> int:
    """Return the axis of the grid along which every contour is flat."""
    if not polygons:
        return 2
    extents = np.max([np.ptp(polygon, axis=0) for polygon in polygons], axis=0)
    axis = int(extents.argmin())
    if extents[axis] > 2 * SLICE_TOLERANCE:
        raise DicomRefusal("inconsistent_geometry", "the contours do not lie in the slices of the image")
    return axis


def _slice(heights: Float64, slices: int) -> int | None:
    """Return the slice that a contour lies in, None when that is beyond the grid."""
    height = float(heights.mean())
    at = round(height)
    if not 0 <= at < slices:
        return None
    if abs(height - at) > SLICE_TOLERANCE:
        raise DicomRefusal("inconsistent_geometry", "a contour lies between two slices of the image")
    return at


def _fill(plane: Bools, polygons: Sequence[Float64], budget: int) -> int:
    """Fill the polygons of one slice even-odd; return what is left of the budget of crossings.

    Args:
        plane: ``Bool[row column]``, written to.
        polygons: ``Float[point 2]`` each, (row, column) of its points.
        budget: crossings that may still be computed.
    """
    rows, columns = plane.shape
    # A crossing left of a pixel's centre toggles it and every pixel after it.
    toggles = np.zeros((rows, columns + 1), np.int64)
    for polygon in polygons:
        start, stop = polygon, np.roll(polygon, -1, axis=0)
        low = np.clip(np.ceil(np.minimum(start[:, 0], stop[:, 0])), 0, rows).astype(np.int64)
        high = np.clip(np.ceil(np.maximum(start[:, 0], stop[:, 0])), 0, rows).astype(np.int64)
        crossings = high - low
        budget -= int(crossings.sum())
        if budget < 0:
            raise DicomRefusal("resource_limit", f"the contours cross more than {MAX_CROSSINGS} pixel rows")
        for begin in range(0, len(polygon), _EDGES_AT_ONCE):
            part = slice(begin, begin + _EDGES_AT_ONCE)
            _toggle(toggles, start[part], stop[part], low[part], crossings[part])
    plane |= (np.cumsum(toggles[:, :columns], axis=1) & 1).astype(np.bool_)
    return budget


def _toggle(toggles: Ints, start: Float64, stop: Float64, low: Ints, crossings: Ints) -> None:
    """Count, per row, the crossings of some edges at the first pixel to the right of each."""
    edge = np.repeat(np.arange(len(start)), crossings)
    row = low[edge] + np.arange(edge.size) - np.repeat(np.cumsum(crossings) - crossings, crossings)
    share = (row - start[edge, 0]) / (stop[edge, 0] - start[edge, 0])
    column = np.ceil(start[edge, 1] + share * (stop[edge, 1] - start[edge, 1]))
    np.add.at(toggles, (row, np.clip(column, 0, toggles.shape[1] - 1).astype(np.int64)), 1)
