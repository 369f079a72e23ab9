"""Loops over channels-last bfloat16, compiled by numba when a process first needs them (about three seconds).

Torch takes a norm and a ReLU in four to nine passes over memory, which is where their time goes; these take
two there and two back, and round once. numba has no bfloat16, so the arrays hold its bits, as int16.

A tensor is taken in parts of a fixed number of rows: a sum has the same bits on any number of threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numba import float32, njit, uint16, uint32
from torch import Tensor

from medmm.arrays import Array

PART = 256
"""Rows that are summed in float32, before float64 goes on."""

WIDTH = 64
"""Numbers in a row from which on a longer one is not faster."""

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """Compile a loop at its first call; sums may be taken in another order, NaN and infinity stay."""
    found: Loop = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(loop)
    return found


@compiled
def _wide(half: Any) -> Any:
    return np.uint32(uint16(half) << 16).view(np.float32)


@compiled
def _half(number: Any) -> Any:
    """Round to the nearest bfloat16, to the even one of two; NaN stays NaN."""
    bits = np.float32(number).view(np.uint32)
    rounded = (bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16)
    return np.int16(uint32(0x7FC0) if number != number else rounded)  # noqa: PLR0124


@compiled
def _sums(first: int, last: int, a: Any, b: Any, read: Any, found: Any) -> None:
    """Sum ``a`` and ``a · b`` over the rows of some parts, ``a`` only where ``read`` is not 0."""
    rows, width = a.shape[1:]
    parts = -(-rows // PART)
    level, along = np.empty(width, np.float32), np.empty(width, np.float32)  # of their own: LLVM sees it
    for part in range(first, last):
        sample, begin = part // parts, part % parts * PART
        level[:] = 0
        along[:] = 0
        for row in range(begin, min(begin + PART, rows)):
            for place in range(width):
                one = _wide(a[sample, row, place])
                one = one if read[sample, row, place] != 0 else float32(0)
                level[place] += one
                along[place] += one * _wide(b[sample, row, place])
        found[part, 0] = level
        found[part, 1] = along


@compiled
def _added(sums: Any, samples: int, channels: int) -> Any:
    """Add up parts, and the places that lie in one row: ``[2, sample, channel]`` of ``[part, 2, width]``."""
    found = np.zeros((2, samples, channels))
    parts = len(sums) // samples
    for part in range(len(sums)):
        for kind in range(2):
            for place in range(sums.shape[2]):
                found[kind, part // parts, place % channels] += sums[part, kind, place]
    return found


@compiled
def _spread(totals: Any, groups: int, count: int, eps: float, found: Any) -> None:
    """Give each group's mean and the inverse of its standard deviation, ``[2, sample, group]``."""
    of_group = totals.shape[2] // groups
    for sample in range(totals.shape[1]):
        for group in range(groups):
            ours = slice(group * of_group, (group + 1) * of_group)
            mean = totals[0, sample, ours].sum() / count
            variance = totals[1, sample, ours].sum() / count - mean**2
            variance = 0.0 if variance < 0 else variance  # NaN stays NaN
            found[0, sample, group] = mean
            found[1, sample, group] = 1 / np.sqrt(variance + eps)


@compiled
def _forward_factors(known: Any, weight: Any, bias: Any, found: Any) -> None:
    """Give what a channel is multiplied by and what is added, ``[sample, 2, width]``."""
    samples, groups = known.shape[1:]
    channels = len(weight)
    for sample in range(samples):
        for place in range(found.shape[2]):
            channel = place % channels
            group = channel // (channels // groups)
            scale = known[1, sample, group] * weight[channel]
            found[sample, 0, place] = scale
            found[sample, 1, place] = bias[channel] - known[0, sample, group] * scale


@compiled
def _backward_factors(totals: Any, known: Any, weight: Any, count: int, found: Any) -> Any:
    """Give the factors of the slope, of ``x`` and of 1, ``[sample, 3, width]``, and the weights' gradients.

    With ``x̂ = (x - μ) / σ`` of a group of ``k`` values and ``δ = γ ∂y`` the gradient is
    ``(δ - Σδ/k - x̂ Σδx̂/k) / σ`` (Wu & He 2018).
    """
    samples, groups = known.shape[1:]
    channels = len(weight)
    of_group = channels // groups
    ours = np.zeros((2, channels), np.float64)
    for sample in range(samples):
        for group in range(groups):
            mean, inverse = known[0, sample, group], known[1, sample, group]
            tilt = level = 0.0
            for channel in range(group * of_group, (group + 1) * of_group):
                whole = totals[0, sample, channel]
                along = (totals[1, sample, channel] - mean * whole) * inverse
                ours[0, channel] += along
                ours[1, channel] += whole
                tilt += along * weight[channel] / count
                level += whole * weight[channel] / count
            for channel in range(group * of_group, (group + 1) * of_group):
                for place in range(channel, found.shape[2], channels):
                    found[sample, 0, place] = inverse * weight[channel]
                    found[sample, 1, place] = -(inverse**2) * tilt
                    found[sample, 2, place] = inverse * (mean * inverse * tilt - level)
    return ours


