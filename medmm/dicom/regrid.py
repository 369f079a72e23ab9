"""Slices sheared by gantry tilt or unevenly spaced, resampled to a regular grid; by request only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmm.arrays import Array, Bools, Float32, Float64
from medmm.dicom.geometry import JITTER_SHARE, Stack, directions
from medmm.errors import DicomRefusal

RESAMPLED = frozenset({"gantry_tilt", "missing_slices", "inconsistent_geometry"})
"""Refusals of a stack that resampling can answer."""
MAX_GAP_STEPS = 3.0
"""Widest gap, in usual slice steps and within :data:`JITTER_SHARE`, that is bridged: farther apart, two
slices tell nothing of what is between them."""
SAME_PIXEL = 0.02
"""A shift of less than this share of a pixel is none."""
SAME_SLICE = 1e-3
"""A slice this close, in steps, to a place of the new grid is taken as it is."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """The new grid: slices sorted along the normal, and how far each is shifted in its plane."""

    order: Array
    along: Float64
    shifts: Float64
    places: Float64
    shape: tuple[int, int]
    affine: Float64
    spacing_mm: tuple[float, float, float]


def regrid(
    values: Any,
    valid: Bools,
    positions: Float64,
    orientation: Sequence[float],
    spacing: Sequence[float],
    *,
    limit: int,
) -> tuple[Float32, Bools, Stack]:
    """Return a stack of parallel slices resampled linearly to an orthogonal, regular grid.

    The grid holds every pixel of every slice; where a slice does not reach, it is not valid (and 0).

    Args:
        values: ``[slice row column]``, monochrome.
        valid: the same shape.
        positions: ``Float[slice 3]`` LPS mm, of each first pixel.
        orientation: six direction cosines, common to the slices.
        spacing: (between rows, between columns) in mm.
        limit: most bytes of the new array, which may be larger than the old one along every axis.

    Returns:
        ``Float32[slice row column]``, where it is valid, and its grid.

    Raises:
        DicomRefusal: ``missing_slices`` when a gap is too wide, ``inconsistent_geometry`` when slices share
            a place or are shifted by more than their own width, ``resource_limit``.
    """
    grid = _grid(values.shape, positions, orientation, spacing)
    shape = (len(grid.places), *grid.shape)
    if np.prod(shape, dtype=np.float64) * np.dtype(np.float32).itemsize > limit:
        raise DicomRefusal("resource_limit", f"a resampled array of shape {shape} is above the limit")
    made, known = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    step = grid.spacing_mm[2]
    after = np.searchsorted(grid.along, grid.places + SAME_SLICE * step)
    held: dict[int, tuple[Float32, Bools]] = {}
    for index, place in enumerate(grid.places):
        low = max(int(after[index]) - 1, 0)
        gap = grid.along[low + 1] - grid.along[low] if low + 1 < len(grid.along) else step
        share = np.float32((place - grid.along[low]) / gap)
        pair = [low] if share < SAME_SLICE else [low, low + 1]
        held = {at: held[at] if at in held else _shifted(values, valid, grid, at) for at in pair}
        made[index], known[index] = held[low]
        if len(pair) == 2:
            made[index] = (1 - share) * made[index] + share * held[low + 1][0]
            known[index] &= held[low + 1][1]
    made[~known] = 0
    return made, known, Stack(tuple(range(len(grid.places))), grid.affine, grid.spacing_mm)


def _grid(
    shape: tuple[int, ...], positions: Float64, orientation: Sequence[float], spacing: Sequence[float]
) -> _Grid:
    """Return the grid that holds every slice, its step the usual one stretched to reach both ends."""
    row, column, normal = directions(orientation)
    order = np.argsort(positions @ normal, kind="stable")
    ordered = positions[order]
    along = ordered @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    if usual <= 0 or steps.min() < JITTER_SHARE * usual:
        raise DicomRefusal("inconsistent_geometry", "slices lie at the same place")
    if steps.max() > (MAX_GAP_STEPS + JITTER_SHARE) * usual:
        raise DicomRefusal("missing_slices", f"a gap of {steps.max():.1f} mm is too wide to be resampled")
    offsets = ordered - ordered[0]
    shifts = np.stack([offsets @ column / spacing[0], offsets @ row / spacing[1]], axis=1)
    first, last = np.floor(shifts.min(axis=0) + SAME_PIXEL), np.ceil(shifts.max(axis=0) - SAME_PIXEL)
    extent = (last - first).astype(int)
    if extent[0] > shape[1] or extent[1] > shape[2]:
        raise DicomRefusal("inconsistent_geometry", "the slices are shifted by more than their own width")
    count = max(round((along[-1] - along[0]) / usual), 1)
    step = float(along[-1] - along[0]) / count
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * spacing[1], column * spacing[0], normal * step
    affine[:3, 3] = ordered[0] + row * spacing[1] * first[1] + column * spacing[0] * first[0]
    return _Grid(
        order,
        along,
        shifts - first,
        along[0] + step * np.arange(count + 1),
        (shape[1] + int(extent[0]), shape[2] + int(extent[1])),
        affine,
        (spacing[1], spacing[0], step),
    )


def _shifted(values: Any, valid: Bools, grid: _Grid, at: int) -> tuple[Float32, Bools]:
    """Return one slice, moved by its shift, on the plane of the new grid."""
    source = int(grid.order[at])
    image, inside = values[source].astype(np.float32), np.asarray(valid[source])
    for axis in (0, 1):
        image, inside = _moved(image, inside, float(grid.shifts[at, axis]), grid.shape[axis], axis)
    return image, inside


def _moved(image: Float32, inside: Bools, shift: float, size: int, axis: int) -> tuple[Float32, Bools]:
    """Return an image moved forwards along one axis, interpolated linearly, on ``size`` pixels."""
    image, inside = np.moveaxis(image, axis, 0), np.moveaxis(inside, axis, 0)
    whole = math.floor(shift + SAME_PIXEL)
    share = shift - whole
    shape = (size, *image.shape[1:])
    moved, known = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    stop = whole + len(image)
    if share <= SAME_PIXEL:
        moved[whole:stop], known[whole:stop] = image, inside
    else:
        # Between the first and the last pixel only: beyond them there is nothing to interpolate with.
        moved[whole + 1 : stop] = (1 - share) * image[1:] + share * image[:-1]
        known[whole + 1 : stop] = inside[1:] & inside[:-1]
    return np.moveaxis(moved, 0, axis), np.moveaxis(known, 0, axis)
