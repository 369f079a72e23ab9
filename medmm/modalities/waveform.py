"""Waveforms: an ECG or another DICOM waveform, as channels of equal rate and length.

Nothing of a waveform is fitted: every patient's array follows from that patient's recording and the recipe
alone, so one prepared array serves every fold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from medmm.columns import Declared, ImageSpec
from medmm.errors import ConfigError, DicomRefusal
from medmm.modalities.resample import axis_taps, resample
from medmm.modalities.sequences import Pretrained, WarmStarted
from medmm.modality import Declaration, Modality
from medmm.sample import Player, SeriesSource, Source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medmm.arrays import Float32
    from medmm.dicom.waveform import Waveform as Recording

MILLIVOLTS = {"nV": 1e-6, "uV": 1e-3, "mV": 1.0, "V": 1e3}
"""UCUM unit → what its numbers are multiplied by."""

FARTHEST_MV = 10.0
"""Amplitudes end here: beyond it a lead has come off."""

FARTHEST_SD = 5.0
"""Standardised amplitudes end here."""

PICTURES = frozenset({"CR", "CT", "DX", "MG", "MR", "NM", "OCT", "OP", "PT", "RF", "RG", "SC", "US", "XA"})
"""DICOM modalities whose series are pictures (PS3.3 C.7.3.1.1.1)."""

NORMAL_90 = 3.29
"""The middle 90 % of a normal distribution spans this many standard deviations."""

Count = Annotated[int, Field(ge=1)]


class WaveformEncoderSettings(Declared):
    """The encoder of a waveform: a 1-D network of the kinds that images have.

    Attributes:
        kind: "cnn", a strided convolution per entry of ``channels``; or a MONAI network by name.
        channels: of the "cnn" only.
        pretrained: weights to begin with; None begins at random.
    """

    kind: Literal["cnn", "resnet10", "resnet18"] = "cnn"
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 32, 64, 64)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    pretrained: Pretrained | None = None

    @property
    def reduction(self) -> int:
        """By how much the encoder shrinks the time axis before pooling."""
        return 1 << len(self.channels) if self.kind == "cnn" else 32


class WaveformSettings(Declared):
    """A waveform's block of a recipe.

    Attributes:
        channels: of the recording; one with another number is refused.
        leads: names of the channels in the order in which the network gets them ("I", "aVR", "V1"), picked
            from each recording by what it calls them; () takes the channels as they come, which is right
            where one device wrote all recordings.
        seconds: taken, about the middle of the recording; a shorter one is padded with zeros.
        sampling_hz: rate resampled to.
        amplitude: "millivolt" keeps the physical scale, about each channel's median, and refuses a channel
            that states no voltage; "robust" standardises each channel by its own quantiles, for audio.
        shift_seconds: largest random shift of a training recording.
    """

    channels: Count = 12
    leads: tuple[str, ...] = ()
    seconds: Annotated[float, Field(gt=0)] = 10.0
    sampling_hz: Annotated[float, Field(gt=0)] = 100.0
    amplitude: Literal["millivolt", "robust"] = "millivolt"
    shift_seconds: Annotated[float, Field(ge=0)] = 0.0
    encoder: WaveformEncoderSettings = WaveformEncoderSettings()

    @model_validator(mode="after")
    def _one_lead_per_channel(self) -> WaveformSettings:
        distinct = len({lead_name(lead) for lead in self.leads})
        if self.leads and not distinct == len(self.leads) == self.channels:
            raise ValueError(f"`leads` names each of the {self.channels} `channels` once")
        return self

    @property
    def samples(self) -> int:
        """Samples per channel."""
        return round(self.seconds * self.sampling_hz)


class Waveform(WarmStarted, Modality):
    """One DICOM waveform; the cohort chooses it as it chooses a series of images.

    ``transform`` gives float32 ``[channel, sample]``, in millivolts or in robust standard deviations.

    Raises:
        ConfigError: if the cohort declares no series for it, or one of pictures, or the recording is
            shorter than the encoder's stride.
    """

    kind = "waveform"
    Settings = WaveformSettings
    settings: WaveformSettings

    def __init__(self, name: str, settings: Declared, declaration: Declaration) -> None:
        super().__init__(name, settings, declaration)
        if not isinstance(declaration, ImageSpec) or declaration.kind != "intensity":
            raise ConfigError(
                f"modality {name!r} is of kind 'waveform' but the cohort declares no series of"
                " `kind: intensity` for it under `images`"
            )
        if declaration.modality in PICTURES:
            raise ConfigError(
                f"modality {name!r} is of kind 'waveform' but its series are {declaration.modality},"
                " which are images; say `kind: image` in the recipe, or declare a series of `modality: ECG`"
            )
        block = self.settings.encoder
        if self.settings.samples < block.reduction:
            raise ConfigError(
                f"modality {name!r}: encoder {block.kind!r} shrinks the time axis {block.reduction} times,"
                f" and a recording has {self.settings.samples} samples; take more `seconds` or fewer"
                " `channels`"
            )

    def load(self, source: Source) -> Recording:
        """Read the recording.

        Raises:
            DicomRefusal: if it must not become an array, or the series holds several.
        """
        from medmm.dicom import load
        from medmm.dicom.waveform import Waveform as Recording

        if not isinstance(source, SeriesSource):
            raise DicomRefusal("no_dicom", f"modality {self.name!r} reads a series")
        if len(source.files) != 1:
            raise DicomRefusal("multiple_series", f"{len(source.files)} recordings in one series")
        found = load(source.files[0])
        if not isinstance(found, Recording):
            raise DicomRefusal("unsupported_sop", f"modality {self.name!r} reads waveforms, this is an image")
        return found

    def fit(self, loaded: Iterable[Recording]) -> Self:
        """Return itself: nothing of a waveform is fitted."""
        return self

    def transform(self, loaded: Recording) -> Float32:
        """Return ``[channel, sample]``, float32; see the class.

        Raises:
            DicomRefusal: if the recording has another number of channels than the recipe's, or not exactly
                one of each lead, a channel states no voltage where millivolts are asked for, or nothing but
                padding.
        """
        wanted, size = self.settings, loaded.array.shape[1]
        order = self._order(loaded)
        if not loaded.valid[order].any(axis=1).all():
            raise DicomRefusal("no_pixel_data", f"modality {self.name!r}: a channel is nothing but padding")
        step = loaded.sampling_hz / wanted.sampling_hz
        taps = axis_taps(size, wanted.samples, step, (size - 1) / 2, "linear")
        rows = [resample(self._scaled(loaded, channel), [taps], 0.0) for channel in order]
        # Training reads a float16 cache of this array: what is scored is what was trained on.
        return np.stack(rows).astype(np.float16).astype(np.float32)

    def _order(self, loaded: Recording) -> list[int]:
        """Return which channels of a recording the network gets, in its order."""
        held = [lead_name(name) for name in loaded.channels]
        absent = [lead for lead in self.settings.leads if held.count(lead_name(lead)) != 1]
        if absent:
            detail = (
                f"modality {self.name!r}: not exactly one channel of this recording is called {absent[0]!r}"
            )
            raise DicomRefusal("missing_tags", detail)
        if self.settings.leads:
            return [held.index(lead_name(lead)) for lead in self.settings.leads]
        if len(held) != self.settings.channels:
            wanted = self.settings.channels
            detail = f"modality {self.name!r} takes {wanted} channels, this recording has {len(held)}"
            raise DicomRefusal("inconsistent_geometry", detail)
        return list(range(len(held)))

    def _scaled(self, loaded: Recording, channel: int) -> Float32:
        """Return one channel about its median, 0 where it is padding."""
        values, valid = loaded.array[channel], loaded.valid[channel]
        ordered = np.sort(values[valid])
        low, median, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.5, 0.95))
        centred: Float32 = np.where(valid, values - median, np.float32(0))
        if self.settings.amplitude == "millivolt":
            factor = MILLIVOLTS.get(loaded.units[channel])
            if factor is None:
                raise DicomRefusal(
                    "invalid_rescale",
                    f"modality {self.name!r}: a channel states no voltage; `amplitude: robust` needs none",
                )
            return _clipped(centred * np.float32(factor), FARTHEST_MV)
        if low == high:
            low, high = ordered[0], ordered[-1]
        if low == high:
            return np.zeros_like(centred)
        return _clipped(centred / ((high - low) / np.float32(NORMAL_90)), FARTHEST_SD)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and samples, as the recipe says."""
        return (self.settings.channels, self.settings.samples)

    def players(self) -> tuple[Player, ...]:
        """Return none: a waveform is explained as a whole."""
        return ()

    @property
    def augments(self) -> bool:
        """Whether the recipe shifts training recordings."""
        return round(self.settings.shift_seconds * self.settings.sampling_hz) > 0

    def augment(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the batch with each recording shifted in time at random, as the recipe says."""
        from medmm.encoders.augment import shifted

        return shifted(batch, round(self.settings.shift_seconds * self.settings.sampling_hz), generator)

    def encoder(self) -> nn.Module:
        """Return a fresh 1-D encoder; see :mod:`medmm.encoders.image`."""
        from medmm.encoders.image import image_encoder

        block = self.settings.encoder
        return image_encoder(
            block.kind,
            spatial_dims=1,
            in_channels=self.settings.channels,
            channels=block.channels,
            dropout=block.dropout,
        )

    def warm_start(self, encoder: nn.Module) -> None:
        """Read the weights to begin with, where the recipe names a file.

        Raises:
            ConfigError: if the file is not of this encoder.
        """
        if wanted := self.settings.encoder.pretrained:
            wanted.fill(encoder, self.folder)

    def state(self) -> dict[str, Any]:
        """Return nothing: nothing is fitted."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Return itself: nothing is fitted."""
        return self


def lead_name(name: str) -> str:
    """Return the name of a lead (PS3.16 CID 3001): "Lead I (Einthoven)", "Lead I" and "I" are one."""
    return re.split("[(,]", name)[0].strip().casefold().removeprefix("lead").strip()


def _clipped(values: Float32, farthest: float) -> Float32:
    clipped: Float32 = np.clip(values, np.float32(-farthest), np.float32(farthest))
    return clipped
