"""One small picture of every image, by which copies are found, and the plainest numbers of its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmm.arrays import Float32
from medmm.redteam.columns import Cell

if TYPE_CHECKING:
    from medmm.dicom.loading import Loaded

SIDE = 32
"""Pixels of a thumbnail's side: coarse enough to survive a new compression, a crop line or a new window."""


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """What is kept of one image.

    Attributes:
        sha256: of shape and voxels.
        shape: of the array.
        picture: ``Float32[SIDE SIDE]``, the middle slice, mean 0 and length 1; all 0 for an even image.
        numbers: name → value of the plainest measures of its pixels.
    """

    sha256: str
    shape: tuple[int, ...]
    picture: Float32
    numbers: dict[str, Cell]


def thumbnails(
    series: Sequence[Sequence[Path] | None], *, progress: Callable[[int, int], None] | None = None
) -> list[Thumbnail | None]:
    """Load each patient's chosen series and keep a thumbnail; None where there is none, or it is refused.

    Args:
        series: per patient, the files of the chosen series, or None.
        progress: called with (done, total).
    """
    from medmm.dicom.parallel import load_many

    places = [place for place, files in enumerate(series) if files is not None]
    found: list[Thumbnail | None] = [None] * len(series)
    results = load_many([list(series[place] or ()) for place in places], thumbnail)
    for done, (place, seen) in enumerate(zip(places, results, strict=True)):
        found[place] = next((item for item in seen if item is not None), None)
        if progress is not None:
            progress(done + 1, len(places))
    return found


def thumbnail(loaded: Loaded) -> Thumbnail | None:
    """Return what is kept of one loaded image; None for what is none."""
    array: Any = getattr(loaded.content, "array", None)
    photometric = getattr(loaded.content, "photometric", None)
    if array is None or photometric is None or array.size == 0:
        return None
    digest = hashlib.sha256(repr((array.shape, str(array.dtype))).encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    values = array.mean(axis=-1) if photometric == "RGB" else array
    flat = values if values.ndim == 2 else values[:, :, values.shape[2] // 2]
    numbers: dict[str, Cell] = {
        "mean of the pixels": float(values.mean()),
        "spread of the pixels": float(values.std()),
        "share at the lowest value": float((values == values.min()).mean()),
    }
    return Thumbnail(digest.hexdigest(), tuple(array.shape), _picture(np.asarray(flat, np.float32)), numbers)


def _picture(flat: Float32) -> Float32:
    """Return the mean of each cell of a SIDE × SIDE grid, centred and scaled to length 1."""
    small = flat
    for axis in (0, 1):
        edges = np.linspace(0, small.shape[axis], SIDE + 1)
        starts = np.minimum(edges[:-1].astype(int), small.shape[axis] - 1)
        stops = np.maximum(np.ceil(edges[1:]).astype(int), starts + 1)
        parts = [
            np.take(small, range(a, min(b, small.shape[axis])), axis=axis).mean(axis=axis)
            for a, b in zip(starts, stops, strict=True)
        ]
        small = np.stack(parts, axis=axis)
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return np.asarray(small / length if length > 1e-6 else np.zeros_like(small), dtype=np.float32)
