"""Resampling, cropping and padding in one step, separably and in plain numpy.

The output grid is laid around a centre; along each axis every output voxel is a weighted sum of input
voxels ("taps"), so one pass per axis resamples, crops and pads at once. Only elementwise products and
sums in a fixed order are used, no matrix products, so that the result is the same to the last bit on
any machine, with any number of threads.

Coordinates are input voxel indices: voxel i covers [i - 0.5, i + 0.5].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medmm.arrays import Bools, Float32, Ints

SAME_STEP = 1e-3
"""A step this close to one voxel, relatively, is one voxel: nothing is interpolated for rounding's sake."""

Kernel = Literal["linear", "area"]
"""``linear``: interpolation, widened to a triangle where it down-samples, so that nothing aliases.
``area``: the share of the output voxel that each input voxel covers; exact partial volumes of a mask."""


@dataclass(frozen=True, slots=True)
class Taps:
    """One axis of a resampling.

    Attributes:
        indices: ``[tap, out]`` input voxels, within the input.
        weights: ``[tap, out]``; they sum to 1 (linear) or to the covered share of the output voxel (area).
        inside: ``[out]`` whether the centre of the output voxel lies in the input.
    """

    indices: Ints
    weights: Float32
    inside: Bools


def axis_taps(size: int, out: int, step: float, centre: float, kernel: Kernel) -> Taps:
    """Return the taps of one axis.

    Args:
        size: input voxels.
        out: output voxels.
        step: distance of output voxels, in input voxels.
        centre: where the middle of the output lies, in input voxel coordinates.
        kernel: how input voxels are weighted.
    """
    step, centre = snapped(out, step, centre)
    middles = centre + (np.arange(out) - (out - 1) / 2) * step
    reach = max(step, 1.0) if kernel == "linear" else step / 2 + 0.5
    first = np.ceil(middles - reach).astype(np.int64)
    count = int(np.floor(2 * reach)) + 1
    indices = first + np.arange(count)[:, None]  # [tap, out]
    distance = np.abs(indices - middles)
    if kernel == "linear":
        weights = np.maximum(0.0, 1 - distance / reach)
    else:
        # Overlap of [i - 0.5, i + 0.5] with the output voxel, as a share of the output voxel.
        overlap = np.minimum(0.5, distance + step / 2) - np.maximum(-0.5, distance - step / 2)
        weights = np.maximum(0.0, overlap) / step
    weights[(indices < 0) | (indices >= size)] = 0
    inside = (middles >= -0.5) & (middles <= size - 0.5)
    if kernel == "linear":
        weights[:, ~inside] = 0
        total = weights.sum(axis=0)
        weights /= np.where(total > 0, total, 1)
    used = weights.any(axis=1)
    used[0] |= not used.any()
    clipped = np.clip(indices, 0, size - 1)
    return Taps(clipped[used], weights[used].astype(np.float32), inside)


def back_taps(size: int, out: int, step: float, centre: float) -> Taps:
    """Return the taps that carry values on the output grid of :func:`axis_taps` back to its input grid."""
    step, centre = snapped(out, step, centre)
    middle = ((size - 1) / 2 - centre) / step + (out - 1) / 2
    return axis_taps(out, size, 1 / step, middle, "linear")


def snapped(out: int, step: float, centre: float) -> tuple[float, float]:
    """Return step and centre as they are used: a step of one voxel lays the grids upon each other.

    Half a voxel would blur everything for nothing.
    """
    if abs(step - 1) > SAME_STEP:
        return step, centre
    return 1.0, float(np.floor(centre - (out - 1) / 2 + 0.5) + (out - 1) / 2)


def resample(array: Float32, taps: Sequence[Taps], background: float) -> Float32:
    """Return the array on the output grid, ``background`` where the grid leaves the input.

    Args:
        array: ``[size per axis]``.
        taps: one per axis, all of one kernel.
        background: value outside, in the array's unit.
    """
    # The axis that shrinks most goes first: the others then have the least to do.
    order = sorted(range(array.ndim), key=lambda axis: taps[axis].indices.shape[1] / array.shape[axis])
    for axis in order:
        array = _along(array, axis, taps[axis])
    for axis, tap in enumerate(taps):
        outside: list[slice | int] = [slice(None)] * array.ndim
        for position in np.flatnonzero(~tap.inside).tolist():
            outside[axis] = position
            array[tuple(outside)] = background
    return array


def _along(array: Float32, axis: int, taps: Taps) -> Float32:
    shape = [1] * array.ndim
    shape[axis] = -1
    total = np.zeros((*array.shape[:axis], taps.indices.shape[1], *array.shape[axis + 1 :]), np.float32)
    for indices, weights in zip(taps.indices, taps.weights, strict=True):
        total += np.take(array, indices, axis=axis) * weights.reshape(shape)
    return total
