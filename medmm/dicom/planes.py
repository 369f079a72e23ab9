"""Every two-dimensional image of an object, with its own geometry and rescale.

One vocabulary for single-frame objects and for the functional groups of multi-frame ones (PS3.3 C.7.6.16).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, get_args

from medmm.columns import VolumeElement
from medmm.dicom import tags
from medmm.dicom.elements import Elements
from medmm.dicom.geometry import Vector, checked_orientation, checked_position, directions
from medmm.dicom.header import MAX_SPACING_MM, Header, Layout, checked_spacing, layout_of, spacing_of
from medmm.errors import DicomRefusal

NAMED: tuple[VolumeElement, ...] = get_args(VolumeElement)
"""Elements that a volume can be asked for by; the two others may be of one patient alone."""
_DIFFUSION = NAMED.index("DiffusionBValue") + 1
SPLITTING: tuple[str, ...] = (
    *NAMED[:_DIFFUSION],
    "DiffusionGradientOrientation",
    *NAMED[_DIFFUSION:],
    "AcquisitionTime",
)
"""What may tell the volumes of one series apart, in the order in which it is tried."""
CONTRASTS = 7
"""The first so many of :data:`SPLITTING` are one value per volume: they split it even without a collision."""


_IMAGE_TYPE = SPLITTING.index("ImageType")


@dataclass(frozen=True, slots=True)
class Plane:
    """One two-dimensional image.

    Attributes:
        frame: which frame of the object.
        tile: (first row, first column, rows, columns) inside the frame, for a mosaic.
        position: of the first pixel's centre, LPS mm.
        orientation: six direction cosines.
        spacing: (between rows, between columns) in mm.
        slope: of the rescale; 1 where there is none.
        intercept: of the rescale; 0 where there is none.
        thickness: SliceThickness in mm.
        traits: values of :data:`SPLITTING`.
    """

    header: Header
    layout: Layout
    frame: int
    tile: tuple[int, int, int, int] | None
    position: Vector | None
    orientation: Vector | None
    spacing: tuple[float, float] | None
    slope: float
    intercept: float
    thickness: float | None
    traits: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return (self.layout.rows, self.layout.columns) if self.tile is None else self.tile[2:]

    @property
    def placed(self) -> bool:
        """Return whether it says where in the patient it lies."""
        return self.position is not None and self.orientation is not None

    @property
    def localizer(self) -> bool:
        """Return whether ImageType calls it a localizer."""
        return "LOCALIZER" in self.traits[_IMAGE_TYPE]


def planes_of(header: Header) -> list[Plane]:
    """Return the planes of one object, in stored order.

    Raises:
        DicomRefusal: when the header contradicts itself.
    """
    layout = layout_of(header)
    shared = header.elements.first(tags.SHARED_GROUPS)
    per_frame = header.elements.sequences.get(tags.PER_FRAME_GROUPS, [])
    if shared is None and not per_frame:
        planes = [_classic(header, layout, frame) for frame in range(layout.frames)]
        return _reconstructed(header, planes) if header.sop_class == NUCLEAR_MEDICINE else planes
    if not per_frame:
        per_frame = [Elements()] * layout.frames
    if len(per_frame) != layout.frames:
        raise DicomRefusal("corrupt", f"{len(per_frame)} functional groups for {layout.frames} frames")
    return [
        _functional(header, layout, index, (own, shared or Elements())) for index, own in enumerate(per_frame)
    ]


NUCLEAR_MEDICINE = "1.2.840.10008.5.1.4.1.1.20"


def _reconstructed(header: Header, planes: list[Plane]) -> list[Plane]:
    """Return the frames of a nuclear medicine reconstruction with their places (PS3.3 C.8.4.15).

    The first frame's place stands in the detector's item; the sign of SpacingBetweenSlices says to which
    side of its normal the others follow. Frames that are not slices stay without a place.
    """
    elements = header.elements
    detector = elements.first(tags.DETECTOR_INFORMATION) or Elements()
    position = checked_position(detector.numbers(tags.IMAGE_POSITION))
    orientation = checked_orientation(detector.numbers(tags.IMAGE_ORIENTATION))
    step = elements.number(tags.SPACING_BETWEEN_SLICES) or 0.0
    slices = elements.numbers(tags.SLICE_VECTOR) == tuple(range(1, len(planes) + 1))
    if position is None or orientation is None or not 0 < abs(step) <= MAX_SPACING_MM or not slices:
        return planes
    normal = directions(orientation)[2]
    return [
        replace(
            plane,
            position=tuple(
                float(start + index * step * along) for start, along in zip(position, normal, strict=True)
            ),
            orientation=orientation,
        )
        for index, plane in enumerate(planes)
    ]


def _classic(header: Header, layout: Layout, frame: int) -> Plane:
    elements = header.elements
    projection = header.projection
    slope, intercept = checked_rescale(elements, layout)
    return Plane(
        header,
        layout,
        frame,
        None,
        None if projection else checked_position(elements.numbers(tags.IMAGE_POSITION)),
        None if projection else checked_orientation(elements.numbers(tags.IMAGE_ORIENTATION)),
        spacing_of(header)[0],
        slope,
        intercept,
        elements.number(tags.SLICE_THICKNESS),
        _classic_traits(elements),
    )


def _classic_traits(elements: Elements) -> tuple[Any, ...]:
    b_value = elements.number(tags.B_VALUE)
    for creator, block, tag in _PRIVATE_B_VALUES:
        if b_value is None and elements.text(block).startswith(creator):
            b_value = elements.number(tag)

    def plain(tag: int) -> float | None:
        return _plain(elements.number(tag))

    return (
        "",
        elements.text(tags.ECHO_NUMBERS),
        plain(tags.ECHO_TIME),
        _plain(b_value),
        elements.numbers(tags.GRADIENT_ORIENTATION),
        elements.text(tags.CONVOLUTION_KERNEL),
        plain(tags.TEMPORAL_POSITION),
        plain(tags.INVERSION_TIME),
        plain(tags.FLIP_ANGLE),
        plain(tags.ACQUISITION_NUMBER),
        plain(tags.TRIGGER_TIME),
        plain(tags.FRAME_REFERENCE_TIME),
        elements.texts(tags.IMAGE_TYPE),
        elements.text(tags.ACQUISITION_TIME),
    )


_PRIVATE_B_VALUES = (
    ("SIEMENS MR HEADER", tags.SIEMENS_CREATOR, tags.SIEMENS_B_VALUE),
    ("GEMS_PARM_01", tags.GE_CREATOR, tags.GE_B_VALUE),
    ("Philips Imaging DD 001", tags.PHILIPS_CREATOR, tags.PHILIPS_B_VALUE),
)
"""Where vendors put the b-value before the standard had a place for it: creator, its element, the value."""


def _plain(value: float | None) -> float | None:
    """Return a number that equals itself, for grouping."""
    return None if value is None or math.isnan(value) else value


def _functional(header: Header, layout: Layout, index: int, groups: tuple[Elements, Elements]) -> Plane:
    def find(sequence: int) -> Elements:
        return next((item for item in (group.first(sequence) for group in groups) if item), Elements())

    measures = find(tags.PIXEL_MEASURES)
    transformation = find(tags.PIXEL_VALUE_TRANSFORMATION)
    if not transformation.values:
        transformation = header.elements
    slope, intercept = checked_rescale(transformation, layout)
    return Plane(
        header,
        layout,
        index,
        None,
        checked_position(find(tags.PLANE_POSITION).numbers(tags.IMAGE_POSITION)),
        checked_orientation(find(tags.PLANE_ORIENTATION).numbers(tags.IMAGE_ORIENTATION)),
        checked_spacing(measures.numbers(tags.PIXEL_SPACING)),
        slope,
        intercept,
        measures.number(tags.SLICE_THICKNESS),
        _functional_traits(find),
    )


def _functional_traits(find: Any) -> tuple[Any, ...]:
    content, diffusion = find(tags.FRAME_CONTENT), find(tags.MR_DIFFUSION)
    kinds = [find(tag) for tag in (tags.MR_FRAME_TYPE, tags.CT_FRAME_TYPE, tags.PET_FRAME_TYPE)]
    frame_type = next((kind for kind in kinds if kind.values), Elements())
    return (
        content.text(tags.STACK_ID),
        "",
        find(tags.MR_ECHO).number(tags.EFFECTIVE_ECHO_TIME),
        _plain(diffusion.number(tags.B_VALUE)),
        (diffusion.first(tags.GRADIENT_DIRECTION) or Elements()).numbers(tags.GRADIENT_ORIENTATION),
        find(tags.CT_RECONSTRUCTION).text(tags.CONVOLUTION_KERNEL),
        content.number(tags.TEMPORAL_POSITION_INDEX),
        "",
        "",
        content.number(tags.FRAME_ACQUISITION_NUMBER),
        find(tags.CARDIAC_SYNCHRONIZATION).number(tags.TRIGGER_DELAY),
        "",
        (*frame_type.texts(tags.FRAME_TYPE), frame_type.text(tags.COMPLEX_COMPONENT)),
        "",
    )


def checked_rescale(elements: Elements, layout: Layout) -> tuple[float, float]:
    """Return (slope, intercept), (1, 0) where absent.

    Raises:
        DicomRefusal: ``invalid_rescale`` when the slope is zero or the result would not be finite.
    """
    slope, intercept = elements.number(tags.RESCALE_SLOPE), elements.number(tags.RESCALE_INTERCEPT)
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    largest = abs(slope) * 2.0**layout.bits_stored + abs(intercept)
    if slope == 0 or not math.isfinite(largest) or largest > MAX_VALUE:
        raise DicomRefusal(
            "invalid_rescale", "RescaleSlope or RescaleIntercept is zero or not a usable number"
        )
    return slope, intercept


MAX_VALUE = 1e30
"""Largest magnitude after the rescale; far below what float32 holds."""