@compiled
def _scaled(first: int, last: int, x: Any, by: Any, rectified: bool, found: Any) -> None:
    """Multiply by ``by[:, 0]`` and add ``by[:, 1]``; 0 for what is below, if rectified."""
    rows, width = x.shape[1:]
    parts = -(-rows // PART)
    for part in range(first, last):
        sample, begin = part // parts, part % parts * PART
        for row in range(begin, min(begin + PART, rows)):
            for place in range(width):
                one = _wide(x[sample, row, place]) * by[sample, 0, place] + by[sample, 1, place]
                if rectified:
                    one = float32(0) if one <= 0 else one
                found[sample, row, place] = _half(one)


@compiled
def _joined(first: int, last: int, a: Any, b: Any, read: Any, by: Any, found: Any) -> None:
    """Give ``a · by[:, 0] + b · by[:, 1] + by[:, 2]``, ``a`` only where ``read`` is not 0."""
    rows, width = a.shape[1:]
    parts = -(-rows // PART)
    for part in range(first, last):
        sample, begin = part // parts, part % parts * PART
        for row in range(begin, min(begin + PART, rows)):
            for place in range(width):
                one = _wide(a[sample, row, place])
                one = one if read[sample, row, place] != 0 else float32(0)
                one = one * by[sample, 0, place] + _wide(b[sample, row, place]) * by[sample, 1, place]
                found[sample, row, place] = _half(one + by[sample, 2, place])


def rows(x: Tensor) -> Array:
    """Return the bits of ``[batch, channel, *shape]`` with its channels last: a view ``[batch, row, place]``.

    A row is one place of the map, or several where there are few channels: short rows are slow.
    """
    samples, channels = x.shape[:2]
    together, places = 1, x.shape[2:].numel()
    while together * channels < WIDTH and places % (2 * together) == 0:
        together *= 2
    bits: Array = x.detach().movedim(1, -1).view(torch.int16).numpy()
    return bits.reshape(samples, places // together, together * channels)


def normed(
    x: Array, weight: Array, bias: Array, groups: int, eps: float, *, rectified: bool, found: Array
) -> Array:
    """Write the group norm of ``x``, or its ReLU, into ``found``; return means and inverse deviations.

    Args:
        x: bits, ``[batch, row, place]``.
        weight: ``[channel]``.
        bias: ``[channel]``.
        groups: of channels.
        eps: what a variance is enlarged by.
        rectified: whether what is below 0 becomes 0.
        found: as ``x``.

    Returns:
        ``[2, batch, group]``.
    """
    totals, known = _totals(x, x, x, len(weight)), np.empty((2, len(x), groups))
    _spread(totals, groups, x[0].size // groups, eps, known)
    factors = np.empty((len(x), 2, x.shape[2]), np.float32)
    _forward_factors(known, weight, bias, factors)
    _each(_scaled, x, x, factors, rectified, found)
    return known


def way_back(slope: Array, x: Array, read: Array, weight: Array, known: Array, *, found: Array) -> Array:
    """Write the gradient of the input into ``found``; return those of weight and bias, ``[2, channel]``.

    Args:
        slope: the gradient of what :func:`normed` gave, ``[batch, row, place]``.
        x: what it was given.
        read: what it gave; the slope counts where that is not 0. The slope itself: everywhere.
        weight: ``[channel]``.
        known: what it returned.
        found: as ``x``.
    """
    totals = _totals(slope, x, read, len(weight))
    factors = np.empty((len(x), 3, x.shape[2]), np.float32)
    ours: Array = _backward_factors(totals, known, weight, x[0].size // known.shape[2], factors)
    _each(_joined, x, slope, x, read, factors, found)
    return ours


def _totals(a: Array, b: Array, read: Array, channels: int) -> Array:
    sums = np.empty((_parts(a), 2, a.shape[2]), np.float32)
    _each(_sums, a, a, b, read, sums)
    found: Array = _added(sums, len(a), channels)
    return found


def _parts(x: Array) -> int:
    rows: int = x.shape[1]
    return len(x) * math.ceil(rows / PART)


def _each(loop: Callable[..., None], over: Array, *given: Any) -> None:
    """Run a loop over all parts, on as many threads as torch has."""
    parts = _parts(over)
    threads = min(torch.get_num_threads(), parts)
    if threads == 1:
        loop(0, parts, *given)
        return
    edges = [parts * thread // threads for thread in range(threads + 1)]
    list(_pool(os.getpid(), threads).map(lambda edge: loop(*edge, *given), pairwise(edges)))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="medmm-norm")
