"""Copies: the same image, or the same person, under two ids; worst where training and test share them.

Images: equal voxels, or thumbnails (also mirrored) that agree more than any two patients' should.
Persons: Fellegi-Sunter weights, where agreeing on a rare value counts more than on a common one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from medmm.arrays import Float32, Ints
from medmm.redteam.columns import Cell, Column
from medmm.redteam.images import Thumbnail

NEARER = 8.0
"""A copy is this many times as near to its twin as images of the cohort usually are to their nearest,"""
OUTLYING = 4.0
"""and as many robust standard deviations nearer, on the scale of the logarithm."""
ALIKE = 0.95
"""Correlation of two thumbnails below which none is called a copy."""
AGREE = 0.95
"""Chance that two rows of one person agree in a field (Fellegi & Sunter's m)."""
MARGIN = 3.0
"""Odds of 1000 to 1 that a pair is one person, beyond what the number of pairs takes."""
COMPARED = 20_000
"""Most pairs that one column's rarest values put up for comparison; commoner values tell nobody apart."""
SHARED = 2
"""Columns that must put a pair up before it is compared."""
FIELDS = 4
"""Fields in which two patients must agree before they are called one."""
CHUNK = 512


@dataclass(frozen=True, slots=True)
class Pair:
    """Two patients who may be one.

    Attributes:
        first: position of a patient.
        second: position of another.
        kind: how they are alike.
        by: the correlation of the thumbnails, or the weight of the agreement in log10 odds.
    """

    first: int
    second: int
    kind: Literal["equal image", "similar image", "similar person"]
    by: float


def equal_images(images: Sequence[Thumbnail | None]) -> list[Pair]:
    """Return the pairs of patients whose arrays are equal voxel by voxel."""
    places = defaultdict(list)
    for place, image in enumerate(images):
        if image is not None:
            places[image.sha256].append(place)
    return [Pair(a, b, "equal image", 1.0) for same in places.values() for a, b in combinations(same, 2)]


def similar_images(images: Sequence[Thumbnail | None]) -> list[Pair]:
    """Return the pairs whose thumbnails agree, as they are, or mirrored or turned by 180 degrees.

    How near is near is learnt from the cohort: skulls resemble each other more than chests do.
    """
    places = np.array([p for p, image in enumerate(images) if image is not None and image.picture.any()])
    if len(places) < 3:
        return []
    pictures = np.stack([image.picture for place in places if (image := images[place]) is not None])
    flat = pictures.reshape(len(places), -1)
    nearest = np.zeros(len(places), dtype=np.float32)
    found: dict[tuple[int, int], float] = {}
    for turned in (pictures, pictures[:, ::-1], pictures[:, :, ::-1], pictures[:, ::-1, ::-1]):
        for start in range(0, len(flat), CHUNK):
            alike = flat[start : start + CHUNK] @ turned.reshape(len(flat), -1).T
            rows = np.arange(len(alike))
            alike[rows, start + rows] = -1  # an image is no copy of itself
            nearest[start + rows] = np.maximum(nearest[start + rows], alike.max(axis=1))
            _collect(alike, start, found)
    limit = _limit(nearest)
    equal = {(pair.first, pair.second) for pair in equal_images(images)}
    named = {(int(places[a]), int(places[b])): value for (a, b), value in found.items() if value >= limit}
    return [Pair(*pair, "similar image", value) for pair, value in sorted(named.items()) if pair not in equal]


def _limit(nearest: Float32) -> float:
    """Return the correlation from which a pair is a copy, given each image's correlation with its nearest."""
    apart = np.log(np.maximum(1 - nearest.astype(np.float64), 1e-7))
    usual = float(np.median(apart))
    spread = max(1.4826 * float(np.median(np.abs(apart - usual))), 0.05)
    return max(ALIKE, 1 - float(np.exp(usual - max(np.log(NEARER), OUTLYING * spread))))


def _collect(alike: Float32, start: int, found: dict[tuple[int, int], float]) -> None:
    rows, columns = np.nonzero(alike >= ALIKE)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if start + row < column:
            pair = (start + row, column)
            found[pair] = max(found.get(pair, 0.0), float(min(alike[row, column], 1.0)))


def similar_persons(columns: Sequence[Column]) -> list[Pair]:
    """Return the pairs of patients who agree in so many rare values that chance does not explain it.

    Args:
        columns: what is known of each patient, missing cells as None.

    Source: Fellegi & Sunter 1969, Journal of the American Statistical Association 64:1183-1210.
    """
    if not columns:
        return []
    patients = len(columns[0].cells)
    judged = [_Judged.of(column) for column in columns]
    needed = math.log10(max(1, patients * (patients - 1) // 2)) + MARGIN
    rows = list(zip(*(column.cells for column in columns), strict=True))
    found = []
    for first, second in _blocked(columns, judged):
        weight, agreeing = _weight(rows[first], rows[second], judged)
        if weight >= needed and agreeing >= FIELDS:
            found.append(Pair(first, second, "similar person", weight))
    return sorted(found, key=lambda pair: (-pair.by, pair.first, pair.second))


@dataclass(frozen=True, slots=True)
class _Judged:
    """How much agreement and disagreement in one column weigh, in log10 odds."""

    counts: Counter[str | float]
    known: int
    disagreement: float

    @classmethod
    def of(cls, column: Column) -> _Judged:
        counts = Counter(cell for cell in column.cells if cell is not None)
        known = max(1, sum(counts.values()))
        chance = sum((n / known) ** 2 for n in counts.values())
        return cls(counts, known, math.log10((1 - AGREE) / (1 - chance)) if chance < 1 else 0.0)


def people(pairs: Sequence[Pair], patients: int) -> Ints:
    """Return, per patient, the first patient who is taken for the same person."""
    first = np.arange(patients, dtype=np.int64)
    for pair in sorted(pairs, key=lambda pair: (pair.first, pair.second)):
        first[first == first[pair.second]] = first[pair.first]
    return first


def _blocked(columns: Sequence[Column], judged: Sequence[_Judged]) -> Iterable[tuple[int, int]]:
    """Return the pairs who share the rarest values of several columns."""
    pairs: Counter[tuple[int, int]] = Counter()
    for column, how in zip(columns, judged, strict=True):
        sharing = defaultdict(list)
        for place, cell in enumerate(column.cells):
            if cell is not None and how.counts[cell] > 1:
                sharing[cell].append(place)
        room = COMPARED
        for places in sorted(sharing.values(), key=len):
            room -= len(places) * (len(places) - 1) // 2
            if room < 0:
                break
            pairs.update(combinations(places, 2))
    return sorted(pair for pair, shared in pairs.items() if shared >= SHARED)


def _weight(first: Sequence[Cell], second: Sequence[Cell], judged: Sequence[_Judged]) -> tuple[float, int]:
    """Return log10 odds from all fields that both know, and in how many telling ones they agree."""
    weight, agreeing = 0.0, 0
    for a, b, how in zip(first, second, judged, strict=True):
        if a is None or b is None:
            continue
        if a == b:
            chance = how.counts[a] / how.known
            weight += math.log10(AGREE / chance)
            agreeing += chance < 0.5
        else:
            weight += how.disagreement
    return weight, agreeing
