from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from medmm.columns import ImageSpec
from medmm.dicom import load
from medmm.modalities.image import Image, ImageSettings

SHARED = Path(os.environ.get("MEDMM_SHARED", Path(__file__).parents[3] / "shared"))


def folders(cohort: str, count: int) -> list[Path]:
    root = SHARED / "data" / cohort / "dicom"
    if not root.is_dir():
        pytest.skip(f"the cohort {cohort} is not here")
    return sorted(root.iterdir())[:count]


@pytest.mark.real
def test_real_label_maps_keep_their_volume() -> None:
    declaration = ImageSpec(dir="dicom", kind="label_map", labels=(100, 200))
    block = Image("zones", ImageSettings(shape=(48, 48, 32), spacing_mm=(2, 2, 3)), declaration)
    seen = 0
    for folder in folders("picai_psa", 20):
        volume = load(folder)
        if block.warnings(volume):
            continue
        seen += 1
        channels = block.transform(volume)
        voxel_ml = np.prod(volume.spacing_mm)
        expected = [(volume.array == label).sum() * voxel_ml for label in declaration.labels]
        assert channels.sum(axis=(1, 2, 3)) * 2 * 2 * 3 == pytest.approx(expected, rel=0.01)
    assert seen >= 10


@pytest.mark.real
def test_real_radiographs_fill_the_shape_and_are_standardised() -> None:
    block = Image("chest", ImageSettings(shape=(64, 64), spacing_mm="fill"), ImageSpec(dir="dicom"))
    for folder in folders("mhh_covid", 10):
        # A patient has several radiographs, one series each: any one of them does here.
        first = load(sorted(path for path in folder.rglob("*") if path.is_file())[0])
        pixels = block.transform(first)
        assert pixels.shape == (1, 64, 64)
        assert abs(np.median(pixels)) < 0.1
        assert 0.5 < pixels.std() < 2
