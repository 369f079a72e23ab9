"""Rules 30, 33 and mosaics: objects whose meaning is more than a plane of pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medmm.dicom import load, load_series, suv_factor

PET = "1.2.840.10008.5.1.4.1.1.128"
MR = "1.2.840.10008.5.1.4.1.1.4"
ECG = "1.2.840.10008.5.1.4.1.1.9.1.1"


def item(**elements):
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def pet(scanner, **changes):
    tracer = item(
        RadionuclideTotalDose=3.7e8, RadionuclideHalfLife=6600, RadiopharmaceuticalStartTime="100000"
    )
    elements = {
        "SOPClassUID": PET,
        "Modality": "PT",
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "PatientWeight": 74,
        "SeriesDate": "20200101",
        "SeriesTime": "115000",
        "AcquisitionDate": "20200101",
        "AcquisitionTime": "115001.5",
        "RadiopharmaceuticalInformationSequence": [tracer],
    }
    return scanner.slice(**{**elements, **changes})


def test_rule_30_suv_decays_the_dose_to_the_start_of_the_series(scanner):
    # 6600 s after injection, one half-life: 74 kg over 185 MBq
    assert suv_factor(pet(scanner)) == pytest.approx(74000 / 1.85e8)
    assert suv_factor(pet(scanner, DecayCorrection="ADMIN")) == pytest.approx(74000 / 3.7e8)


@pytest.mark.parametrize(
    "change",
    [
        {"Units": "CNTS"},
        {"Units": None},
        {"DecayCorrection": "NONE"},
        {"CorrectedImage": ["ATTN"]},
        {"PatientWeight": None},
        {"PatientWeight": 0},
        {"SeriesTime": "115100"},
        {"SeriesTime": None},
        {"SeriesDate": "20200109", "AcquisitionDate": "20200109", "SeriesTime": "095900"},
        {"RadiopharmaceuticalInformationSequence": None},
    ],
)
def test_rule_30_otherwise_no_suv(scanner, refused, change):
    assert refused(pet(scanner, **change), suv_factor).reason == "missing_tags"


def test_rule_30_the_array_stays_in_its_units(scanner):
    image = load(pet(scanner, Units="CNTS"))
    assert image.certificate.units == "CNTS"


def ecg(scanner, **changes):
    samples = np.array([[0, 100], [1, -200], [2, 300]], "<i2")  # [sample, channel]
    channels = [
        item(
            ChannelSourceSequence=[item(CodeValue="2:1", CodeMeaning=name)],
            ChannelSensitivity=sensitivity,
            ChannelSensitivityUnitsSequence=[item(CodeValue="uV")],
            ChannelSensitivityCorrectionFactor=1.5,
            ChannelBaseline=baseline,
        )
        for name, sensitivity, baseline in (("Lead I", 2, 0), ("Lead II", 0.5, 10))
    ]
    group = item(
        NumberOfWaveformChannels=2,
        NumberOfWaveformSamples=3,
        SamplingFrequency=500,
        WaveformBitsAllocated=16,
        WaveformSampleInterpretation="SS",
        ChannelDefinitionSequence=channels,
    )
    group.add_new(0x54001010, "OW", samples.tobytes())
    for keyword, value in changes.items():
        setattr(group, keyword, value)
    dataset = item(WaveformSequence=[group, group])
    dataset.file_meta = scanner.dataset().file_meta
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = ECG, generate_uid(), "ECG"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = scanner.study, scanner.series
    return scanner.save(dataset)


def test_rule_33_waveform_in_physical_units(scanner):
    waveform = load(ecg(scanner))
    np.testing.assert_allclose(waveform.array, [[0, 3, 6], [85, -140, 235]])
    assert waveform.sampling_hz == 500
    assert waveform.channels == ("Lead I", "Lead II")
    assert waveform.units == ("uV", "uV")
    assert waveform.groups == 2
    assert waveform.certificate.shape == (2, 3)
    assert [result.status for result in load_series(scanner.folder)] == ["used"]


def test_rule_33_padding_samples_are_marked(scanner):
    path = ecg(scanner)
    assert load(path).valid.all()
    dataset_path = ecg(scanner, WaveformPaddingValue=b"\x01\x00")
    assert load(dataset_path).valid.tolist() == [[True, False, True], [True, True, True]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"NumberOfWaveformSamples": 4}, "corrupt"),
        ({"NumberOfWaveformSamples": 10**9}, "corrupt"),
        ({"SamplingFrequency": 0}, "missing_tags"),
        ({"WaveformSampleInterpretation": "MB"}, "unsupported_sop"),
        ({"ChannelDefinitionSequence": []}, "corrupt"),
    ],
)
def test_rule_33_a_waveform_that_contradicts_itself(scanner, refused, change, reason):
    assert refused(ecg(scanner, **change)).reason == reason


def csa(**elements):
    """A Siemens image header (the "SV10" form) with the given numbers."""
    data = b"SV10\x04\x03\x02\x01" + struct.pack("<II", len(elements), 77)
    for name, values in elements.items():
        data += name.encode().ljust(64, b"\0") + struct.pack("<i4sii", len(values), b"FD\0\0", 0, len(values))
        data += struct.pack("<i", 77)
        for value in values:
            text = str(value).encode() + b"\0"
            data += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return data


def mosaic(scanner, header, **changes):
    sheet = np.zeros((6, 8), np.uint16)
    for tile in range(3):
        top, left = tile // 2 * 3, tile % 2 * 4
        sheet[top : top + 3, left : left + 4] = np.arange(12).reshape(3, 4) + 100 * tile
    elements = {
        "SOPClassUID": MR,
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"],
        "SpacingBetweenSlices": 3.0,
        "RescaleIntercept": 0,
        # the corner of the sheet lies half a sheet less half a tile before the corner of the slice
        "ImagePositionPatient": [10 - 2 * 0.8, 20 - 1.5 * 0.5, 30],
    }
    dataset = scanner.dataset(sheet, **{**elements, **changes})
    dataset.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
    dataset.add_new(0x00291010, "OB", header)
    return scanner.save(dataset)


@pytest.mark.parametrize("direction", [1, -1])
def test_rule_08_mosaic_becomes_its_slices(scanner, direction):
    volume = load(mosaic(scanner, csa(NumberOfImagesInMosaic=[3], SliceNormalVector=[0, 0, direction])))
    assert volume.array.shape == (4, 3, 3)
    assert volume.spacing_mm == (0.8, 0.5, 3.0)
    for tile in range(3):
        lps = np.array([10 + 2 * 0.8, 20 + 1 * 0.5, 30 + direction * 3 * tile])
        index = np.linalg.solve(volume.affine, [-lps[0], -lps[1], lps[2], 1])[:3]
        assert volume.array[tuple(np.round(index).astype(int))] == 6 + 100 * tile


@pytest.mark.parametrize(
    ("header", "changes", "reason"),
    [
        (b"", {}, "missing_geometry"),
        (csa(NumberOfImagesInMosaic=[3]), {}, "missing_geometry"),
        (csa(NumberOfImagesInMosaic=[10**9], SliceNormalVector=[0, 0, 1]), {}, "missing_geometry"),
        (csa(NumberOfImagesInMosaic=[3], SliceNormalVector=[0, 1, 0]), {}, "inconsistent_geometry"),
        (csa(NumberOfImagesInMosaic=[17], SliceNormalVector=[0, 0, 1]), {}, "inconsistent_geometry"),
        (csa(NumberOfImagesInMosaic=[3], SliceNormalVector=[0, 0, 1])[:90], {}, "missing_geometry"),
        (csa(NumberOfImagesInMosaic=["nan"], SliceNormalVector=[0, 0, 1]), {}, "missing_geometry"),
        (csa(NumberOfImagesInMosaic=[3], SliceNormalVector=[0, 0, "inf"]), {}, "missing_geometry"),
        (
            csa(NumberOfImagesInMosaic=[3], SliceNormalVector=[0, 0, 1]),
            {"SpacingBetweenSlices": "9e307"},
            "missing_geometry",
        ),
        (
            csa(NumberOfImagesInMosaic=[3], SliceNormalVector=[0, 0, 1]),
            {"SpacingBetweenSlices": None},
            "missing_geometry",
        ),
    ],
)
def test_rule_08_a_mosaic_is_never_shown_as_its_sheet(scanner, refused, header, changes, reason):
    assert refused(mosaic(scanner, header, **changes)).reason == reason


def nuclear(scanner, **changes):
    images = np.stack([np.full((3, 4), index, np.uint16) for index in range(3)])
    detector = item(ImagePositionPatient=[1, 2, 30], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    drop = dict.fromkeys(
        ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept")
    )
    elements = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.20",
        "Modality": "NM",
        "ImageType": ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"],
        "SliceVector": [1, 2, 3],
        "SpacingBetweenSlices": 4.0,
        "DetectorInformationSequence": [detector],
    }
    return scanner.slice(pixels=images, **{**elements, **drop, **changes})


@pytest.mark.parametrize(("step", "last"), [(4.0, 38.0), (-4.0, 22.0)])
def test_rule_19_nuclear_medicine_reconstruction(scanner, step, last):
    volume = load(nuclear(scanner, SpacingBetweenSlices=step))
    assert volume.spacing_mm == (0.8, 0.5, 4.0)
    index = np.linalg.solve(volume.affine, [-1, -2, last, 1])[:3]
    assert volume.array[tuple(np.round(index).astype(int))] == 2


@pytest.mark.parametrize(
    "change",
    [{"SliceVector": [1, 1, 1]}, {"SpacingBetweenSlices": None}, {"DetectorInformationSequence": []}],
)
def test_rule_19_nuclear_medicine_frames_that_are_no_slices(scanner, refused, change):
    assert refused(nuclear(scanner, **change)).reason == "multiframe_not_spatial"


def test_rule_08_a_grid_of_another_vendor_is_not_shown_as_its_sheet(scanner, refused):
    dataset = scanner.dataset(SOPClassUID=MR, Modality="MR")
    dataset.add_new(0x00650010, "LO", "Image Private Header")
    dataset.add_new(0x00651050, "DS", "4")
    assert refused(scanner.save(dataset)).reason == "missing_geometry"
