"""From the headers of a series to its volumes and images: what belongs together, how, or why not."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medmm.dicom import tags
from medmm.dicom.geometry import (
    SPACING_TOLERANCE,
    Stack,
    position_groups,
    regular_stack,
    same_orientation,
)
from medmm.dicom.header import Header, kind_of
from medmm.dicom.mosaic import is_mosaic, tiles_of
from medmm.dicom.pixels import stored_frames
from medmm.dicom.planes import CONTRASTS, SPLITTING, Plane, planes_of
from medmm.errors import DicomRefusal

_VOLUMETRIC = frozenset({"CT", "MR", "PT"})
"""Modalities whose slices make a volume; a slice of theirs without geometry is not a picture of its own."""
_MOST_TRAITS_COMBINED = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """One array to be: an image, a volume, a waveform, or a refusal.

    Attributes:
        kind: "image", "volume" or "waveform".
        headers: the objects it is made of.
        planes: in the order of the array; as they come where the stack is refused; empty for a waveform
            and for any other refusal.
        stack: the grid of a volume.
        refusal: why it cannot become an array.
        told_apart_by: the elements that separate it from the other volumes of its series.
    """

    kind: str
    headers: tuple[Header, ...]
    planes: tuple[Plane, ...] = ()
    stack: Stack | None = None
    refusal: DicomRefusal | None = None
    told_apart_by: tuple[str, ...] = ()


@dataclass(slots=True)
class SeriesPlan:
    """What a series becomes: its plans, and the files set aside with their reasons."""

    plans: list[Plan] = field(default_factory=list)
    set_aside: list[tuple[Path, str]] = field(default_factory=list)


def group(headers: Iterable[Header]) -> dict[tuple[str, str], list[Header]]:
    """Return the headers by (StudyInstanceUID, SeriesInstanceUID), each group in an order of its own.

    The order of files, folders and file names plays no part in it.
    """
    groups: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.text(tags.STUDY_INSTANCE), header.text(tags.SERIES_INSTANCE)].append(header)
    for members in groups.values():
        members.sort(key=lambda header: (header.text(tags.SOP_INSTANCE), header.path.as_posix()))
    return dict(sorted(groups.items()))


def plan_series(headers: Sequence[Header]) -> SeriesPlan:
    """Plan the arrays of one series.

    Raises:
        DicomRefusal: when the series as a whole must not be used.
    """
    found = SeriesPlan()
    if len({header.patient for header in headers}) > 1:
        raise DicomRefusal("multiple_patients", "one SeriesInstanceUID is shared by several patients")
    single: list[Plane] = []
    for header in headers:
        kind = kind_of(header)
        if kind == "waveform":
            found.plans.append(Plan("waveform", (header,)))
        elif kind != "image":
            found.set_aside.append((header.path, kind))
        elif is_mosaic(header):
            found.plans.append(_mosaic(header))
        else:
            planes = planes_of(header)
            if len(planes) > 1:
                found.plans.extend(_multiframe(planes))
            else:
                single.extend(planes)
    if len(single) > 1 and not single[0].header.text(tags.SERIES_INSTANCE):
        raise DicomRefusal("missing_tags", "several files without a SeriesInstanceUID")
    found.plans.extend(_single_frame(single, found))
    return found


def _mosaic(header: Header) -> Plan:
    try:
        return _stacked(tiles_of(header))
    except DicomRefusal as refusal:
        return Plan("volume", (header,), refusal=refusal)


def _multiframe(planes: list[Plane]) -> list[Plan]:
    """Plan one multi-frame object: the volumes of its functional groups, or a refusal."""
    header = planes[0].header
    try:
        if not all(plane.placed for plane in planes):
            spatial = header.text(tags.MODALITY) in _VOLUMETRIC
            reason = "missing_geometry" if spatial else "multiframe_not_spatial"
            raise DicomRefusal(reason, "the frames have no place in space")
        if len({plane.position for plane in planes}) == 1:
            raise DicomRefusal("multiframe_not_spatial", "the frames share one place")
        check_uniform(planes)
        return _volumes(planes, SeriesPlan())
    except DicomRefusal as refusal:
        return [Plan("volume", (header,), refusal=refusal)]


def _single_frame(planes: list[Plane], found: SeriesPlan) -> list[Plan]:
    """Plan the single-frame images of a series."""
    if len(planes) <= 1:
        return [_stacked([plane]) for plane in planes]
    planes = _without_copies(_without_localizers(planes, found), found)
    placed = [plane for plane in planes if plane.placed]
    if not placed:
        if any(_volumetric(plane) for plane in planes):
            raise DicomRefusal("missing_geometry", "no slice has a position and an orientation")
        return [_stacked([plane]) for plane in planes]
    found.set_aside.extend((plane.header.path, "no_geometry") for plane in planes if not plane.placed)
    if len(placed) == 1:
        return [_stacked(placed)]
    check_uniform(placed)
    return _volumes(placed, found)


def _volumetric(plane: Plane) -> bool:
    return plane.header.text(tags.MODALITY) in _VOLUMETRIC


def _without_localizers(planes: list[Plane], found: SeriesPlan) -> list[Plane]:
    """Set localizers aside, unless the whole series consists of them."""
    kept = [plane for plane in planes if not plane.localizer]
    if kept and len(kept) < len(planes):
        found.set_aside.extend((plane.header.path, "localizer") for plane in planes if plane.localizer)
        return kept
    return planes


def _without_copies(planes: list[Plane], found: SeriesPlan) -> list[Plane]:
    """Set copies of one instance aside; two different images under one SOPInstanceUID are refused."""
    kept: dict[str, Plane] = {}
    for plane in planes:
        uid = plane.header.text(tags.SOP_INSTANCE) or plane.header.path.as_posix()
        first = kept.setdefault(uid, plane)
        if first is plane:
            continue
        if not (_same_place(first, plane) and content_of(first) == content_of(plane)):
            raise DicomRefusal("duplicate_uid", "two different images share one SOPInstanceUID")
        found.set_aside.append((plane.header.path, "duplicate"))
    return list(kept.values())


def _same_place(first: Plane, second: Plane) -> bool:
    return (first.position, first.orientation) == (second.position, second.orientation)


def content_of(plane: Plane) -> tuple[Any, ...]:
    """Return what makes a plane's values, in whatever transfer syntax: equal content, equal values."""
    stored = next(stored_frames(plane.header, plane.layout, [plane.frame]))
    digest = hashlib.sha256(np.ascontiguousarray(stored, stored.dtype.newbyteorder("<")).data).digest()
    return plane.shape, plane.slope, plane.intercept, digest


