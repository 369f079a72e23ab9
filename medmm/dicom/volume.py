"""A volume or image: the planes of a plan, decoded, rescaled and turned to RAS+."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

import numpy as np

from medmm.arrays import Array, Bools, Float64
from medmm.dicom import tags
from medmm.dicom.certificate import Certificate
from medmm.dicom.geometry import canonical, canonical_affine, directions, to_ras
from medmm.dicom.header import spacing_of
from medmm.dicom.pixels import stored_frames
from medmm.dicom.planes import Plane
from medmm.dicom.regrid import regrid
from medmm.dicom.rescale import apply_rescale, output_dtype, padding_mask
from medmm.dicom.series import Plan
from medmm.errors import DicomRefusal

MAX_VOLUME_BYTES = 4 << 30
"""Most bytes of one array."""
ARRAY_SECONDS = 600.0
"""Longest that all planes of one array may take to decode, however quick each of them is."""
FEW_SLICES = 4
"""A volume of fewer slices is noted in its certificate."""
THICKNESS_TOLERANCE = 0.05
"""A SliceThickness that differs from the slice spacing by a larger share is noted."""
_DS_CHARACTERS = 16
"""Longest decimal string that the standard allows (PS3.5 6.2)."""


@dataclass(frozen=True)
class Volume:
    """One volume or image after the modality's look-up table.

    Attributes:
        array: ``[x, y, z]`` or ``[x, y, z, 3]``, axes pointing to R, A, S as closely as without resampling;
            ``[row, column]`` or ``[row, column, 3]`` as displayed for a 2-D image. int32 or float32 in the
            modality's units; colour as stored, RGB.
        spacing_mm: per spatial axis of ``array``, or None when the object has none.
        affine: 4×4, array index to RAS+ mm; (row, column, slice) in 2-D, where it may be None.
        valid: ``Bool``, the spatial shape of ``array``; False where a pixel is declared padding.
        photometric: "MONOCHROME1" (not inverted), "MONOCHROME2" or "RGB".
        bits_stored: of a stored value.
        rescale: (slope, intercept) of the first slice: ``array = slope × stored + intercept``.
        summary: the certificate without what must be measured on the array.
        frame_of_reference: FrameOfReferenceUID, by which masks find their image; "" where slices disagree.
        mask: ``Bool``, the spatial shape of ``array``, where a recipe asks for one beside the image.
    """

    array: Array
    spacing_mm: tuple[float, ...] | None
    affine: Float64 | None
    valid: Bools
    photometric: str
    bits_stored: int
    rescale: tuple[float, float]
    summary: Certificate = field(repr=False)
    frame_of_reference: str = field(default="", repr=False)
    mask: Bools | None = field(default=None, repr=False)

    @cached_property
    def certificate(self) -> Certificate:
        """Return the certificate; minimum, maximum and digest are computed when it is first asked for."""
        return self.summary.measured(self.array, self.valid)


def realise(plan: Plan, summary: Certificate) -> Volume:
    """Return the array of a plan for a volume or image; a stack that was refused is resampled.

    Raises:
        DicomRefusal: when its pixels cannot be decoded within bounds, or the stack not be resampled.
    """
    try:
        values, valid = _assembled(plan.planes)
        if plan.refusal is not None:
            values, valid, plan = _resampled(plan, values, valid)
    except MemoryError:
        raise DicomRefusal("resource_limit", "the array does not fit into memory") from None
    first = plan.planes[0]
    photometric = first.layout.photometric
    notes = _notes(plan)
    summary = replace(summary, rescale=_rescale_kind(plan.planes), units=_units(first), notes=notes)
    shown = photometric if photometric.startswith("MONOCHROME") else "RGB"
    spacing: tuple[float, ...] | None
    if plan.stack is None:
        array, valid, spacing, affine = values[0], valid[0], first.spacing, _plane_affine(first)
        axes = "row column"
    else:
        array, valid, spacing, affine = _to_canonical(plan, values, valid)
        axes = "RAS"
    summary = replace(summary, shape=array.shape, spacing_mm=spacing, orientation=axes)
    return Volume(
        array=array,
        spacing_mm=spacing,
        affine=affine,
        valid=valid,
        photometric=shown,
        bits_stored=first.layout.bits_stored,
        rescale=(first.slope, first.intercept),
        summary=summary,
        frame_of_reference=_frame_of_reference(plan.planes),
    )


def _frame_of_reference(planes: Sequence[Plane]) -> str:
    frames = {plane.header.text(tags.FRAME_OF_REFERENCE) for plane in planes}
    return frames.pop() if len(frames) == 1 else ""


def _resampled(plan: Plan, values: Array, valid: Bools) -> tuple[Array, Bools, Plan]:
    """Return the slices of a refused stack on a regular grid, and the plan with that grid."""
    first = plan.planes[0]
    if values.ndim > 3:
        raise DicomRefusal("inconsistent_geometry", "colour slices are not resampled")
    positions = np.array([plane.position for plane in plan.planes])
    orientation, spacing = first.orientation or (), first.spacing or ()
    made, known, stack = regrid(values, valid, positions, orientation, spacing, limit=MAX_VOLUME_BYTES)
    return made, known, replace(plan, stack=stack)


def _assembled(planes: Sequence[Plane]) -> tuple[Array, Bools]:
    """Return the modality's values ``[plane, row, column(, 3)]`` and where they are no padding."""
    first = planes[0]
    if len({plane.layout.bits_stored for plane in planes}) > 1 and first.layout.photometric == "MONOCHROME1":
        raise DicomRefusal("inconsistent_geometry", "MONOCHROME1 slices of different BitsStored")
    colour = first.layout.samples > 1 or first.layout.photometric == "PALETTE COLOR"
    shape = (len(planes), *first.shape, *((3,) if colour else ()))
    dtype = output_dtype(planes)
    if np.prod(shape, dtype=np.float64) * dtype.itemsize > MAX_VOLUME_BYTES:
        raise DicomRefusal("resource_limit", f"an array of shape {shape} is above the limit")
    values = np.empty(shape, dtype)
    valid: Bools | None = None
    deadline = time.monotonic() + ARRAY_SECONDS
    for index, (plane, stored) in enumerate(_decoded(planes)):
        if time.monotonic() > deadline:
            raise DicomRefusal("resource_limit", f"{index} of {len(planes)} planes took {ARRAY_SECONDS:g} s")
        padding = padding_mask(stored, plane)
        if padding is not None and padding.any():
            if valid is None:
                valid = np.ones(shape[:3], np.bool_)
            np.logical_not(padding, out=valid[index])
        apply_rescale(stored, plane, values[index])
    return values, np.broadcast_to(np.True_, shape[:3]) if valid is None else valid


