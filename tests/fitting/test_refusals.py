"""Chosen series that cannot be used are told with their number, their reasons and what would help."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from medmm.columns import ImageSpec
from medmm.errors import FittingError
from medmm.fitting.assemble import _anybody
from medmm.fitting.inputs import Prepared, prepare_images
from medmm.fitting.refusals import refused_series
from medmm.modalities.image import Image, ImageSettings
from medmm.sample import SeriesSource
from tests.dicom.conftest import Scanner


def image(**settings: object) -> Image:
    block = {"shape": (4, 4, 4), "encoder": {"channels": [2]}} | settings
    return Image("ct", ImageSettings.model_validate(block), ImageSpec(dir="dicom"))


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Return six series: two whole, three with a gap, one of two echoes."""
    scanner, sources = Scanner(tmp_path / "dicom"), []
    for kind in ("whole", "whole", "gap", "gap", "gap", "echoes"):
        scanner.series = generate_uid()
        places = [0.0, 1.0, 2.0, 4.0, 5.0] if kind == "gap" else [0.0, 1.0, 2.0, 3.0]
        echoes = (10.0, 80.0) if kind == "echoes" else (10.0,)
        files = tuple(scanner.slice(z, EchoTime=echo) for echo in echoes for z in places)
        sources.append(SeriesSource(files, pseudonym=scanner.series[-16:]))
    return prepare_images(image(), sources, tmp_path / "cache")


def test_each_reason_is_counted_and_says_what_would_help(prepared: Prepared) -> None:
    told = refused_series(image(), prepared)
    assert told.startswith("ct: 4 of 6 chosen series cannot be used: missing_slices 3 (`resample: true` ")
    assert "multiple_volumes 1 (2 volumes or images in one series, told apart by EchoTime (10, 80)" in told
    assert "`volume` in cohort.yaml" in told


def test_where_resampling_is_asked_for_already_it_is_not_advised(prepared: Prepared) -> None:
    told = refused_series(image(resample=True), prepared)
    assert "missing_slices 3" in told
    assert "resample" not in told


def test_nothing_is_said_where_nothing_was_refused(tmp_path: Path) -> None:
    scanner = Scanner(tmp_path / "dicom")
    files = tuple(scanner.slice(float(z)) for z in range(4))
    one = prepare_images(image(), [SeriesSource(files, pseudonym="a")], tmp_path / "cache")
    assert refused_series(image(), one) == ""


def test_an_image_that_nobody_has_says_why(prepared: Prepared) -> None:
    told = refused_series(image(), prepared)
    with pytest.raises(FittingError, match=r"absent for all 2 training patients.* 4 of 6 chosen series"):
        _anybody("ct", ["missing_slices", "multiple_volumes"], told)