def check_uniform(planes: Sequence[Plane]) -> None:
    """Refuse planes that cannot lie in one grid, whatever their order.

    Raises:
        DicomRefusal: ``inconsistent_geometry``, ``missing_geometry`` or ``unsupported_photometric``.
    """
    first = planes[0]
    if len({plane.shape for plane in planes}) > 1:
        raise DicomRefusal("inconsistent_geometry", "the slices differ in Rows or Columns")
    kinds = {(plane.layout.photometric, plane.layout.samples) for plane in planes}
    if len({_colour_kind(photometric) for photometric, _ in kinds}) > 1:
        raise DicomRefusal("inconsistent_geometry", "the slices differ in PhotometricInterpretation")
    frames = {plane.header.text(tags.FRAME_OF_REFERENCE) for plane in planes} - {""}
    # A new one for every slice is a writer's slip that says nothing about where the slices lie.
    if 1 < len(frames) < len(planes):
        raise DicomRefusal("inconsistent_geometry", "the slices lie in different frames of reference")
    if first.spacing is None or any(plane.spacing is None for plane in planes):
        raise DicomRefusal("missing_geometry", "slices without PixelSpacing")
    spacings = np.array([plane.spacing for plane in planes])
    if np.abs(spacings / spacings[0] - 1).max() > SPACING_TOLERANCE:
        raise DicomRefusal("inconsistent_geometry", "the slices differ in PixelSpacing")
    orientation = first.orientation or ()
    if not all(same_orientation(orientation, plane.orientation or ()) for plane in planes):
        raise DicomRefusal("inconsistent_geometry", "the slices differ in orientation")


def _colour_kind(photometric: str) -> str:
    return "colour" if photometric.startswith(("RGB", "YBR")) else photometric


def _volumes(planes: list[Plane], found: SeriesPlan) -> list[Plan]:
    """Split placed planes into volumes and stack each."""
    parts = split(planes, found)
    told_apart = _differing(parts) if len(parts) > 1 else ()
    return [_stacked(part, told_apart) for part in parts]


