"""Segmentations (PS3.3 A.51) and structure sets (A.19) as masks on the grid of the series they were drawn on.

Nothing is resampled: a mask drawn on another grid is refused, because half a voxel is a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmm.arrays import Bools, Float64
from medmm.dicom import tags
from medmm.dicom.contours import check_frames, draw_contours
from medmm.dicom.geometry import Vector, lps_to_index
from medmm.dicom.header import read_header
from medmm.dicom.references import MaskReference, reference_of
from medmm.dicom.segmentation import background, paint_segments
from medmm.dicom.volume import MAX_VOLUME_BYTES, Volume
from medmm.errors import DicomRefusal


@dataclass(frozen=True)
class Mask:
    """Structures on the grid of a volume or image.

    Attributes:
        array: ``Bool[structure x y z]`` (RAS+) or ``Bool[structure row column]``, on the reference's grid.
        names: SegmentLabel or ROIName per structure.
        spacing_mm: of the reference.
        affine: of the reference.
        kind: "SEG" or "RTSTRUCT".
        notes: what was left out.
    """

    array: Bools
    names: tuple[str, ...]
    spacing_mm: Vector | None
    affine: Float64
    kind: str
    notes: tuple[str, ...] = ()

    def box(self, margin_mm: float = 0.0) -> tuple[slice, ...]:
        """Return the box around all structures, per axis of the reference's array, to crop it with.

        Args:
            margin_mm: added on every side, as far as the array reaches.

        Raises:
            DicomRefusal: ``no_pixel_data`` when nothing is drawn; ``invalid_spacing`` when a margin is asked
                of an image without spacing.
        """
        drawn = np.asarray(self.array.any(axis=0))
        if not drawn.any():
            raise DicomRefusal("no_pixel_data", "the structures are empty")
        if margin_mm and self.spacing_mm is None:
            raise DicomRefusal("invalid_spacing", "a margin in mm around an image without spacing")
        box, places = [], np.nonzero(drawn)
        for axis, size in enumerate(drawn.shape):
            low, high = int(places[axis].min()), int(places[axis].max())
            margin = round(margin_mm / self.spacing_mm[axis]) if self.spacing_mm else 0
            box.append(slice(max(low - margin, 0), min(high + 1 + margin, size)))
        return tuple(box)


def load_mask(path: Path, reference: Volume, *, structures: Sequence[str] | None = None) -> Mask:
    """Load a segmentation or structure set as masks on the grid of the series it was drawn on.

    Args:
        path: a SEG (binary, fractional from half of its maximum on, or label map) or an RTSTRUCT, whose
            closed contours are filled even-odd, slice by slice.
        reference: the volume or image that gives the grid.
        structures: labels to load, upper or lower case; all by default, but the background of a label map.

    Raises:
        DicomRefusal: ``unsupported_sop``; ``inconsistent_geometry`` when it was drawn on something else;
            ``missing_geometry``, ``missing_tags`` when a structure is not there, ``resource_limit`` …
    """
    header = read_header(path, tags.MASKED)
    drawn_on = reference_of(header)
    affine = _checked_affine(drawn_on, reference)
    chosen = _chosen(drawn_on.structures, structures)
    if drawn_on.kind == "RTSTRUCT":
        series = reference.summary.series_uid
        check_frames(header, chosen, frame=reference.frame_of_reference, series=series)
    elif structures is None:
        left_out = background(header)
        chosen = [position for position in chosen if position not in left_out]
    shape = reference.valid.shape
    if len(chosen) * reference.valid.size > MAX_VOLUME_BYTES:
        raise DicomRefusal("resource_limit", f"{len(chosen)} masks of shape {shape}; name fewer structures")
    canvas = np.zeros((len(chosen), *shape), np.bool_)
    grid = canvas if len(shape) == 3 else canvas[..., None]
    draw = paint_segments if drawn_on.kind == "SEG" else draw_contours
    notes = draw(header, grid, lps_to_index(affine), chosen)
    names = tuple(drawn_on.structures[index] for index in chosen)
    return Mask(canvas, names, reference.spacing_mm, affine, drawn_on.kind, notes)


def _checked_affine(drawn_on: MaskReference, reference: Volume) -> Float64:
    """Return the image's affine, if a mask was drawn on that image."""
    named = set(drawn_on.frames_of_reference) - {""}
    by_frame = reference.frame_of_reference in named
    if not by_frame and reference.summary.series_uid not in set(drawn_on.series_uids) - {""}:
        raise DicomRefusal(
            "inconsistent_geometry", "the mask names neither the series nor its frame of reference"
        )
    if drawn_on.kind == "SEG" and named and reference.frame_of_reference not in (named | {""}):
        # Its frames are placed in the frame that it states (PS3.3 C.7.4.1), which is another space, whatever
        # series it names and wherever the numbers happen to fall.
        raise DicomRefusal("inconsistent_geometry", "the segmentation lies in another frame of reference")
    if reference.affine is None:
        raise DicomRefusal("missing_geometry", "the image that the mask lies on has no place in space")
    return reference.affine


def _chosen(names: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Return which structures are wanted, by their position."""
    if not names:
        raise DicomRefusal("no_pixel_data", "the object describes no structure")
    if wanted is None:
        return list(range(len(names)))
    known = [name.casefold() for name in names]
    absent = [name for name in wanted if known.count(name.casefold()) != 1]
    if absent:
        raise DicomRefusal("missing_tags", f"not exactly one structure is called {absent[0]!r}")
    return [known.index(name.casefold()) for name in wanted]
