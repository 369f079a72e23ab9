"""A PET in standardised uptake values, where a recipe asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medmm.errors import DicomRefusal

if TYPE_CHECKING:
    from medmm.dicom.volume import Volume

SUV_UNIT = "{SUVbw}g/ml"
"""As the certificate says it, in UCUM."""

SAME_FACTOR = 1e-6
"""Relative difference of two objects' factors that rounding explains."""


def in_uptake(volume: Volume, files: Sequence[Path]) -> Volume:
    """Return a PET in SUVbw (g/ml); see :func:`medmm.dicom.suv_factor`.

    Args:
        volume: in Bq/ml.
        files: of its series, each of which must give the same factor.

    Raises:
        DicomRefusal: ``missing_tags`` if an object does not say enough; ``unsupported_sop`` if it is no PET;
            ``inconsistent_geometry`` if the objects do not agree.
    """
    from medmm.dicom import suv_factor

    factors = [suv_factor(file) for file in files]
    if max(factors) > min(factors) * (1 + SAME_FACTOR):
        raise DicomRefusal("inconsistent_geometry", "the objects of the PET give different uptake values")
    summary = replace(volume.summary, units=SUV_UNIT)
    return replace(volume, array=volume.array.astype(np.float32) * np.float32(factors[0]), summary=summary)
