"""Standardised uptake values of PET (PS3.3 C.8.9; the QIBA profile's formula for body weight)."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

from medmm.dicom import tags
from medmm.dicom.elements import Elements
from medmm.dicom.header import Header, read_header
from medmm.errors import DicomRefusal

GRAMS_PER_KG = 1000.0
MAX_DECAY_DAYS = 2.0
"""An injection longer before the scan than this is a mistyped date."""


def suv_factor(path: Path) -> float:
    """Return what the values of a PET image (Bq/ml) are multiplied with to become SUVbw in g/ml.

    Only activity that is corrected for attenuation and decay, to a moment the object states, has an SUV.
    Values that are SUVbw already (Units GML, SUVType BW or absent) stay as they are.

    Raises:
        DicomRefusal: ``missing_tags`` when Units, CorrectedImage, DecayCorrection, weight, dose or times do
            not say enough; ``unsupported_sop`` when the object is no PET.
    """
    header = read_header(path)
    elements = header.elements
    if elements.text(tags.MODALITY) != "PT":
        raise DicomRefusal("unsupported_sop", "only PET has a standardised uptake value")
    units = elements.text(tags.PET_UNITS)
    if units == "GML" and elements.text(tags.SUV_TYPE) in ("", "BW"):
        return 1.0
    if units != "BQML":
        raise DicomRefusal("missing_tags", "Units of the PET are neither BQML nor GML by body weight")
    if not {"ATTN", "DECY"} <= set(elements.texts(tags.CORRECTED_IMAGE)):
        raise DicomRefusal("missing_tags", "CorrectedImage does not name attenuation (ATTN) and decay (DECY)")
    tracer = elements.first(tags.RADIOPHARMACEUTICAL)
    if tracer is None:
        raise DicomRefusal("missing_tags", "RadiopharmaceuticalInformationSequence is absent")
    weight = _positive(elements, tags.PATIENT_WEIGHT, "PatientWeight")
    dose = _positive(tracer, tags.TOTAL_DOSE, "RadionuclideTotalDose")
    return weight * GRAMS_PER_KG / (dose * _decayed(header, tracer))


def _decayed(header: Header, tracer: Elements) -> float:
    """Return the share of the dose that is left at the moment the image is corrected to."""
    correction = header.text(tags.PET_DECAY_CORRECTION)
    if correction == "ADMIN":
        return 1.0
    if correction != "START":
        raise DicomRefusal("missing_tags", "DecayCorrection is neither START nor ADMIN")
    half_life = _positive(tracer, tags.HALF_LIFE, "RadionuclideHalfLife")
    started = _moment(header.elements, tags.SERIES_DATE, tags.SERIES_TIME)
    acquired = _moment(header.elements, tags.ACQUISITION_DATE, tags.ACQUISITION_TIME)
    if started > acquired:
        raise DicomRefusal("missing_tags", "the series was made after its acquisition: START is not known")
    injected = tracer.text(tags.INJECTION_DATETIME)
    if not injected and tracer.text(tags.INJECTION_TIME):
        injected = header.text(tags.SERIES_DATE) + tracer.text(tags.INJECTION_TIME)
    seconds = (started - _parsed(injected)).total_seconds()
    if not 0 <= seconds <= MAX_DECAY_DAYS * 86400:
        raise DicomRefusal("missing_tags", "the injection does not lie shortly before the scan")
    return math.pow(2.0, -seconds / half_life)


def _positive(elements: Elements, tag: int, keyword: str) -> float:
    value = elements.number(tag)
    if value is None or not math.isfinite(value) or value <= 0:
        raise DicomRefusal("missing_tags", f"{keyword} is absent or not positive")
    return value


def _moment(elements: Elements, date: int, time: int) -> datetime:
    return _parsed(elements.text(date) + elements.text(time))


def _parsed(value: str) -> datetime:
    """Return a DICOM date and time; a fraction of a second may be there."""
    for form in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S"):
        try:
            return datetime.strptime(value, form)
        except ValueError:
            continue
    raise DicomRefusal("missing_tags", "the time of injection, series or acquisition is absent or malformed")
