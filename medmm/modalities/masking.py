"""What a mask is for: an image cropped to it, or seen through one channel more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from medmm.columns import Declared, MaskSpec
from medmm.errors import DicomRefusal

if TYPE_CHECKING:
    from medmm.arrays import Bools
    from medmm.dicom.masks import Mask
    from medmm.dicom.volume import Volume

SAME_PLACE_MM = 0.01
"""A label map's grid may differ from the image's by no more than this, at any of its corners."""


class MaskUse(Declared):
    """What a recipe does with the mask that the cohort found.

    Attributes:
        use: ``crop`` keeps the box around the mask; ``channel`` adds the mask as a last channel, the share
            of each voxel that lies inside, in [0, 1].
        margin_mm: added to the box on every side.
    """

    use: Literal["crop", "channel"]
    margin_mm: Annotated[float, Field(ge=0, le=1000)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> MaskUse:
        if self.margin_mm and self.use != "crop":
            raise ValueError("`margin_mm` is of a `crop`; a `channel` shows the mask itself")
        return self


def masked(volume: Volume, files: Sequence[Path], spec: MaskSpec, use: MaskUse) -> Volume:
    """Return an image cropped to its mask, or with the mask beside it.

    Args:
        volume: the image as loaded.
        files: of the mask; none where the cohort found none.
        spec: which structures or labels are meant.
        use: what for.

    Raises:
        DicomRefusal: ``no_mask`` where there is none; ``no_pixel_data`` where it is empty;
            ``inconsistent_geometry`` where it was drawn on another grid.
    """
    if not files:
        raise DicomRefusal("no_mask", "no mask of the series was drawn in time; see `medmm cohort check`")
    mask = _of_label_map(files, volume, spec) if spec.block is not None else _of_drawn(files, volume, spec)
    if use.use == "crop":
        return cropped(volume, mask.box(use.margin_mm))
    inside: Bools = np.logical_or.reduce(mask.array)
    if not inside.any():
        raise DicomRefusal("no_pixel_data", "the structures are empty")
    return replace(volume, mask=inside)


def cropped(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """Return the part of a volume or image inside a box, where it lies in the patient."""
    affine = volume.affine
    if affine is not None:
        affine = affine.copy()
        start = np.array([part.start for part in box] + [0] * (3 - len(box)))
        affine[:3, 3] += affine[:3, :3] @ start
    array = volume.array[box]
    notes = (*volume.summary.notes, "cropped to its mask")
    summary = replace(volume.summary, shape=array.shape, notes=notes)
    return replace(volume, array=array, valid=volume.valid[box], affine=affine, summary=summary)


def _of_drawn(files: Sequence[Path], volume: Volume, spec: MaskSpec) -> Mask:
    from medmm.dicom.masks import load_mask

    return load_mask(files[0], volume, structures=spec.structures or None)


def _of_label_map(files: Sequence[Path], volume: Volume, spec: MaskSpec) -> Mask:
    from medmm.dicom.loading import load_files
    from medmm.dicom.masks import Mask

    labels = load_files(files)
    if not _same_space(labels, volume):
        raise DicomRefusal(
            "inconsistent_geometry",
            "the label map is of another study or frame of reference than the image; choose both of one",
        )
    if labels.array.shape != volume.valid.shape or not _same_place(labels, volume):
        raise DicomRefusal(
            "inconsistent_geometry", "the label map lies on another grid than the image; draw it on the image"
        )
    inside: Bools = np.isin(labels.array, spec.labels) if spec.labels else labels.array != 0
    inside = inside & labels.valid
    assert volume.affine is not None
    return Mask(inside[None], ("label map",), volume.spacing_mm, volume.affine, "label map")


def _same_space(labels: Volume, volume: Volume) -> bool:
    """Whether the coordinates of two volumes mean the same place: one frame of reference (PS3.3 C.7.4.1).

    Two visits on one scanner may well have the same grid, with the patient lying elsewhere. Where an object
    states no frame, its study must be the image's.
    """
    frames = labels.frame_of_reference, volume.frame_of_reference
    if all(frames):
        return frames[0] == frames[1]
    return labels.summary.study_uid == volume.summary.study_uid


def _same_place(labels: Volume, volume: Volume) -> bool:
    """Whether the corners of two grids of one shape lie at the same places."""
    if labels.affine is None or volume.affine is None:
        return False
    far = np.array(volume.valid.shape + (1,) * (3 - volume.valid.ndim), dtype=float)
    corners = np.array(np.meshgrid(*([0.0, size - 1] for size in far), indexing="ij")).reshape(3, -1)
    apart = (labels.affine - volume.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.abs(apart[:3]).max() <= SAME_PLACE_MM)
