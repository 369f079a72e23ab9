"""What a recipe may say of an image, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medmm.columns import Declared
from medmm.modalities.masking import MaskUse
from medmm.modalities.sequences import Pretrained

MOST_VOXELS = 1 << 27
"""Of the network's grid: 512 along each of three axes."""

MOST_PARAMETERS = 1 << 28
"""Of one encoder, a gigabyte of weights."""

Count = Annotated[int, Field(ge=1, le=8192)]
Millimetres = Annotated[float, Field(gt=0)]


class ImageEncoderSettings(Declared):
    """The image encoder of a recipe.

    Attributes:
        kind: "cnn", a strided convolution per entry of ``channels``; or a MONAI network by name.
        channels: of the "cnn" only.
        patch: of the "vit" only, voxels per patch and axis; with ``width``, ``depth`` and ``heads``.
        dropout: of the pooled embedding.
        pretrained: weights to begin with; None begins at random.
    """

    kind: Literal[
        "cnn", "densenet121", "resnet10", "resnet18", "resnet50", "efficientnet-b0", "vit", "swin"
    ] = "cnn"
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 32, 64)
    patch: Count = 16
    width: Annotated[int, Field(ge=1, le=2048)] = 192
    depth: Annotated[int, Field(ge=1, le=64)] = 12
    heads: Count = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    pretrained: Pretrained | None = None

    @property
    def reduction(self) -> int:
        """By how much the encoder shrinks each axis before pooling."""
        if self.kind == "vit":
            return self.patch
        return 1 << len(self.channels) if self.kind == "cnn" else 32

    def vanishes(self, shape: Sequence[int]) -> bool:
        """Tell whether the last map is one voxel per channel, each a group of its own: its norm is 0."""
        alone = 8 % self.channels[-1] == 0  # the "cnn" has up to eight groups
        return self.kind == "cnn" and alone and max(shape) <= self.reduction


class Augmentation(Declared):
    """How training images are varied at random.

    Attributes:
        flip: axes mirrored with probability one half: "x" (left-right), "y", "z"; "row", "column" in 2-D.
        shift_voxels: largest shift along each axis, in voxels of the transformed image.
        rotate_degrees: largest rotation, about each axis of a volume.
        zoom: largest change of size, as a share.
        noise: standard deviation of added Gaussian noise, in units of the transformed intensities.
        contrast: largest change of the intensities' scale about the image's mean, as a share.
        blur_voxels: largest standard deviation of a Gaussian blur.
    """

    flip: tuple[Literal["x", "y", "z", "row", "column"], ...] = ()
    shift_voxels: Annotated[int, Field(ge=0)] = 0
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    blur_voxels: Annotated[float, Field(ge=0, le=8)] = 0.0

    @property
    def changes_intensities(self) -> bool:
        """Whether anything is done that has no meaning for labels."""
        return bool(self.noise or self.contrast or self.blur_voxels)


class ImageSettings(Declared):
    """An image's block of a recipe.

    Attributes:
        shape: voxels per axis (x, y, z), or (row, column); its length decides between 3-D and 2-D.
        spacing_mm: voxel size resampled to, per axis; ``fit`` scales the whole image into the shape
            keeping its proportions, ``fill`` scales it to cover the shape; None keeps the spacing.
        window: intensities mapped to [0, 1], in the unit of the image (HU for CT); None standardises
            each image by its own quantiles.
        intensity: ``suv`` turns a PET into standardised uptake values by body weight (g/ml), and refuses one
            that does not say enough for it; ``stored`` takes the numbers as the object gives them.
        mask: what the mask is for that the cohort finds for each series.
        resample: whether slices that are sheared by gantry tilt, unevenly spaced, or missing up to two in a
            row are interpolated to a regular grid; without it such a series is refused.
    """

    shape: tuple[Count, Count] | tuple[Count, Count, Count]
    spacing_mm: tuple[Millimetres, ...] | Literal["fit", "fill"] | None = None
    window: tuple[float, float] | None = None
    intensity: Literal["stored", "suv"] = "stored"
    mask: MaskUse | None = None
    resample: bool = False
    encoder: ImageEncoderSettings = ImageEncoderSettings()
    augment: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _consistent(self) -> ImageSettings:
        if isinstance(self.spacing_mm, tuple) and len(self.spacing_mm) != len(self.shape):
            raise ValueError("`spacing_mm` has as many entries as `shape`")
        if self.window and self.window[0] >= self.window[1]:
            raise ValueError("`window` is (low, high) with low < high")
        self._check_size()
        wrong = set(self.augment.flip) - set(self.axes)
        if wrong:
            raise ValueError(f"`augment.flip` names {sorted(wrong)}; this image's axes are {self.axes}")
        return self

    def _check_size(self) -> None:
        if prod(self.shape) > MOST_VOXELS:
            raise ValueError(f"`shape` has {prod(self.shape):,} voxels, at most {MOST_VOXELS:,} are taken")
        if self.augment.shift_voxels >= max(self.shape):
            raise ValueError("`augment.shift_voxels` would shift the whole image out of sight")
        if self.encoder.kind == "cnn":
            kernel = 3 ** len(self.shape)
            widths = (1, *self.encoder.channels)
            count = sum(kernel * before * after for before, after in pairwise(widths))
            if count > MOST_PARAMETERS:
                raise ValueError(f"`encoder.channels` make {count:,} parameters, at most {MOST_PARAMETERS:,}")

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes."""
        return ("x", "y", "z") if len(self.shape) == 3 else ("row", "column")
