"""One patient's image, loaded and transformed in a worker: no torch is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medmm.arrays import Array
from medmm.dicom.certificate import Certificate
from medmm.dicom.parallel import LOST
from medmm.errors import DicomRefusal
from medmm.sample import Absence, SeriesSource, Source

if TYPE_CHECKING:
    from medmm.modality import Modality


@dataclass(frozen=True, slots=True)
class One:
    """What became of one patient's image.

    Attributes:
        values: what the network sees, float16; None where the image is absent.
        reason: of the absence, else "".
        certificates: rows of every series that was opened, with the block and without a UID.
        lost: whether the worker died, so that another try may end otherwise.
    """

    values: Array | None
    reason: str = ""
    certificates: tuple[Mapping[str, Any], ...] = ()
    lost: bool = False


def prepare_one(modality: Modality, key: bytes, source: Source) -> One:
    """Load and transform one image; a refused series is an absence.

    Args:
        modality: of an image block.
        key: of the pseudonyms.
        source: of one patient.
    """
    if isinstance(source, Absence):
        return One(None, source.reason)
    try:
        loaded = modality.load(source)
        own = {"block": modality.name}
        rows = [own | part.row(key) for part in getattr(loaded, "certificates", (loaded.certificate,))]
        values = np.ascontiguousarray(modality.transform(loaded), dtype=np.float16)
        return One(values, "", tuple(rows))
    except DicomRefusal as refusal:
        return refused(modality, key, source, refusal)


def refused(modality: Modality, key: bytes, source: Source, why: DicomRefusal) -> One:
    """Return what a refusal leaves of one patient's image."""
    assert isinstance(source, SeriesSource)
    certificate = Certificate("", "", "refused", why.reason, why.detail, files_refused=len(source.files))
    row = {"block": modality.name} | certificate.row(key) | {"study": "", "series": source.pseudonym}
    return One(None, why.reason, certificates=(row,))


def lost(modality: Modality, key: bytes, source: Source) -> One:
    """Return what is left of a patient whose worker died."""
    return replace(refused(modality, key, source, DicomRefusal("resource_limit", LOST)), lost=True)
