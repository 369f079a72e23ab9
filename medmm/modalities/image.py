"""Images: a DICOM series, 2-D or 3-D by the recipe, as the network sees it.

Nothing of an image is fitted: every patient's array follows from that patient's series and the recipe
alone, so one prepared array serves every fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from medmm.columns import Declared, ImageSpec
from medmm.errors import ConfigError, DicomRefusal
from medmm.modalities.image_settings import Augmentation, ImageSettings
from medmm.modalities.masking import masked
from medmm.modalities.resample import SAME_STEP, Taps, axis_taps, back_taps, resample
from medmm.modalities.sequences import WarmStarted
from medmm.modalities.uptake import in_uptake
from medmm.modality import Declaration, Modality
from medmm.sample import Player, SeriesSource, Source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medmm.arrays import Bools, Float32
    from medmm.dicom.volume import Volume

FARTHEST_SD = 5.0
"""Standardised intensities end here: metal and hot pixels are not to drown the rest."""

NORMAL_90 = 3.29
"""The middle 90 % of a normal distribution spans this many standard deviations."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


class Image(WarmStarted, Modality):
    """One DICOM series: intensities, or a label map as one channel per label.

    ``transform`` gives float32 ``[channel, x, y, z]`` (RAS+) or ``[channel, row, column]``. Intensities
    are in [0, 1] with a window, else in robust standard deviations within ±5; a label's channel, and that
    of a mask beside the image, is the share of the voxel that it fills, in [0, 1].

    Raises:
        ConfigError: if the settings do not suit what the cohort declares.
    """

    kind = "image"
    Settings = ImageSettings
    gives = ("vector", "map")
    pictured = True
    settings: ImageSettings
    declaration: ImageSpec

    def __init__(self, name: str, settings: Declared, declaration: Declaration) -> None:
        super().__init__(name, settings, declaration)
        if not isinstance(declaration, ImageSpec):
            raise ConfigError(f"modality {name!r} is of kind 'image' but the cohort declares no image for it")
        if declaration.choose == "all" and self.kind == Image.kind:
            raise ConfigError(
                f"modality {name!r} takes one series, and images.{name} of the cohort chooses all: take kind"
                " 'bag' here, or another `choose` there"
            )
        self._check_meaning()
        if self.settings.mask and not declaration.mask:
            raise ConfigError(
                f"modality {name!r}: the recipe has a use for a `mask`, and images.{name} of the cohort names"
                " none; write `mask: {kind: SEG}` there, or leave it out here"
            )
        reduction = self.settings.encoder.reduction
        if min(self.settings.shape) < reduction:
            raise ConfigError(
                f"modality {name!r}: encoder {self.settings.encoder.kind!r} shrinks each axis {reduction}"
                f" times, which shape {self.settings.shape} does not allow; take a larger shape or fewer"
                " channels"
            )
        encoder = self.settings.encoder
        if encoder.vanishes(self.settings.shape):
            raise ConfigError(
                f"modality {name!r}: {encoder.channels[-1]} channels of one voxel each are left of shape"
                f" {self.settings.shape}, which group norm turns to 0; take a larger shape, fewer or wider"
                " `channels`"
            )
        if encoder.kind == "vit" and (
            any(size % encoder.patch for size in self.settings.shape) or encoder.width % encoder.heads
        ):
            raise ConfigError(
                f"modality {name!r}: a vit needs a shape that `patch` {encoder.patch} divides, and a `width`"
                f" that `heads` {encoder.heads} divides; this is shape {self.settings.shape}, width"
                f" {encoder.width}"
            )

    def _check_meaning(self) -> None:
        """Refuse settings of intensities where the series are labels, and uptake where they are several."""
        from medmm.dicom.waveform import WAVEFORMS

        name, labelled = self.name, self.declaration.kind == "label_map"
        if self.declaration.modality in WAVEFORMS:
            raise ConfigError(
                f"modality {name!r} is of kind {self.kind!r} but its series are {self.declaration.modality},"
                " which are waveforms; say `kind: waveform` in the recipe"
            )
        if labelled and self.settings.window:
            raise ConfigError(f"modality {name!r} is a label map: its labels have no `window`; leave it out")
        if self.settings.intensity == "suv" and (labelled or self.kind != Image.kind):
            raise ConfigError(
                f"modality {name!r}: `intensity: suv` is for a PET series of `kind: intensity`; leave it out"
            )
        if labelled and self.settings.resample:
            raise ConfigError(
                f"modality {name!r} is a label map: between two labels lies another label, so it cannot be"
                " interpolated; leave `resample` out"
            )
        if labelled and self.settings.augment.changes_intensities:
            raise ConfigError(
                f"modality {name!r} is a label map: `noise`, `contrast` and `blur_voxels` change intensities,"
                " which labels have not; flip, shift, rotate or zoom"
            )

    def load(self, source: Source) -> Volume:
        """Read the series.

        Raises:
            DicomRefusal: if the series must not become an array.
        """
        from medmm.dicom import load_files

        if not isinstance(source, SeriesSource):
            raise DicomRefusal("no_dicom", f"modality {self.name!r} reads a series")
        declared = self.declaration.volume
        volume: Volume = load_files(source.files, resample=self.settings.resample, volume=declared)
        if self.settings.intensity == "suv":
            volume = in_uptake(volume, source.files)
        if self.settings.mask and self.declaration.mask:
            return masked(volume, source.masks, self.declaration.mask, self.settings.mask)
        return volume

    def fit(self, loaded: Iterable[Volume]) -> Self:
        """Return itself: nothing of an image is fitted."""
        return self

    def transform(self, loaded: Volume) -> Float32:
        """Return ``[channel, *shape]``, float32; see the class.

        Raises:
            DicomRefusal: if the image has other dimensions than the recipe's, no spacing where the
                recipe resamples, or nothing but padding.
        """
        gray = _gray(loaded)
        wanted = len(self.settings.shape)
        if gray.ndim != wanted:
            detail = f"modality {self.name!r} takes {wanted}-D images, this series is {gray.ndim}-D"
            raise DicomRefusal("inconsistent_geometry", detail)
        if not loaded.valid.any():
            raise DicomRefusal("no_pixel_data", f"modality {self.name!r}: every pixel is padding")
        labelled = self.declaration.kind == "label_map"
        seen = self._label_map(gray, loaded) if labelled else self._intensity(gray, loaded)
        # Training reads a float16 cache of this array: what is scored is what was trained on.
        return seen.astype(np.float16).astype(np.float32)

    def on_source_grid(self, volume: Volume, values: Float32) -> Float32:
        """Return values on the network's grid, ``[*shape]``, interpolated back to the grid of the volume.

        Voxels of the volume that the network does not see are 0.
        """
        gray = _gray(volume)
        axes = zip(
            gray.shape,
            self.settings.shape,
            self._steps(volume, gray.shape),
            self._centre(gray, volume),
            strict=True,
        )
        return resample(values, [back_taps(n, out, step, middle) for n, out, step, middle in axes], 0.0)

    def _centre(self, gray: Float32, volume: Volume) -> list[float]:
        """Return where the middle of the network's grid lies: on the labels, or on the image."""
        if self.declaration.kind == "label_map":
            return [(low + high) / 2 for low, high in _boxes(self._masks(gray, volume))]
        return [(size - 1) / 2 for size in gray.shape]

    def warnings(self, loaded: Volume) -> tuple[str, ...]:
        """Return a word where labels are cut off because they reach beyond the recipe's field of view."""
        gray = _gray(loaded)
        if self.declaration.kind != "label_map" or gray.ndim != len(self.settings.shape):
            return ()
        axes = zip(
            _boxes(self._masks(gray, loaded)),
            self._steps(loaded, gray.shape),
            self.settings.shape,
            strict=True,
        )
        if all(high - low + 1 <= out * step * (1 + SAME_STEP) for (low, high), step, out in axes):
            return ()
        return (f"{self.declaration.label or self.name}: the labels reach beyond the field of view",)

    def _masks(self, gray: Float32, volume: Volume) -> list[Bools]:
        return [(gray == label) & volume.valid for label in self.declaration.labels]

    def _label_map(self, gray: Float32, volume: Volume) -> Float32:
        masks = self._masks(gray, volume)
        taps = self._taps(volume, gray.shape, self._centre(gray, volume), "area")
        return np.stack([resample(mask.astype(np.float32), taps, 0.0) for mask in masks])

    def _intensity(self, gray: Float32, volume: Volume) -> Float32:
        from medmm.dicom.header import PROJECTIONS

        # The numbers of other modalities are measurements.
        if volume.photometric == "MONOCHROME1" and volume.summary.modality in PROJECTIONS:
            gray = _inverted(gray, volume)
        background = gray[volume.valid].min()
        filled = np.where(volume.valid, gray, background).astype(np.float32)
        taps = self._taps(volume, gray.shape, self._centre(gray, volume), "linear")
        sampled = resample(filled, taps, float(background))
        if self.settings.window:
            low, high = map(np.float32, self.settings.window)
            sampled = np.clip((sampled - low) / (high - low), 0, 1)
        else:
            sampled = _standardised(sampled, taps)
        if volume.mask is None:
            return sampled[None]
        areas = self._taps(volume, gray.shape, self._centre(gray, volume), "area")
        return np.stack([sampled, resample(volume.mask.astype(np.float32), areas, 0.0)])

    def _taps(
        self, volume: Volume, size: tuple[int, ...], centre: list[float], kernel: Literal["linear", "area"]
    ) -> list[Taps]:
        steps = self._steps(volume, size)
        axes = zip(size, self.settings.shape, steps, centre, strict=True)
        return [axis_taps(n, out, step, middle, kernel) for n, out, step, middle in axes]

    def _steps(self, volume: Volume, size: tuple[int, ...]) -> list[float]:
        """Return the distance of output voxels per axis, in input voxels."""
        wanted, spacing = self.settings.spacing_mm, volume.spacing_mm
        if wanted is None:
            return [1.0] * len(size)
        if isinstance(wanted, str):
            spacing = spacing or (1.0,) * len(size)
            extents = [n * mm / out for n, mm, out in zip(size, spacing, self.settings.shape, strict=True)]
            target = max(extents) if wanted == "fit" else min(extents)
            return [target / mm for mm in spacing]
        if spacing is None:
            raise DicomRefusal(
                "invalid_spacing",
                f"modality {self.name!r}: the image states no pixel spacing, and the recipe resamples to mm;"
                " `spacing_mm: fit` scales without it",
            )
        return [want / have for want, have in zip(wanted, spacing, strict=True)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, then the recipe's shape."""
        return (self.channels, *self.settings.shape)

    @property
    def channels(self) -> int:
        """One, or one per label; one more for a mask beside the image."""
        beside = self.settings.mask is not None and self.settings.mask.use == "channel"
        return max(1, len(self.declaration.labels)) + beside

    def players(self) -> tuple[Player, ...]:
        """Return none: an image is explained by its gradients."""
        return ()

    @property
    def augments(self) -> bool:
        """Whether the recipe varies training images."""
        return self.settings.augment != Augmentation()

    def augment(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the batch with each image varied at random, as the recipe says."""
        import torch

        from medmm.encoders.augment import flipped, intensified, shifted, turned

        wanted = self.settings.augment
        axes = [self.settings.axes.index(name) + 2 for name in wanted.flip]
        moved = shifted(batch, wanted.shift_voxels, generator)
        moved = turned(flipped(moved, axes, generator), wanted.rotate_degrees, wanted.zoom, generator)
        seen = len(self.declaration.labels) or 1  # a mask beside the image has no intensities
        varied = intensified(
            moved[:, :seen],
            generator,
            contrast=wanted.contrast,
            blur_voxels=wanted.blur_voxels,
            noise=wanted.noise,
        )
        return varied if seen == moved.shape[1] else torch.cat([varied, moved[:, seen:]], dim=1)

    def encoder(self) -> nn.Module:
        """Return a fresh image encoder; see :mod:`medmm.encoders.image`."""
        from medmm.encoders.image import image_encoder
        from medmm.encoders.vision_transformer import Patches

        block = self.settings.encoder
        return image_encoder(
            block.kind,
            spatial_dims=len(self.settings.shape),
            in_channels=self.channels,
            channels=block.channels,
            dropout=block.dropout,
            patches=Patches(self.settings.shape, block.patch, block.width, block.depth, block.heads),
        )

    def warm_start(self, encoder: nn.Module) -> None:
        """Read the weights to begin with, where the recipe names a file.

        Raises:
            ConfigError: if the file is not of this encoder.
        """
        wanted = self.settings.encoder.pretrained
        if wanted:
            from medmm.encoders.image import ImageEncoder

            if not isinstance(encoder, ImageEncoder):
                raise ConfigError(
                    f"modality {self.name!r}: a fusion that turns feature maps cuts the encoder in two, which"
                    " `pretrained` cannot fill; take a fusion of vectors"
                )
            wanted.fill(encoder, self.folder)

    def state(self) -> dict[str, Any]:
        """Return nothing: nothing is fitted."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Return itself: nothing is fitted."""
        return self


def _gray(volume: Volume) -> Float32:
    """Return the array without a colour axis: RGB as luminance."""
    array: Float32 = volume.array.astype(np.float32)
    if volume.photometric != "RGB":
        return array
    red, green, blue = (array[..., i] * np.float32(w) for i, w in enumerate(LUMINANCE))
    gray: Float32 = red + green + blue
    return gray


def _inverted(gray: Float32, volume: Volume) -> Float32:
    """Return the image as if its stored values had been ``2^BitsStored - 1 - stored`` (PS3.3 C.7.6.3.1.2).

    Raises:
        DicomRefusal: if a look-up table stands between the stored values and the image.
    """
    if volume.summary.rescale == "lookup table":
        raise DicomRefusal(
            "unsupported_photometric",
            "a MONOCHROME1 image behind a modality look-up table cannot be inverted",
        )
    slope, intercept = volume.rescale
    lowest = (float(gray.min() if slope > 0 else gray.max()) - intercept) / slope
    # Two's complement runs from -2^(n-1) to 2^(n-1) - 1, whose ends add up to -1.
    ends = -1 if lowest < 0 else 2**volume.bits_stored - 1
    flipped: Float32 = np.float32(slope * ends + 2 * intercept) - gray
    return flipped


def _boxes(masks: list[Bools]) -> list[tuple[int, int]]:
    """Return, per axis, the first and last index that any mask holds; the whole axis if none does."""
    union = np.logical_or.reduce(masks)
    if not union.any():
        return [(0, size - 1) for size in union.shape]
    filled = np.nonzero(union)
    return [(int(indices.min()), int(indices.max())) for indices in filled]


def _standardised(sampled: Float32, taps: list[Taps]) -> Float32:
    """Return robust z-scores: centred on the median, the middle 90 % spanning 3.29.

    Only order statistics are used, which are the same to the last bit everywhere; places beyond the image
    have no say, padding inside it counts as the background that it was filled with.
    """
    inside = np.ix_(*(tap.inside for tap in taps))
    ordered = np.sort(sampled[inside], axis=None)
    if not len(ordered):
        return np.zeros_like(sampled)
    low, median, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.5, 0.95))
    if low == high:
        low, high = ordered[0], ordered[-1]
    if low == high:
        return np.zeros_like(sampled)
    z: Float32 = (sampled - median) / ((high - low) / np.float32(NORMAL_90))
    return np.clip(z, np.float32(-FARTHEST_SD), np.float32(FARTHEST_SD))
