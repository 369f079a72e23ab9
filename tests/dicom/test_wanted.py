"""Of a series of several volumes, the one that is asked for, and never another."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from medmm.columns import ImageSpec, VolumeElement
from medmm.dicom import load_files
from medmm.dicom.planes import SPLITTING
from medmm.errors import DicomRefusal


def diffusion(scanner):
    """Write three b-values of one series, each with a level of its own."""
    return [
        scanner.slice(z, pixels=np.full((3, 4), level, np.int16), DiffusionBValue=b, RescaleIntercept=0)
        for b, level in ((0.0, 900), (500.0, 600), (1000.0, 400))
        for z in (0.0, 2.5, 5.0)
    ]


@pytest.mark.parametrize(
    ("wanted", "level"), [(0, 900), (1000, 400), (1005, 400), ((400, 600), 600), ([800, 1200], 400)]
)
def test_a_number_or_a_range_tells_which_volume(scanner, wanted, level):
    declared = ImageSpec.model_validate({"dir": "dicom", "volume": {"DiffusionBValue": wanted}})
    volume = load_files(diffusion(scanner), volume=declared.volume)
    assert volume.array.shape == (4, 3, 3)
    assert np.unique(volume.array).tolist() == [level]


def test_a_word_tells_which_volume(scanner):
    paths = [
        scanner.slice(z, ImageType=["DERIVED", "PRIMARY", kind], RescaleIntercept=level)
        for kind, level in (("WATER", 0), ("FAT", 5000))
        for z in (0.0, 2.5, 5.0)
    ]
    assert load_files(paths, volume={"ImageType": "fat"}).array.min() >= 5000


def test_without_a_wish_the_refusal_says_what_could_be_wished_for(scanner, refused):
    refusal = refused(diffusion(scanner), load_files)
    assert refusal.reason == "multiple_volumes"
    assert refusal.detail.endswith("told apart by DiffusionBValue (0, 500, 1000)")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [({"DiffusionBValue": 2000}, "no_volume"), ({"EchoTime": 30}, "no_volume"), ({}, "multiple_volumes")],
)
def test_what_is_not_there_is_refused(scanner, wanted, reason):
    with pytest.raises(DicomRefusal) as caught:
        load_files(diffusion(scanner), volume=wanted)
    assert caught.value.reason == reason


def test_a_series_of_one_volume_must_be_the_one_that_is_meant(scanner):
    paths = scanner.stack(DiffusionBValue=0.0)
    assert load_files(paths, volume={"DiffusionBValue": 0}).array.shape == (4, 3, 5)
    with pytest.raises(DicomRefusal, match="none of 1 volumes has DiffusionBValue 1000"):
        load_files(paths, volume={"DiffusionBValue": 1000})


def test_what_can_be_declared_tells_volumes_apart():
    assert set(get_args(VolumeElement)) <= set(SPLITTING)
