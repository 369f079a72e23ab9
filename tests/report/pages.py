"""Invented pages with the shape of real ones; no figure in them was measured."""

from __future__ import annotations

import numpy as np

from medmm.evaluation.resampling import Estimate
from medmm.report.facts import Provenance
from medmm.report.images import ImageEvidence, Slice
from medmm.report.patient import (
    Calibration,
    HowGood,
    InputBlock,
    PatientPage,
    ReferenceFacts,
    Risk,
    UsedField,
    UsedSeries,
)
from medmm.report.waterfall import PlayerText, Waterfall
from medmm.sample import Attribution

SLOPE, INTERCEPT = 0.91, -0.12
BASE = -0.86
FIELDS = {
    "psa": ("PSA", "11.2", "ng/mL", "0 – 4", 0.62, 0.012),
    "psad": ("PSA density", "0.21", "ng/mL2", "0 – 0.15", 0.187, 0.011),
    "age": ("Age", "71", "a", "", 0.084, 0.009),
    "volume": ("Prostate volume", "not recorded", "mL", "", -0.0431, 0.006),
    "family": ("Family history", "no", "", "", -0.112, 0.008),
    "prior": ("Previous biopsy", "negative", "", "", -0.208, 0.01),
}
TABLE = sum(field[4] for field in FIELDS.values())
IMAGE, NOTES = 0.4137, -0.071
LOGIT = BASE + TABLE + IMAGE + NOTES
PROVENANCE = Provenance(
    bundle_sha256="3f6c0a4be1d7925c8e0b7f4a9d2c61583b7e0f94ad52c8613e7f0b9a4d8c2e15",
    medmm_version="0.1.0",
    created="2026-03-02T09:41:07+00:00",
    recipe="prostate_mri_psa",
    cohort="invented",
    cohort_sha256="a90e4c7713d2bb806f5e19c4d07a83b25e6f1c9d4083ab72c5e9d60f17b84a3c",
    seeds={"folds": 0, "coalitions": 7},
)


def phantom(size: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an axial plane [x y] of a body-like phantom in HU, and an attribution on it."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 12, x.shape)
    plane = np.full(x.shape, -1000.0)
    plane[(x / 0.92) ** 2 + (y / 0.7) ** 2 < 1] = -90
    plane[(x / 0.82) ** 2 + (y / 0.6) ** 2 < 1] = 45
    for side in (-1, 1):
        plane[((x - 0.48 * side) / 0.16) ** 2 + ((y + 0.12) / 0.2) ** 2 < 1] = 120
    plane[(x / 0.12) ** 2 + ((y + 0.38) / 0.13) ** 2 < 1] = 480
    lesion = np.exp(-(((x - 0.5) / 0.09) ** 2 + ((y + 0.02) / 0.09) ** 2))
    plane += 90 * lesion
    heat = 0.011 * lesion - 0.004 * np.exp(-(((x + 0.4) / 0.15) ** 2 + ((y - 0.1) / 0.12) ** 2))
    return (plane + noise * (plane > -500)).astype(np.float32), heat.astype(np.float32)


def intensity_evidence(**changes: object) -> ImageEvidence:
    slices = []
    for number in (28, 31, 34):
        plane, heat = phantom(seed=number)
        fade = 1 - abs(number - 31) / 6
        slices.append(Slice(plane, number, (2.6, 2.6), ("R", "A"), map=heat * fade))
    facts: dict[str, object] = {
        "label": "Contrast CT",
        "kind": "intensity",
        "plane": "axial",
        "slices": tuple(slices),
        "count": 64,
        "window": (-160.0, 240.0),
        "window_text": "soft tissue, level 40 HU, width 400 HU",
        "gate": "passed",
        "gate_sentence": "Rank correlation 0.11 with a model whose encoder is random (0.30 allowed).",
        "gap": 0.031,
        "method": "integrated gradients, 32 steps, from the blurred image",
    }
    return ImageEvidence(**{**facts, **changes})  # type: ignore[arg-type]


def label_evidence(**changes: object) -> ImageEvidence:
    x, y = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48), indexing="ij")
    slices = []
    for number in (9, 12, 15):
        zones = np.zeros(x.shape, dtype=np.float32)
        zones[x**2 + (y / 0.8) ** 2 < 0.5 - abs(number - 12) / 20] = 100
        zones[(x / 0.6) ** 2 + ((y - 0.12) / 0.5) ** 2 < 0.6 - abs(number - 12) / 20] = 200
        slices.append(Slice(zones, number, (1.2, 1.2), ("R", "A"), map=0.01 * x * (zones > 0)))
    facts: dict[str, object] = {
        "label": "Prostate zones",
        "kind": "label_map",
        "plane": "axial",
        "slices": tuple(slices),
        "count": 24,
        "labels": ((100, "transition zone"), (200, "peripheral zone")),
        "gate": "withheld",
        "gate_sentence": "Rank correlation 0.58 with a model whose encoder is random (0.30 allowed): the map "
        "would look the same had the model learned nothing.",
    }
    return ImageEvidence(**{**facts, **changes})  # type: ignore[arg-type]


