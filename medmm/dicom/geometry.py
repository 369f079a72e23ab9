"""Where pixels lie in the patient: from DICOM's LPS+ planes to one RAS+ grid.

DICOM's axes point to the patient's left, back and head (LPS+); the rest of medmm uses RAS+. The change is
made here and nowhere else, by permuting and flipping to the closest canonical axes; nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmm.arrays import Float64
from medmm.errors import DicomRefusal

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine between slices of one volume; writers round to 4 to 6 digits."""
ORTHONORMAL_TOLERANCE = 1e-2
"""Largest error of the length and of the right angle of the two direction cosines."""
SPACING_TOLERANCE = 1e-3
"""Largest relative difference of the pixel spacing between slices."""
STEP_TOLERANCE = 0.01
"""A slice may lie this share of the slice spacing beside its place in the regular grid …"""
JITTER_MM = 0.02
"""… or this far, which is what rounding positions to hundredths does, but never
:data:`JITTER_SHARE` of the spacing."""
JITTER_SHARE = 0.1
TILT_TOLERANCE = 0.01
"""Largest slope of the stack against the slices' normal (0.6°); above it the grid is sheared."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """A regular stack of slices.

    Attributes:
        order: positions of the slices in the given sequence, first to last along the normal.
        affine: 4×4, maps (column, row, slice) to LPS mm.
        spacing_mm: between (columns, rows, slices), the slice spacing measured along the normal.
    """

    order: tuple[int, ...]
    affine: Float64
    spacing_mm: tuple[float, float, float]


def checked_orientation(values: Sequence[float]) -> Vector | None:
    """Return six direction cosines, None when absent.

    Raises:
        DicomRefusal: ``inconsistent_geometry`` when they do not span a plane.
    """
    if not values or (len(values) == 6 and not any(values)):
        return None
    cosines = np.asarray(values, dtype=np.float64)
    if cosines.shape != (6,) or not np.isfinite(cosines).all():
        raise DicomRefusal("inconsistent_geometry", "ImageOrientationPatient is not six numbers")
    row, column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > ORTHONORMAL_TOLERANCE or abs(row @ column) > ORTHONORMAL_TOLERANCE:
        raise DicomRefusal(
            "inconsistent_geometry", "ImageOrientationPatient is not two perpendicular directions"
        )
    return tuple(float(value) for value in values)


def checked_position(values: Sequence[float]) -> Vector | None:
    """Return three coordinates in mm, None when absent.

    Raises:
        DicomRefusal: ``inconsistent_geometry`` when they are not three numbers.
    """
    if not values:
        return None
    if len(values) != 3 or not np.isfinite(values).all() or max(map(abs, values)) > 1e6:
        raise DicomRefusal(
            "inconsistent_geometry", "ImagePositionPatient is not three numbers of millimetres"
        )
    return tuple(float(value) for value in values)


def directions(orientation: Sequence[float]) -> tuple[Float64, Float64, Float64]:
    """Return unit vectors (along a row, down a column, normal) in LPS."""
    row = np.asarray(orientation[:3], dtype=np.float64)
    column = np.asarray(orientation[3:], dtype=np.float64)
    row = row / np.linalg.norm(row)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    return row, column / np.linalg.norm(column), normal


def same_orientation(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two orientations agree within :data:`ORIENTATION_TOLERANCE`."""
    return all(abs(a - b) <= ORIENTATION_TOLERANCE for a, b in zip(first, second, strict=True))


def tolerance_mm(spacing: float) -> float:
    """Return how far from its place a slice or pixel may lie at a spacing."""
    return max(STEP_TOLERANCE * spacing, min(JITTER_MM, JITTER_SHARE * spacing))


def position_groups(positions: Float64, orientation: Sequence[float], spacing: Sequence[float]) -> list[int]:
    """Return for each slice the number of its place along the normal; slices at one place share it.

    Args:
        positions: ``Float[slice 3]`` in mm.
        orientation: six direction cosines.
        spacing: pixel spacing in mm, the scale of what counts as the same place.
    """
    normal = directions(orientation)[2]
    along = positions @ normal
    same = tolerance_mm(min(spacing))
    group, groups, last = -1, [0] * len(along), -np.inf
    for index in np.argsort(along, kind="stable"):
        if along[index] - last > same:
            group += 1
        groups[index], last = group, along[index]
    return groups


