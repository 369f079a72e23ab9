"""Waveform objects (PS3.3 A.34, C.10.9): samples in the physical units of their channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from medmm.arrays import Array, Bools, Float32
from medmm.dicom import tags
from medmm.dicom.certificate import Certificate
from medmm.dicom.elements import Elements
from medmm.dicom.header import Header
from medmm.errors import DicomRefusal

WAVEFORMS = frozenset({"ECG", "HD", "EPS", "EEG", "EMG", "EOG", "RESP", "POS", "AU"})
"""DICOM modalities whose objects are waveforms (PS3.3 C.7.3.1.1.1)."""

_SAMPLE_TYPES = {
    ("SB", 8): "i1",
    ("UB", 8): "u1",
    ("SS", 16): "i2",
    ("US", 16): "u2",
    ("SL", 32): "i4",
    ("UL", 32): "u4",
}


@dataclass(frozen=True)
class Waveform:
    """The first multiplex group of a waveform object.

    Attributes:
        array: ``Float32[channel sample]``, in ``units``.
        sampling_hz: samples per second and channel.
        channels: what each channel records ("Lead I (Einthoven)").
        units: UCUM code per channel ("uV"), "" where the object gives none.
        groups: how many multiplex groups the object has; the first is returned.
        valid: ``Bool[channel sample]``, False where a sample is declared padding.
        spacing_mm: None; a waveform has no place.
        summary: the certificate without what must be measured on the array.
    """

    array: Float32
    sampling_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    groups: int
    valid: Bools
    summary: Certificate = field(repr=False)
    spacing_mm: None = None

    @cached_property
    def certificate(self) -> Certificate:
        """Return the certificate; minimum, maximum and digest are computed when it is first asked for."""
        return self.summary.measured(self.array, self.valid)


def read_waveform(header: Header, summary: Certificate) -> Waveform:
    """Read the first multiplex group of a waveform object.

    A sample becomes ``(stored × sensitivity × correction) + baseline`` in the sensitivity's units
    (PS3.3 C.10.9.1.4).

    Raises:
        DicomRefusal: ``no_pixel_data``, ``missing_tags``, ``corrupt`` or ``invalid_rescale``.
    """
    groups = header.elements.sequences.get(tags.WAVEFORM_SEQUENCE, [])
    if not groups:
        raise DicomRefusal("no_pixel_data", "the object holds no waveform")
    first = groups[0]
    stored = _samples(first)
    definitions = first.sequences.get(tags.CHANNEL_DEFINITION, [])
    if len(definitions) != stored.shape[0]:
        raise DicomRefusal(
            "corrupt", f"{len(definitions)} channel definitions for {stored.shape[0]} channels"
        )
    sampling = first.number(tags.SAMPLING_FREQUENCY)
    if sampling is None or not math.isfinite(sampling) or sampling <= 0:
        raise DicomRefusal("missing_tags", "SamplingFrequency is absent or not positive")
    factors = np.array([_calibration(definition) for definition in definitions])
    array = (stored * factors[:, :1] + factors[:, 1:]).astype(np.float32)
    notes = (f"first of {len(groups)} multiplex groups",) if len(groups) > 1 else ()
    return Waveform(
        array,
        sampling,
        tuple(_name(definition) for definition in definitions),
        tuple(_unit(definition) for definition in definitions),
        len(groups),
        _valid(stored, first),
        replace(summary, shape=array.shape, orientation="channel sample", notes=notes),
    )


def _samples(group: Elements) -> Array:
    """Return the stored samples [channel, sample]; they alternate between channels (PS3.3 C.10.9.1.7)."""
    channels, samples = group.integer(tags.CHANNELS), group.integer(tags.SAMPLES)
    kind = (group.text(tags.WAVEFORM_SAMPLE_TYPE), group.integer(tags.WAVEFORM_BITS) or 0)
    data = group.values.get(tags.WAVEFORM_DATA, b"")
    if not channels or not samples:
        raise DicomRefusal("missing_tags", "NumberOfWaveformChannels or NumberOfWaveformSamples is absent")
    if kind not in _SAMPLE_TYPES:
        raise DicomRefusal("unsupported_sop", "waveform samples are neither 8, 16 nor 32-bit integers")
    dtype = np.dtype((">" if group.big_endian else "<") + _SAMPLE_TYPES[kind])
    if len(data) < channels * samples * dtype.itemsize:
        raise DicomRefusal(
            "corrupt", f"the waveform needs {channels * samples * dtype.itemsize} bytes, it has {len(data)}"
        )
    return np.frombuffer(data, dtype, channels * samples).reshape(samples, channels).T


def _valid(stored: Array, group: Elements) -> Bools:
    padding = group.values.get(tags.WAVEFORM_PADDING, b"")[: stored.dtype.itemsize]
    if len(padding) < stored.dtype.itemsize:
        return np.broadcast_to(np.True_, stored.shape)
    return np.asarray(stored != np.frombuffer(padding, stored.dtype)[0])


def _calibration(definition: Elements) -> tuple[float, float]:
    sensitivity = definition.number(tags.SENSITIVITY)
    correction = definition.number(tags.SENSITIVITY_CORRECTION)
    baseline = definition.number(tags.CHANNEL_BASELINE)
    if sensitivity is None:
        raise DicomRefusal("missing_tags", "a channel without ChannelSensitivity has no physical units")
    factor = sensitivity * (1.0 if correction is None else correction)
    offset = 0.0 if baseline is None else baseline
    if not math.isfinite(factor) or factor == 0 or not math.isfinite(offset):
        raise DicomRefusal("invalid_rescale", "a channel's sensitivity is zero or not a number")
    return factor, offset


def _name(definition: Elements) -> str:
    source = definition.first(tags.CHANNEL_SOURCE)
    return (source.text(tags.CODE_MEANING) if source else "") or definition.text(tags.CHANNEL_LABEL)


def _unit(definition: Elements) -> str:
    units = definition.first(tags.SENSITIVITY_UNITS)
    return units.text(tags.CODE_VALUE) if units else ""
