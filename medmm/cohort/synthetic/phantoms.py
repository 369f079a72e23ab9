"""What the synthetic scanner sees: a chest as a CT volume and as a radiograph, with the finding in a lung.

Shapes are soft-edged ellipsoids on a coarse grid; anatomy only has to be plausible to a small network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medmm.arrays import Float64

CT_SHAPE = (16, 32, 32)
"""Slices, rows, columns."""
CT_SPACING_MM = (10.0, 8.0, 8.0)
"""Between slices, between rows, between columns."""
RADIOGRAPH_SHAPE = (96, 96)
RADIOGRAPH_SPACING_MM = (4.0, 4.0)
RADIOGRAPH_MAXIMUM = 4095
"""Highest stored value: 12 bits."""

_AIR, _LUNG, _SOFT, _LIVER, _SPINE, _FINDING = -1000.0, -820.0, 40.0, 90.0, 160.0, 320.0
"""Hounsfield units. The finding is brighter than everything else, as after contrast medium."""
_CT_NOISE_HU = 18.0
_RADIOGRAPH_NOISE = 70.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A bright sphere.

    Attributes:
        centre_mm: CT: right-to-left, front-to-back, feet-to-head, from the volume's centre (the axes of
            DICOM, LPS+). Radiograph: down, across, from the image's centre.
        radius_mm: radius of the sphere.
    """

    centre_mm: tuple[float, ...]
    radius_mm: float


def place_in_ct(rng: np.random.Generator, radius_mm: float) -> Finding:
    """Return a finding of that radius in one of the lungs of a CT."""
    side = -52.0 if rng.random() < 0.5 else 52.0
    centre = np.array((side, -8, 5)) + rng.uniform(-1, 1, 3) * (5, 14, 26)
    return Finding(tuple(np.round(centre, 1).tolist()), radius_mm)


def place_in_radiograph(rng: np.random.Generator, radius_mm: float) -> Finding:
    """Return a finding of that radius in one of the lungs of a radiograph."""
    side = -66.0 if rng.random() < 0.5 else 66.0
    centre = np.array((-6, side)) + rng.uniform(-1, 1, 2) * (48, 9)
    return Finding(tuple(np.round(centre, 1).tolist()), radius_mm)


def chest_ct(rng: np.random.Generator, finding: Finding | None) -> Float64:
    """Return ``[slice, row, column]`` in HU, whole numbers: feet to head, front to back, right to left."""
    z, y, x = _grid(CT_SHAPE, CT_SPACING_MM)
    size = 1 + 0.06 * rng.standard_normal()
    volume = np.full(CT_SHAPE, _AIR)
    _fill(volume, (x / (112 * size)) ** 2 + (y / (88 * size)) ** 2 + 0 * z, _SOFT)
    for side in (-52, 52):
        lung = ((x - side) / 44) ** 2 + ((y + 8) / 58) ** 2 + ((z - 5) / 74) ** 2
        _fill(volume, lung, _LUNG + 25 * rng.standard_normal())
    _fill(volume, ((x + 40) / 60) ** 2 + ((y + 5) / 60) ** 2 + ((z + 84) / 28) ** 2, _LIVER)
    _fill(volume, ((x - 14) / 36) ** 2 + ((y + 22) / 34) ** 2 + ((z + 16) / 40) ** 2, _SOFT)
    _fill(volume, (x / 16) ** 2 + ((y - 62) / 16) ** 2 + 0 * z, _SPINE)
    if finding is not None:
        cx, cy, cz = finding.centre_mm
        _blend(volume, np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2), finding.radius_mm, _FINDING)
    noisy = volume + _CT_NOISE_HU * rng.standard_normal(CT_SHAPE)
    return np.clip(np.rint(noisy), -1024, 3071)


def chest_radiograph(rng: np.random.Generator, finding: Finding | None) -> Float64:
    """Return ``[row, column]``, 0 to 4095 in whole numbers, bright where the body absorbs (MONOCHROME2)."""
    y, x = _grid(RADIOGRAPH_SHAPE, RADIOGRAPH_SPACING_MM)
    size = 1 + 0.05 * rng.standard_normal()
    image = np.full(RADIOGRAPH_SHAPE, 250.0)
    _fill(image, (x / (165 * size)) ** 4 + ((y - 40) / (230 * size)) ** 4, 2300.0)
    for side in (-66, 66):
        _fill(image, ((x - side) / 50) ** 2 + ((y + 6) / 108) ** 2, 850.0 + 60 * rng.standard_normal())
    _fill(image, (x / 20) ** 2 + (y / 400) ** 2, 2600.0)
    _fill(image, ((x - 22) / 52) ** 2 + ((y - 46) / 44) ** 2, 2500.0)
    if finding is not None:
        cy, cx = finding.centre_mm
        _blend(image, np.hypot(x - cx, y - cy), finding.radius_mm, 3700.0)
    noisy = image + _RADIOGRAPH_NOISE * rng.standard_normal(RADIOGRAPH_SHAPE)
    return np.clip(np.rint(noisy), 0, RADIOGRAPH_MAXIMUM)


def _grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> list[Float64]:
    """Return open coordinate arrays in mm from the centre, one per axis."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing_mm, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _fill(array: Float64, level: Float64, value: float) -> None:
    """Set ``value`` where ``level`` is at most 1."""
    array[np.broadcast_to(level <= 1, array.shape)] = value


def _blend(array: Float64, distance_mm: Float64, radius_mm: float, value: float) -> None:
    """Draw a ball whose edge is one voxel wide, so that small differences of radius are visible."""
    share = np.clip((radius_mm - distance_mm) / 8 + 0.5, 0, 1)
    array += share * (value - array)