def _decoded(planes: Sequence[Plane]) -> Iterator[tuple[Plane, Array]]:
    """Yield each plane with its stored values; the frames of one object are decoded in one go."""
    for _, run in groupby(planes, key=lambda plane: id(plane.header)):
        members = list(run)
        frames = list(dict.fromkeys(plane.frame for plane in members))
        images = zip(frames, stored_frames(members[0].header, members[0].layout, frames), strict=True)
        frame, image = next(images)
        for plane in members:
            if plane.frame != frame:
                frame, image = next(images)
            if plane.tile is None:
                yield plane, image
            else:
                top, left, rows, columns = plane.tile
                yield plane, image[top : top + rows, left : left + columns]


def _to_canonical(plan: Plan, values: Array, valid: Bools) -> tuple[Array, Bools, tuple[float, ...], Float64]:
    """Return array, valid, spacing and affine with the axes of RAS+."""
    assert plan.stack is not None
    array, mask = np.swapaxes(values, 0, 2), np.swapaxes(valid, 0, 2)  # [column, row, slice(, 3)]
    axes, signs = canonical(plan.stack.affine)
    affine = canonical_affine(plan.stack.affine, mask.shape)
    flips = tuple(slice(None, None, sign) for sign in signs)
    spacing = tuple(plan.stack.spacing_mm[axis] for axis in axes)
    moved = array.transpose(*axes, *range(3, array.ndim))[flips]
    return moved, mask.transpose(axes)[flips], spacing, affine


def _plane_affine(plane: Plane) -> Float64 | None:
    """Return (row, column, slice) → RAS+ mm of a 2-D image.

    Its third axis is the normal, SliceThickness long where there is one; it has no spacing of its own.
    """
    if plane.position is None or plane.orientation is None or plane.spacing is None:
        return None
    row, column, normal = directions(plane.orientation)
    thick = plane.thickness if plane.thickness and plane.thickness > 0 else 1.0
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = column * plane.spacing[0], row * plane.spacing[1]
    affine[:3, 2], affine[:3, 3] = normal * thick, plane.position
    return to_ras(affine)


def _rescale_kind(planes: Sequence[Plane]) -> str:
    if planes[0].header.elements.first(tags.MODALITY_LUT) is not None:
        return "lookup table"
    pairs = {(plane.slope, plane.intercept) for plane in planes}
    if len(pairs) > 1:
        return "per slice"
    return "none" if pairs == {(1.0, 0.0)} else "one"


def _units(plane: Plane) -> str:
    elements = plane.header.elements
    return elements.text(tags.PET_UNITS) or elements.text(tags.RESCALE_TYPE)


def _notes(plan: Plan) -> tuple[str, ...]:
    """Return what a reader should know and no refusal says."""
    first, notes = plan.planes[0], []
    place = spacing_of(first.header)[1]
    if plan.stack is None and first.spacing is None:
        notes.append("no pixel spacing")
    if first.spacing is not None and place not in ("", "in the patient"):
        notes.append(f"spacing measured {place}")
    if plan.stack is None and first.orientation is None:
        notes.append("no orientation")
    if plan.stack is not None:
        distance = plan.stack.spacing_mm[2]
        if len(plan.planes) < FEW_SLICES:
            notes.append(f"only {len(plan.planes)} slices")
        if first.thickness and abs(first.thickness / distance - 1) > THICKNESS_TOLERANCE:
            notes.append(f"SliceThickness {first.thickness:g} mm, slice spacing {distance:g} mm")
    if plan.refusal is not None:
        notes.append(f"resampled linearly: {plan.refusal.detail}")
    if any(plane.header.parsed.overlays for plane in plan.planes):
        notes.append("overlays (not burnt in)")
    if any(_long_decimal(plane) for plane in plan.planes):
        notes.append("decimal strings longer than 16 characters")
    return tuple(notes)


def _long_decimal(plane: Plane) -> bool:
    elements = plane.header.elements
    texts = elements.texts(tags.IMAGE_POSITION) + elements.texts(tags.IMAGE_ORIENTATION)
    return any(len(value) > _DS_CHARACTERS for value in (*texts, *elements.texts(tags.PIXEL_SPACING)))
