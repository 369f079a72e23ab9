"""The grid that an image is resampled to: how fine, how large, within what the machine can carry.

The rules follow nnU-Net's: a grid is never finer than the cohort's median series, an axis that was sampled
coarser keeps its spacing, and the size is what memory allows; where a processor does the work, time allows
less than memory does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, isfinite, log10, prod
from typing import Literal

from medmm.planning.fingerprint import ImagePrint, Spread
from medmm.planning.machine import Machine

STEP = 8
"""Sizes are multiples of it: three strided convolutions halve them evenly."""
MARGIN = 1.1
"""Room about what 95 % of the series need; only some of them were looked at."""
FARTHEST = 2.0
"""A grid spans at most so many times the median: a few whole-body scans do not decide for all heads."""
PER_CORE = {2: 1 << 13, 3: 1 << 15}
"""Voxels of a grid per core: a cohort of hundreds is then cross-validated in minutes to an hour."""
FEWEST_CORES, MOST_CORES = 2, 16
PER_ACCELERATOR = {2: 1 << 18, 3: 1 << 21}
"""Voxels of a grid where a GPU does the work: 512 x 512, 128 x 128 x 128."""
LONGEST = 2048
"""Voxels along one axis, however few there are across."""
UNKNOWN_MEMORY = 4 << 30
"""Assumed where the machine does not say."""
MEMORY_SHARE = 0.5
"""Of the memory; the rest is for the interpreter, the tables and whatever else runs."""
BYTES_PER_ACTIVATION = 24
"""Measured at 11 to 18 in a step of the "cnn", forward and backward in float32."""
LARGEST_BATCH = 32
WIDEST = (32, 64, 128, 256, 512, 1024)
"""Channels of the largest encoder proposed. Grids are planned for it and for the largest batch, so that more
patients never mean a smaller grid."""
EVEN_ASPECT = 1.05
UNEVEN_ASPECT = 1.75
"""Pictures whose proportions differ by less than the one or more than the other are not cut (``fit``)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid, and why.

    Attributes:
        spacing_mm: of a recipe.
        shape: voxels per axis.
        why_spacing: one line.
        why_shape: one line.
    """

    spacing_mm: tuple[float, ...] | Literal["fit", "fill"]
    shape: tuple[int, ...]
    why_spacing: str
    why_shape: str


def activations(channels: Sequence[int], spatial_dims: int, in_channels: int) -> float:
    """Return how many values a "cnn" keeps per voxel of its input: the image, then a map per convolution."""
    maps = (width / float(1 << spatial_dims * level) for level, width in enumerate(channels, 1))
    return in_channels + sum(maps)


def step_bytes(shape: Sequence[int], *, batch: int, channels: Sequence[int], in_channels: int) -> float:
    """Return the memory of one training step, estimated from above."""
    per_voxel: float = activations(channels, len(shape), in_channels)
    voxels: int = prod(shape)
    return BYTES_PER_ACTIVATION * batch * voxels * per_voxel


def least_bytes(batch: int, axes: int, in_channels: int) -> float:
    """Return what a training step takes on the smallest grid there is, with the largest encoder."""
    return step_bytes((STEP,) * axes, batch=batch, channels=WIDEST, in_channels=in_channels)


def usable(machine: Machine) -> float:
    """Return the bytes that a training step may take."""
    return MEMORY_SHARE * (machine.accelerator_bytes or machine.memory_bytes or UNKNOWN_MEMORY)


def most_voxels(machine: Machine, axes: int, in_channels: int) -> tuple[int, str]:
    """Return the largest grid that the machine carries, and what sets the limit."""
    each = BYTES_PER_ACTIVATION * LARGEST_BATCH * activations(WIDEST, axes, in_channels)
    held = max(STEP**axes, int(usable(machine) / each))
    if machine.accelerator_bytes:
        timed, why = PER_ACCELERATOR[axes], f"{PER_ACCELERATOR[axes]:,} voxels on a GPU"
    else:
        cores = min(MOST_CORES, max(FEWEST_CORES, machine.cores))
        timed = cores * PER_CORE[axes]
        why = f"{timed:,} voxels, what {cores} cores train on in time"
    if timed <= held:
        return timed, why
    known = machine.accelerator_bytes or machine.memory_bytes
    told = f"{known / 2**30:.1f} GB of memory" if known else "memory of unknown size (4 GB assumed)"
    return held, f"{held:,} voxels, what {told} holds in batches of {LARGEST_BATCH}"


def plan_grid(image: ImagePrint, machine: Machine) -> Grid:
    """Return the grid of one block."""
    axes = len(image.matrix)
    if not axes:
        return Grid("fit", (64, 64), "no series could be read", "no series could be read; look at it again")
    most, limit = most_voxels(machine, axes, image.channels)
    if axes == 2 or not image.spacing_mm:
        return _scaled(image, most, limit)
    native = [one.median for one in image.spacing_mm]
    needed, what = _field_of_view(image)
    step = min(native)
    while _too_large(_shape(needed, _spacing(native, step)), most) and step < max(needed):
        step *= 1.02
    spacing = _spacing(native, step)
    shape = _shape(needed, spacing)
    own = f"median spacing {_by(native)} mm"
    why = own if spacing == _tidy(native) else f"{own}, coarser so that the grid stays within {limit}"
    spans = tuple(round(n * mm) for n, mm in zip(shape, spacing, strict=True))
    return Grid(spacing, shape, why, f"{_by(spans)} mm; {what}")


def _too_large(shape: Sequence[int], most: int) -> bool:
    return prod(shape) > most or max(shape) > LONGEST


def _field_of_view(image: ImagePrint) -> tuple[list[float], str]:
    """Return what a grid must span per axis, in mm, and why."""
    labelled = image.kind == "label_map"
    seen = image.reach_mm or image.extent_mm
    needed = [min(_high(one) * MARGIN, FARTHEST * one.median) for one in seen]
    if not labelled:  # beyond the image is nothing to see
        needed = [min(mm, _high(one)) for mm, one in zip(needed, image.extent_mm, strict=True)]
    told = "most of" if any(one.high is None for one in seen) else "95 % of"
    if not image.reach_mm:
        return needed, f"the whole image of {told} the series: no foreground was found"
    what = "the labels" if labelled else "what is brighter than the background"
    return needed, f"holds {what} in {told} the series, with a margin"


def _scaled(image: ImagePrint, most: int, limit: str) -> Grid:
    """Return a grid into which each whole image is scaled, whatever its spacing."""
    native = [one.median for one in image.matrix]
    step = 1.0
    while _too_large(_shape(native, [step] * len(native)), most) and step < max(native):
        step *= 1.02
    shape = _shape(native, [step] * len(native))
    why_shape = f"the proportions of the median image ({_by(native)}), within {limit}"
    if len(native) == 3:
        return Grid("fit", shape, "the series state no spacing: each is scaled whole", why_shape)
    differ = _ratio(image.aspect)
    if EVEN_ASPECT < differ <= UNEVEN_ASPECT:
        why = "padding would show each picture's proportions, which tell how it was taken"
        return Grid("fill", shape, why, why_shape)
    if differ <= EVEN_ASPECT:
        why = "all have one shape"
    else:
        why = "filling would cut off too much" if isfinite(differ) else "of too few are the proportions known"
    return Grid("fit", shape, f"whole pictures: {why}", why_shape)


def _ratio(aspect: Spread | None) -> float:
    """Return by how much proportions differ; infinite where that is not known."""
    if aspect is None or aspect.low is None or aspect.high is None:
        return inf
    return aspect.high / aspect.low


def _high(one: Spread) -> float:
    return one.high if one.high is not None else one.median * MARGIN


def _spacing(native: Sequence[float], step: float) -> tuple[float, ...]:
    return _tidy([max(mm, step) for mm in native])


def _tidy(values: Sequence[float]) -> tuple[float, ...]:
    """Return numbers of two digits, rounded up except where the third is noise."""
    return tuple(_two_digits(value) for value in values)


def _two_digits(value: float) -> float:
    unit = 10.0 ** (floor(log10(value)) - 1)
    return float(f"{ceil(value / unit - 0.05) * unit:.2g}")


def _shape(needed: Sequence[float], spacing: Sequence[float]) -> tuple[int, ...]:
    steps = (mm / (each * STEP) for mm, each in zip(needed, spacing, strict=True))
    return tuple(STEP * max(1, ceil(count - 0.01)) for count in steps)


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
