"""A bag: all 2-D images of a patient, such as serial radiographs, ultrasound views or crops of cells."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, model_validator

from medmm.errors import ConfigError, DicomRefusal
from medmm.modalities.image import Image
from medmm.modalities.image_settings import MOST_VOXELS, Count, ImageSettings
from medmm.modality import Declaration
from medmm.sample import SeriesSource, Source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medmm.arrays import Float32
    from medmm.columns import Declared
    from medmm.dicom.bag import Bag as LoadedBag


class BagSettings(ImageSettings):
    """A bag's block of a recipe: what holds for an image, and three things more.

    Attributes:
        images: places of the bag; of more images the last acquired are taken.
        frames: of a loop (ultrasound, angiography), how many of its frames are images of the bag, evenly
            spaced; with 0, loops are left out.
        attention: units of the attention that weighs the images.
    """

    frames: Annotated[int, Field(ge=0, le=256)] = 0
    images: Annotated[int, Field(ge=1, le=256)] = 8
    attention: Count = 32

    @model_validator(mode="after")
    def _flat(self) -> BagSettings:
        if len(self.shape) != 2:
            raise ValueError("a bag is of 2-D images: `shape` is (row, column)")
        if self.mask or self.resample:
            raise ValueError("`mask` and `resample` are of a single series, not of a bag")
        if self.encoder.pretrained:
            raise ValueError("`pretrained` weights are of a single image's encoder, not of a bag's")
        if self.images * prod(self.shape) > MOST_VOXELS:
            raise ValueError(f"`images` of this `shape` have more than {MOST_VOXELS:,} pixels; take fewer")
        return self


class Bag(Image):
    """Every 2-D image of a patient that the cohort took (``choose: all``).

    ``transform`` gives float32 ``[n, 1, row, column]``: the images as :class:`Image` prepares each, in the
    order of their acquisition, then empty places, which are zero. An image that is blank once prepared tells
    nothing and leaves no place.

    Raises:
        ConfigError: if the cohort does not choose all images, or they are label maps.
    """

    kind = "bag"
    Settings = BagSettings
    pictured = False
    gives = ("vector",)  # type: ignore[assignment]
    settings: BagSettings

    def __init__(self, name: str, settings: Declared, declaration: Declaration) -> None:
        super().__init__(name, settings, declaration)
        if self.declaration.choose != "all" or self.declaration.kind != "intensity":
            raise ConfigError(
                f"modality {name!r} is of kind 'bag', so images.{name} of the cohort chooses all intensity"
                " images: write `choose: all` there, or take kind 'image' here"
            )

    def load(self, source: Source) -> LoadedBag:  # type: ignore[override]
        """Read every 2-D image.

        Raises:
            DicomRefusal: if there is none, or they are of several patients.
        """
        from medmm.dicom.bag import load_bag

        if not isinstance(source, SeriesSource):
            raise DicomRefusal("no_dicom", f"modality {self.name!r} reads series")
        return load_bag(source.files, frames=self.settings.frames)

    def transform(self, loaded: LoadedBag) -> Float32:  # type: ignore[override]
        """Return ``[n, 1, row, column]``, float32; see the class.

        Raises:
            DicomRefusal: the last image's reason if none can be prepared; ``no_pixel_data`` if all are blank.
        """
        bag = np.zeros(self.shape, np.float32)
        refusal = DicomRefusal("no_pixel_data", f"modality {self.name!r}: every image is blank")
        seen = []
        for image in reversed(loaded.images):
            try:
                prepared = super().transform(image)
            except DicomRefusal as error:
                refusal = error
                continue
            if prepared.any():
                seen.append(prepared)
            if len(seen) == len(bag):
                break
        if not seen:
            raise refusal
        bag[: len(seen)] = seen[::-1]
        return bag

    @property
    def shape(self) -> tuple[int, ...]:
        """Places, one channel, then the recipe's shape."""
        return (self.settings.images, 1, *self.settings.shape)

    def warnings(self, loaded: LoadedBag) -> tuple[str, ...]:  # type: ignore[override]
        """Return a word where images do not find a place, or could not be read."""
        label = self.declaration.label or self.name
        more = len(loaded.images) - self.settings.images
        refused = sum(result.status == "refused" for result in loaded.left_out)
        words = []
        if more > 0:
            words.append(f"{label}: {more} earlier images are not looked at")
        if refused:
            words.append(f"{label}: {refused} files or series could not be read as 2-D images")
        return tuple(words)

    def augment(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the batch with each image varied on its own; an empty place stays empty."""
        images = batch.flatten(0, 1)
        there = images.abs().amax(dim=(1, 2, 3), keepdim=True) > 0
        varied = super().augment(images, generator) * there
        return varied.reshape(batch.shape)

    def encoder(self) -> nn.Module:
        """Return a fresh encoder; see :mod:`medmm.encoders.bag`."""
        from medmm.encoders.bag import BagEncoder
        from medmm.encoders.image import ImageEncoder

        image = super().encoder()
        assert isinstance(image, ImageEncoder)
        return BagEncoder(image, self.settings.attention)
