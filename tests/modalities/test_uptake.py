from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmm.columns import ImageSpec
from medmm.dicom import load
from medmm.errors import ConfigError, DicomRefusal
from medmm.modalities.bag import Bag, BagSettings
from medmm.modalities.image import Image, ImageSettings
from medmm.sample import SeriesSource
from tests.dicom.conftest import Scanner
from tests.dicom.test_rules_other import pet

SUV = {"shape": (4, 3), "window": (0, 1), "intensity": "suv", "encoder": {"channels": [2]}}


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path / "dicom")


def image(**settings: object) -> Image:
    return Image("pet", ImageSettings.model_validate(SUV | settings), ImageSpec(dir="dicom"))


def test_a_pet_enters_in_grams_per_millilitre(scanner: Scanner) -> None:
    file = pet(scanner, RescaleIntercept=0, RescaleSlope=100)
    stored = load(file).array
    seen = image().load(SeriesSource((file,)))
    # 74 kg over the 185 MBq that are left of the dose after one half-life
    assert seen.array == pytest.approx(stored * 74000 / 1.85e8, rel=1e-6)
    assert seen.array.max() > 0
    assert (seen.certificate.units, load(file).certificate.units) == ("{SUVbw}g/ml", "BQML")
    assert seen.certificate.maximum == pytest.approx(float(seen.array.max()))
    plain = image(intensity="stored").load(SeriesSource((file,)))
    assert np.array_equal(plain.array, stored)


def test_what_has_no_uptake_value_is_refused(scanner: Scanner) -> None:
    for file, reason in (
        (pet(scanner, Units="CNTS"), "missing_tags"),
        (pet(scanner, PatientWeight=None), "missing_tags"),
        (scanner.slice(), "unsupported_sop"),
    ):
        with pytest.raises(DicomRefusal) as caught:
            image().load(SeriesSource((file,)))
        assert caught.value.reason == reason


@pytest.mark.parametrize("kind", [None, "BW"])
def test_what_is_an_uptake_value_already_stays_as_it_is(scanner: Scanner, kind: str | None) -> None:
    file = pet(scanner, RescaleIntercept=0, RescaleSlope=0.5, Units="GML", SUVType=kind, PatientWeight=None)
    seen = image().load(SeriesSource((file,)))
    assert np.array_equal(seen.array, load(file).array)
    assert seen.certificate.units == "{SUVbw}g/ml"


def test_uptake_by_lean_body_mass_is_no_uptake_by_body_weight(scanner: Scanner) -> None:
    with pytest.raises(DicomRefusal, match="neither BQML nor GML by body weight"):
        image().load(SeriesSource((pet(scanner, Units="GML", SUVType="LBM"),)))


def test_objects_that_give_different_values_are_refused(scanner: Scanner) -> None:
    files = tuple(
        pet(scanner, ImagePositionPatient=[0, 0, z], PatientWeight=weight)
        for z, weight in ((0.0, 74), (2.5, 74), (5.0, 75))
    )
    with pytest.raises(DicomRefusal, match="different uptake values"):
        image(shape=(4, 3, 3)).load(SeriesSource(files))


def test_labels_and_bags_have_no_uptake() -> None:
    labels = ImageSpec(dir="dicom", kind="label_map", labels=(1,))
    with pytest.raises(ConfigError, match="intensity: suv"):
        Image("pet", ImageSettings.model_validate({**SUV, "window": None}), labels)
    with pytest.raises(ConfigError, match="intensity: suv"):
        Bag("pet", BagSettings.model_validate(SUV), ImageSpec(dir="dicom", choose="all"))