def risk(**changes: object) -> Risk:
    calibrated = SLOPE * LOGIT + INTERCEPT
    facts: dict[str, object] = {
        "probability": float(1 / (1 + np.exp(-calibrated))),
        "calibrated_logit": calibrated,
        "cohort_rate": 0.28,
        "cohort_patients": 1062,
        "calibration": Calibration(
            method="Platt", patients=1062, events=299, slope=SLOPE, intercept=INTERCEPT
        ),
        "training": "out_of_fold",
        "low": 0.36,
        "high": 0.57,
        "interval_of": "95 % interval over 200 refits",
        "threshold": 0.2,
        "decision": "this patient is above it",
        "sensitivity": Estimate(0.91, 0.87, 0.94),
        "specificity": Estimate(0.43, 0.39, 0.47),
    }
    return Risk(**{**facts, **changes})  # type: ignore[arg-type]


def inputs() -> tuple[InputBlock, ...]:
    return (
        InputBlock(
            name="ct",
            label="Contrast CT",
            series=(
                UsedSeries(
                    label="Contrast CT",
                    series="series-7c1e",
                    slices=64,
                    spacing="0.8 × 0.8 × 3.0 mm",
                    offset_days=-1.0,
                ),
            ),
        ),
        InputBlock(
            name="biomarkers",
            label="PSA and history",
            fields=(
                UsedField(
                    label="PSA",
                    recorded="11200 pg/mL",
                    value="11.2",
                    unit="ng/mL",
                    reference="0 – 4",
                    position="above",
                    offset_days=-3.0,
                ),
                UsedField(
                    label="PSA density",
                    recorded="0.21",
                    value="0.21",
                    unit="ng/mL2",
                    reference="0 – 0.15",
                    position="above",
                    undated=True,
                ),
                UsedField(label="Age", recorded="71", value="71", unit="a"),
                UsedField(label="Family history", recorded="n", value="no"),
                UsedField(label="Previous biopsy", recorded="negative", value="negative", offset_days=-412.0),
            ),
            missing=("Prostate volume",),
            not_used=(("PSA of a later day", "later than the prediction time"),),
        ),
        InputBlock(name="notes", label="Referral note", absent="no note before the prediction time"),
    )


def modality_waterfall() -> Waterfall:
    attribution = Attribution(
        "csPCa",
        "modality",
        ("ct", "biomarkers", "notes"),
        BASE,
        (IMAGE, TABLE, NOTES),
        (0.0, 0.0, 0.0),
        LOGIT,
    )
    texts = {
        "ct": PlayerText("Contrast CT"),
        "biomarkers": PlayerText("PSA and history"),
        "notes": PlayerText("Referral note", absent=True),
    }
    return Waterfall(attribution, texts)


def field_waterfall() -> Waterfall:
    names = (*FIELDS, "ct", "notes")
    values = (*(field[4] for field in FIELDS.values()), IMAGE, NOTES)
    errors = (*(field[5] for field in FIELDS.values()), 0.0, 0.0)
    texts = {
        name: PlayerText(label, value, unit, reference)
        for name, (label, value, unit, reference, _, _) in FIELDS.items()
    }
    attribution = Attribution("csPCa", "biomarkers", names, BASE, values, errors, LOGIT)
    return Waterfall(attribution, texts, "PSA and history")


def patient_page(**changes: object) -> PatientPage:
    facts: dict[str, object] = {
        "pseudonym": "9f2c41d07be8a365",
        "question": "clinically significant prostate cancer (ISUP 2 or higher)",
        "intended_use": "Research on triage before biopsy in men with a raised PSA; not for screening.",
        "status": "scored",
        "provenance": PROVENANCE,
        "study_date": "day 0 (prediction time)",
        "risk": risk(),
        "inputs": inputs(),
        "warnings": ("PSA is above the 99th percentile of the training cohort.",),
        "modalities": modality_waterfall(),
        "fields": (field_waterfall(),),
        "images": (intensity_evidence(), label_evidence()),
        "how_good": HowGood(
            pattern="image and biomarkers, no note",
            source="out-of-fold, 5 folds",
            patients=424,
            events=121,
            auroc=Estimate(0.762, 0.711, 0.809),
            slope=Estimate(0.94, 0.71, 1.18),
            expected=0.291,
            observed=0.285,
        ),
        "reference": ReferenceFacts(
            kind="medoids", size=200, of=1062, sampling_error=0.021, sha256="77aa0c3e" * 8
        ),
        "feedback": "Write to the study's reading room, extension 4711, naming the pseudonym above.",
    }
    return PatientPage(**{**facts, **changes})  # type: ignore[arg-type]
