from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medmm.columns import ImageSpec
from medmm.errors import ConfigError, DicomRefusal
from medmm.modalities.waveform import Waveform, WaveformEncoderSettings, WaveformSettings
from medmm.network.export import TOLERANCE, disagreement, graph_of
from medmm.sample import Absence, SeriesSource

TWELVE_LEAD = "1.2.840.10008.5.1.4.1.1.9.1.1"
LEADS, HZ, SECONDS = 2, 500, 4
TIME = np.arange(HZ * SECONDS) / HZ
BEAT = np.exp(-(((TIME % 1.0 - 0.5) / 0.02) ** 2))
"""One spike a second, 1 at its top."""

DECLARED = ImageSpec(dir="dicom", modality="ECG")


def recording(
    path: Path, *, unit: str = "uV", scale: float = 1000.0, offset: float = 200.0, patient: str = "1"
) -> SeriesSource:
    stored = np.stack([BEAT * scale + offset, -BEAT * scale / 2]).round().astype("<i2")
    channels = []
    for _ in range(LEADS):
        channel = Dataset()
        channel.ChannelSensitivity = 1
        channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = 1, 0
        if unit:
            units = Dataset()
            units.CodeValue = unit
            channel.ChannelSensitivityUnitsSequence = [units]
        channels.append(channel)
    group = Dataset()
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = stored.shape
    group.SamplingFrequency, group.WaveformBitsAllocated, group.WaveformSampleInterpretation = HZ, 16, "SS"
    group.ChannelDefinitionSequence = channels
    group.add_new(0x54001010, "OW", stored.T.tobytes())
    dataset = Dataset()
    dataset.WaveformSequence = [group]
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = TWELVE_LEAD, generate_uid(), "ECG"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.StudyDate, dataset.AcquisitionDateTime = patient, "20010301", "20010301080000"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return SeriesSource((path,))


def called(source: SeriesSource, *names: str) -> SeriesSource:
    """The recording with its channels called so."""
    dataset = dcmread(source.files[0])
    for channel, name in zip(dataset.WaveformSequence[0].ChannelDefinitionSequence, names, strict=True):
        code = Dataset()
        code.CodeMeaning = name
        channel.ChannelSourceSequence = [code]
    dataset.save_as(source.files[0])
    return source


def waveform(**settings: object) -> Waveform:
    return Waveform("ecg", WaveformSettings(**({"channels": LEADS, "seconds": 4} | settings)), DECLARED)


def test_leads_are_picked_by_name_in_whatever_order_a_device_writes_them(tmp_path: Path) -> None:
    source = called(recording(tmp_path / "a.dcm"), "Lead I (Einthoven)", "aVR, augmented voltage, right")
    plain, named = waveform(), waveform(leads=("aVR", "I"))
    as_stored = plain.transform(plain.load(source))
    picked = named.transform(named.load(source))
    assert np.array_equal(picked, as_stored[::-1])
    assert not np.array_equal(picked, as_stored)
    called(source, "AVR", "Lead I")
    assert np.array_equal(named.transform(named.load(source)), as_stored)
    one = waveform(channels=1, leads=("i",))
    assert np.array_equal(one.transform(one.load(source)), as_stored[1:])
    for names in (("II", "I"), ("I", "Lead I")):
        with pytest.raises(DicomRefusal, match="not exactly one channel"):
            named.transform(named.load(called(source, *names)))
    for leads in (("I",), ("I", "lead i")):
        with pytest.raises(ValidationError, match="names each of the 2"):
            waveform(leads=leads)


def test_a_recording_is_resampled_in_millivolts_about_its_median(tmp_path: Path) -> None:
    modality = waveform()
    array = modality.transform(modality.load(recording(tmp_path / "ecg.dcm")))
    assert array.shape == modality.shape == (LEADS, 400)
    assert array.dtype == np.float32
    lead, other = array
    assert lead.max() == pytest.approx(1.0, abs=0.1)
    assert other.min() == pytest.approx(-0.5, abs=0.05)
    assert np.median(lead) == pytest.approx(0, abs=1e-3)
    tops = [int(np.argmax(lead[start : start + 100])) for start in range(0, 400, 100)]
    assert all(abs(top - 50) <= 1 for top in tops)


def test_the_unit_of_the_file_does_not_show(tmp_path: Path) -> None:
    modality = waveform()
    micro = modality.transform(modality.load(recording(tmp_path / "a.dcm", unit="uV", scale=2000)))
    nano = modality.transform(modality.load(recording(tmp_path / "b.dcm", unit="mV", scale=2, offset=0)))
    np.testing.assert_allclose(micro, nano, atol=0.6)
    assert abs(micro[0].max() - nano[0].max()) < 0.2


def test_a_short_recording_is_padded_on_both_sides_with_zeros(tmp_path: Path) -> None:
    modality = waveform(seconds=8)
    array = modality.transform(modality.load(recording(tmp_path / "ecg.dcm")))
    assert not array[:, :199].any()
    assert not array[:, 601:].any()
    assert np.abs(array[:, 200:600]).max() > 0.5


def test_robust_amplitudes_need_no_unit(tmp_path: Path) -> None:
    source = recording(tmp_path / "audio.dcm", unit="")
    with pytest.raises(DicomRefusal, match="states no voltage; `amplitude: robust`"):
        waveform().transform(waveform().load(source))
    robust = waveform(amplitude="robust")
    array = robust.transform(robust.load(source))
    assert np.abs(array).max() == pytest.approx(5.0)


def test_what_is_trained_on_survives_the_float16_cache(tmp_path: Path) -> None:
    modality = waveform()
    array = modality.transform(modality.load(recording(tmp_path / "ecg.dcm")))
    assert np.array_equal(array.astype(np.float16).astype(np.float32), array)


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    source = recording(tmp_path / "ecg.dcm")
    with pytest.raises(DicomRefusal, match="takes 12 channels, this recording has 2"):
        waveform(channels=12).transform(waveform().load(source))
    with pytest.raises(DicomRefusal, match="reads a series"):
        waveform().load(Absence("no_series"))
    with pytest.raises(DicomRefusal, match="2 recordings in one series"):
        waveform().load(SeriesSource(source.files * 2))
    with pytest.raises(ConfigError, match="shrinks the time axis 32 times, and a recording has 20 samples"):
        waveform(seconds=0.2, encoder=WaveformEncoderSettings(kind="resnet10"))
    with pytest.raises(ConfigError, match="its series are CT, which are images; say `kind: image`"):
        Waveform("ct", WaveformSettings(), ImageSpec(dir="dicom", modality="CT"))
    with pytest.raises(ConfigError, match="declares no series"):
        Waveform("ecg", WaveformSettings(), {})


def test_the_encoder_knows_one_patient_only_and_exports() -> None:
    torch.manual_seed(0)
    encoder = waveform(encoder=WaveformEncoderSettings(channels=(4, 8))).encoder().eval()
    batch = {"ecg": torch.randn(5, LEADS, 400)}
    assert encoder(batch["ecg"]).shape == (5, encoder.out_features)
    assert not any("BatchNorm" in type(module).__name__ for module in encoder.modules())
    assert disagreement(encoder, graph_of(encoder, batch, "embedding"), batch) <= TOLERANCE


def test_a_shift_in_time_is_drawn_per_recording() -> None:
    batch = torch.arange(400.0).expand(20, LEADS, 400)
    out = waveform(shift_seconds=0.1).augment(batch, torch.Generator().manual_seed(0))
    starts = (out[:, 0, 200] - 200).tolist()
    assert len(set(starts)) > 5
    assert max(map(abs, starts)) <= 10
