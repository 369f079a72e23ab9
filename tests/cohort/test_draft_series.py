"""A draft tells series apart: MR by sequence, several volumes by what differs, waveforms from pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from medmm.cohort.draft.sequences import SEQUENCES
from medmm.columns import ImageSpec
from medmm.errors import ConfigError
from medmm.modalities.image import Image, ImageSettings
from medmm.modalities.waveform import Waveform, WaveformSettings
from tests.cohort.conftest import drafted
from tests.dicom.conftest import Scanner
from tests.dicom.test_rules_other import pet
from tests.modalities.test_waveform import called, recording

NAMES = [f"P{n:03d}" for n in range(12)]
MR = {"Modality": "MR", "StudyDate": "20240301", "RescaleSlope": None, "RescaleIntercept": None}


def _tables(data: Path) -> None:
    data.mkdir()
    rows = [f"{name},2024-03-02,{40 + n}" for n, name in enumerate(NAMES)]
    (data / "records.csv").write_text("\n".join(["patient_id,visit_date,age", *rows]) + "\n")


def _brains(data: Path, *described: str) -> None:
    """Write of each patient one study of these series; diffusion holds three b-values."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        scanner = Scanner(data / "dicom" / name)
        for description in described:
            scanner.series = generate_uid()
            for b in (0.0, 500.0, 1000.0) if "diff" in description else (None,):
                for z in range(5):
                    pixels = rng.integers(0, 900, (16, 16)).astype(np.int16)
                    tags = MR | {"PatientID": name, "SeriesDescription": description, "DiffusionBValue": b}
                    scanner.slice(5.0 * z, pixels=pixels, **tags)


def test_each_mr_sequence_is_a_block_and_diffusion_asks_for_its_b_value(tmp_path: Path) -> None:
    data = tmp_path / "data"
    _tables(data)
    _brains(data, "SAG T1 FLAIR", "t1_mprage", "ep2d_diff_3b")
    cohort, recipe, asked = drafted(data, tmp_path / "mine")
    images = cohort["images"]
    assert set(images) == {"flair", "t1", "dwi"} == set(recipe["modalities"]) - {"records"}
    assert re.search(images["t1"]["description"], "t1_mprage", re.IGNORECASE)
    assert not re.search(images["t1"]["description"], "SAG T1 FLAIR", re.IGNORECASE)
    assert images["dwi"]["volume"] == {"DiffusionBValue": 1000}
    assert len(recipe["modalities"]["dwi"]["shape"]) == 3
    assert "a series holds volumes of DiffusionBValue 0, 500, 1000; which one is meant?" in asked


def test_several_series_of_a_study_that_nothing_names_are_asked_about(tmp_path: Path) -> None:
    data = tmp_path / "data"
    _tables(data)
    _brains(data, "series A", "series B")
    cohort, _, asked = drafted(data, tmp_path / "mine")
    assert set(cohort["images"]) == {"mr"}
    (question,) = (line for line in asked if "most studies have" in line)
    assert question.startswith("most studies have 2 of these series, and one is taken; say which by")
    assert "'series A' 12" in question


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("t2_tirm_tra_dark-fluid", "flair"),
        ("ep2d_diff_4scan_trace_ADC", "adc"),
        ("DWI b1000", "dwi"),
        ("Ax T2* GRE", "swi"),
        ("t1_mprage_sag_Gd", "t1_contrast"),
        ("Post contrast SAG T1", "t1_contrast"),
        ("T1 posterior fossa", "t1"),
        ("WIP sT1W_3D_TFE", "t1"),
        ("t2_tse_tra", "t2"),
        ("PD fat sat", "pd"),
    ],
)
def test_a_description_names_its_sequence(description: str, name: str) -> None:
    assert name == next(key for key, words in SEQUENCES.items() if re.search(words, description, re.I))


def test_waveforms_are_drafted_as_waveforms_with_their_leads_in_one_order(tmp_path: Path) -> None:
    data = tmp_path / "data"
    _tables(data)
    (data / "ecg").mkdir()
    for n, name in enumerate(NAMES):
        leads = ("I", "II") if n % 4 else ("II", "I")
        called(recording(data / "ecg" / f"{name}.dcm", patient=name), *leads)
    cohort, recipe, asked = drafted(data, tmp_path / "mine")
    block = recipe["modalities"]["ecg"]
    assert block == {
        "kind": "waveform",
        "channels": 2,
        "leads": ["I", "II"],
        "seconds": 4,
        "sampling_hz": 100,
    }
    assert not [line for line in asked if "no series" in line]
    spec = ImageSpec.model_validate(cohort["images"]["ecg"])
    block.pop("kind")
    assert Waveform("ecg", WaveformSettings.model_validate(block), spec).shape == (2, 400)


def test_waveforms_are_not_read_as_pictures() -> None:
    settings = ImageSettings.model_validate({"shape": (64, 64)})
    with pytest.raises(ConfigError, match="are ECG, which are waveforms; say `kind: waveform`"):
        Image("ecg", settings, ImageSpec(dir="dicom", modality="ECG"))


def test_a_pet_is_drafted_in_uptake_values_where_its_series_state_what_these_need(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, changes in (("whole", {}), ("lacking", {"PatientWeight": None})):
        data = tmp_path / kind
        _tables(data)
        for name in NAMES:
            scanner = Scanner(data / "dicom" / name)
            scanner.series = generate_uid()
            for z in range(5):
                pixels = rng.integers(0, 900, (16, 16)).astype(np.int16)
                place = {"ImagePositionPatient": [0, 0, 4 * z], "PatientID": name, "pixels": pixels}
                pet(scanner, **place | changes)
    whole = drafted(tmp_path / "whole", tmp_path / "a")[1]["modalities"]["pt"]
    assert (whole["intensity"], whole["window"]) == ("suv", [0, 10])
    assert "intensity" not in drafted(tmp_path / "lacking", tmp_path / "b")[1]["modalities"]["pt"]