def regular_stack(positions: Float64, orientation: Sequence[float], spacing: Sequence[float]) -> Stack:
    """Sort slices by position along their normal and check that they make a regular grid.

    Args:
        positions: ``Float[slice 3]`` in mm LPS, at least two.
        orientation: six direction cosines, common to the slices.
        spacing: (between rows, between columns) in mm.

    Raises:
        DicomRefusal: ``duplicate_slices``, ``missing_slices``, ``inconsistent_geometry`` or ``gantry_tilt``.
    """
    row, column, normal = directions(orientation)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    ordered = positions[order]
    steps = np.diff(along[order])
    median = float(np.median(steps))
    if median <= 0 or steps.min() < JITTER_SHARE * median:
        raise DicomRefusal("inconsistent_geometry", "slices lie at the same place")
    _check_steps(steps)
    # Median finds a gap; once there is none, the whole length gives the step that fits both ends.
    step = (ordered[-1] - ordered[0]) / (len(ordered) - 1)
    distance = float(step @ normal)
    _check_residuals(ordered, step, normal, distance, min(spacing))
    drift = step - distance * normal
    if np.linalg.norm(drift) > TILT_TOLERANCE * distance:
        angle = float(np.degrees(np.arctan2(np.linalg.norm(drift), distance)))
        raise DicomRefusal("gantry_tilt", f"the slices are sheared by {angle:.1f} degrees")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * spacing[1], column * spacing[0], step
    affine[:3, 3] = ordered[0]
    return Stack(tuple(int(index) for index in order), affine, (spacing[1], spacing[0], distance))


def _check_steps(steps: Float64) -> None:
    """Refuse gaps and irregular steps; a gap is a step of whole multiples of the usual one."""
    usual = float(np.median(steps))
    if np.abs(steps - usual).max() <= 2 * tolerance_mm(usual):
        return
    for base in (usual, float(steps.min())):
        ratios = steps / base
        whole = np.round(ratios)
        if (whole >= 1).all() and np.abs(ratios - whole).max() <= JITTER_SHARE and whole.max() > 1:
            gaps = [f"{int(count) - 1} after slice {at + 1}" for at, count in enumerate(whole) if count > 1]
            raise DicomRefusal(
                "missing_slices", f"of {len(steps) + 1} slices, missing: {', '.join(gaps[:5])}"
            )
    raise DicomRefusal(
        "inconsistent_geometry", f"the slice spacing varies from {steps.min():.3f} to {steps.max():.3f} mm"
    )


def _check_residuals(ordered: Float64, step: Float64, normal: Float64, distance: float, pixel: float) -> None:
    """Refuse slices beside the straight line through the stack, along the normal or in the plane."""
    residual = ordered - ordered[0] - np.arange(len(ordered))[:, None] * step
    along = residual @ normal
    if np.abs(along).max() > 2 * tolerance_mm(distance):
        raise DicomRefusal("inconsistent_geometry", "the slice spacing varies along the stack")
    across = np.linalg.norm(residual - along[:, None] * normal, axis=1)
    if across.max() > 2 * tolerance_mm(pixel):
        raise DicomRefusal("inconsistent_geometry", "the slices are shifted against each other")


def canonical(affine: Float64) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return which array axis becomes R, A and S, and the sign (+1, -1) it is walked with.

    Args:
        affine: 4×4, array index to LPS mm.
    """
    ras = _LPS_TO_RAS @ affine
    cosines = np.abs(ras[:3, :3] / np.linalg.norm(ras[:3, :3], axis=0))
    axes = [0, 0, 0]
    free_rows, free_columns = {0, 1, 2}, {0, 1, 2}
    for _ in range(3):
        best = max(
            ((r, c) for r in free_rows for c in free_columns), key=lambda at: (cosines[at], -at[0], -at[1])
        )
        axes[best[0]] = best[1]
        free_rows.remove(best[0])
        free_columns.remove(best[1])
    signs = [1 if ras[world, axis] >= 0 else -1 for world, axis in enumerate(axes)]
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])


def canonical_affine(affine: Float64, shape: Sequence[int]) -> Float64:
    """Return the RAS+ affine of an array of ``shape`` after its axes went to :func:`canonical`."""
    axes, signs = canonical(affine)
    ras = _LPS_TO_RAS @ affine
    moved = np.eye(4)
    origin = ras[:3, 3].copy()
    for world, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        moved[:3, world] = sign * ras[:3, axis]
        if sign < 0:
            origin += ras[:3, axis] * (shape[axis] - 1)
    moved[:3, 3] = origin
    return moved


def to_ras(affine: Float64) -> Float64:
    """Return an LPS affine as RAS+, axes unmoved."""
    return np.asarray(_LPS_TO_RAS @ affine, dtype=np.float64)


def lps_to_index(affine: Float64) -> Float64:
    """Return the 4×4 that maps LPS mm to array indices.

    Args:
        affine: 4×4, array index to RAS+ mm.
    """
    return np.asarray(np.linalg.inv(affine) @ _LPS_TO_RAS, dtype=np.float64)