def _differing(parts: list[list[Plane]]) -> tuple[str, ...]:
    """Return the names of the traits that are constant in each part and differ between parts."""
    constant = [
        index
        for index in range(len(SPLITTING))
        if all(len({p.traits[index] for p in part}) == 1 for part in parts)
    ]
    return tuple(SPLITTING[i] for i in constant if len({part[0].traits[i] for part in parts}) > 1)


def _stacked(planes: Sequence[Plane], told_apart_by: tuple[str, ...] = ()) -> Plan:
    """Plan one image, or one volume; a stack that is not regular is a refusal of that volume alone."""
    headers = tuple({id(plane.header): plane.header for plane in planes}.values())
    if len(planes) == 1:
        return Plan("image", headers, tuple(planes), told_apart_by=told_apart_by)
    first = planes[0]
    positions = np.array([plane.position for plane in planes])
    try:
        stack = regular_stack(positions, first.orientation or (), first.spacing or ())
    except DicomRefusal as refusal:
        return Plan("volume", headers, tuple(planes), refusal=refusal, told_apart_by=told_apart_by)
    return Plan("volume", headers, tuple(planes[i] for i in stack.order), stack, told_apart_by=told_apart_by)


def split(planes: list[Plane], found: SeriesPlan) -> list[list[Plane]]:
    """Split the placed planes of a series into volumes in which no two slices share a place.

    A collision is resolved by the elements that tell volumes apart; where none does, slices that are equal
    in every pixel are one slice, and others are refused: their order would be a guess.

    Raises:
        DicomRefusal: ``duplicate_slices`` or ``multiple_volumes`` when nothing tells the slices apart.
    """
    parts = _by_traits(planes, range(CONTRASTS))
    # A contrast that is another one for every slice is no contrast but a slip of the writer.
    if 1 < len(parts) < len(planes):
        return [piece for part in parts for piece in split_collisions(part, found)]
    return split_collisions(planes, found)


def split_collisions(planes: list[Plane], found: SeriesPlan) -> list[list[Plane]]:
    """Split planes that share places; see :func:`split`."""
    places = _places(planes)
    most = max(Counter(places).values())
    if most == 1:
        return [planes]
    place = dict(zip(map(id, planes), places, strict=True))
    balanced = _telling(planes, place, most, equal=True)
    if balanced:
        return balanced
    kept = _without_equal_slices(planes, place, found)
    if len(kept) < len(planes):
        return split_collisions(kept, found)
    unbalanced = _telling(planes, place, most, equal=False)
    if unbalanced:
        return unbalanced
    if len(set(Counter(places).values())) == 1 and len(set(places)) > 1:
        raise DicomRefusal(
            "multiple_volumes", f"{most} slices at each place, and no element tells them apart"
        )
    raise DicomRefusal("duplicate_slices", "different slices at one place, and no element tells them apart")


def _places(planes: Sequence[Plane]) -> list[int]:
    first = planes[0]
    positions = np.array([plane.position for plane in planes])
    return position_groups(positions, first.orientation or (), first.spacing or ())


def _by_traits(planes: Iterable[Plane], indices: Iterable[int]) -> list[list[Plane]]:
    chosen = tuple(indices)
    parts: dict[tuple[Any, ...], list[Plane]] = defaultdict(list)
    for plane in planes:
        parts[tuple(plane.traits[index] for index in chosen)].append(plane)
    return [parts[key] for key in sorted(parts, key=repr)]


def _telling(
    planes: list[Plane], place: dict[int, int], most: int, *, equal: bool
) -> list[list[Plane]] | None:
    """Return the split into ``most`` volumes by the fewest elements under which no places collide."""
    varying = [index for index in range(len(SPLITTING)) if len({plane.traits[index] for plane in planes}) > 1]
    for count in range(1, _MOST_TRAITS_COMBINED + 1):
        for indices in combinations(varying, count):
            parts = _by_traits(planes, indices)
            if len(parts) != most or (equal and len({len(part) for part in parts}) > 1):
                continue
            if all(len({place[id(plane)] for plane in part}) == len(part) for part in parts):
                return parts
    return None


def _without_equal_slices(planes: list[Plane], place: dict[int, int], found: SeriesPlan) -> list[Plane]:
    """Set aside slices that repeat another one at the same place, pixel by pixel."""
    kept: list[Plane] = []
    seen: set[tuple[Any, ...]] = set()
    for plane in planes:
        content = (place[id(plane)], *content_of(plane))
        if content in seen:
            found.set_aside.append((plane.header.path, "duplicate"))
            continue
        seen.add(content)
        kept.append(plane)
    return kept
