"""Invented cohort and training pages with the shape of real ones; no figure in them was measured."""

from __future__ import annotations

import numpy as np

from medmm.evaluation.availability import Cell
from medmm.evaluation.calibrate import Agreement, agreement
from medmm.evaluation.comparison import Verdict
from medmm.evaluation.decisions import Operating
from medmm.evaluation.paired import Benefit, DeLong
from medmm.evaluation.resampling import Estimate
from medmm.evaluation.subgroups import Subgroup
from medmm.fitting.choosing import Compared, Evidence
from medmm.fitting.promotion import Check, Decision
from medmm.report.choosing import choosing
from medmm.report.cohort import (
    CohortPage,
    Histogram,
    Missingness,
    NetBenefit,
    Share,
    SwarmField,
)
from medmm.report.facts import FlowStep, Predictor, Table
from medmm.report.images import Tile, contact_sheet
from medmm.report.training import LearningCurve, TrainingPage

from .pages import PROVENANCE

FLOW = (
    FlowStep("subjects in any source", 1084, (("no outcome known", 19), ("before the first series", 3))),
    FlowStep("in the cohort", 1062, (("neither image nor result", 17),)),
    FlowStep("scored out-of-fold", 1045),
)
PREDICTORS = (
    Predictor(
        "fused",
        431,
        123,
        Estimate(0.783, 0.736, 0.828),
        Estimate(0.61, 0.53, 0.69),
        Estimate(0.16, 0.15, 0.18),
    ),
    Predictor("zones", 431, 123, Estimate(0.702, 0.65, 0.75), Estimate(0.49, 0.41, 0.57)),
    Predictor("biomarkers", 424, 121, Estimate(0.688, 0.63, 0.74), Estimate(0.47, 0.40, 0.56)),
    Predictor("trees", 424, 121, Estimate(0.671, 0.61, 0.73), Estimate(0.45, 0.38, 0.53)),
)
VERDICT = Verdict(
    word="helps",
    patients=431,
    events=123,
    aurocs={
        "fused": Estimate(0.783, 0.736, 0.828),
        "tables": Estimate(0.688, 0.63, 0.74),
        "trees": Estimate(0.671, 0.61, 0.73),
    },
    differences={"tables": Estimate(0.095, 0.041, 0.149), "trees": Estimate(0.112, 0.051, 0.172)},
    margin=0.02,
)


PPV = Estimate(0.41, 0.36, 0.46)
CALIBRATED = Agreement(
    0.29, 0.28, Estimate(0.02, -0.2, 0.2), Estimate(1.02, 0.8, 1.24), 0.16, np.empty(0), np.empty(0)
)


_DELONG = DeLong(Estimate(0.05, 0.01, 0.09), 0.014)
EVIDENCE = Evidence(
    cells=(
        Cell("zones + records", "fused", 431, 123, Estimate(0.76, 0.7, 0.8), CALIBRATED),
        Cell("zones + records", "zones", 431, 123, Estimate(0.7, 0.64, 0.75), CALIBRATED),
        Cell("records", "fused", 631, 179, Estimate(0.63, 0.58, 0.68), CALIBRATED),
        Cell("zones", "fused", 12, None, Estimate(0.6, 0.2, 0.9)),
        Cell("nothing", "fused", None),
    ),
    compared=(
        Compared("zones", "whom both score", 431, 123, Estimate(0.06, -0.01, 0.11), _DELONG),
        Compared(
            "trees",
            "who have the image",
            431,
            123,
            Estimate(0.14, 0.09, 0.19),
            DeLong(Estimate(0.14, np.nan, np.nan), np.nan),
        ),
    ),
    benefits={"treat all": Benefit(1062, *(Estimate(x, x - 0.02, x + 0.02) for x in (0.1, 0.13, 0.03)))},
    risk=0.2,
    repeats=3,
)
DECISION = Decision((Check("calibration_slope", "0.8 to 1.25", "0.70", False),))


def _swarm() -> tuple[SwarmField, ...]:
    draw = np.random.default_rng(3)
    fields = []
    for label, size in (("PSA", 0.9), ("Age", 0.4), ("Prostate volume", 0.35), ("Family history", 0.1)):
        values = draw.normal(size=200)
        ranks = [None if draw.random() < 0.08 else float(rank) for rank in values.argsort().argsort() / 199]
        moved = size * np.tanh(values) + draw.normal(0, 0.04, 200)
        fields.append(SwarmField(label, tuple(float(value) for value in moved), tuple(ranks)))
    return tuple(fields)


def cohort_page(**changes: object) -> CohortPage:
    draw = np.random.default_rng(1)
    logits = draw.normal(-1.1, 1.2, 1045)
    labels = (draw.random(1045) < 1 / (1 + np.exp(-logits))).astype(float)
    risks = 1 / (1 + np.exp(-logits))
    edges = np.linspace(0, 1, 21)
    having, without = (np.histogram(risks[labels == one], edges)[0].tolist() for one in (1, 0))
    thresholds = tuple(float(x) for x in np.linspace(0.05, 0.95, 19))
    rate = labels.mean()
    treat_all = [rate - (1 - rate) * t / (1 - t) for t in thresholds]
    model = [
        float(((risks >= t) & (labels == 1)).mean() - ((risks >= t) & (labels == 0)).mean() * t / (1 - t))
        for t in thresholds
    ]
    facts: dict[str, object] = {
        "title": "prostate_mri_psa",
        "question": "clinically significant prostate cancer (ISUP 2 or higher)",
        "intended_use": "Research on triage before biopsy in men with a raised PSA; not for screening.",
        "source": "out-of-fold scores of the training patients",
        "patients": 1045,
        "events": int(labels.sum()),
        "provenance": PROVENANCE,
        "flow": FLOW,
        "table_one": Table(
            ("", "all", "with the outcome", "without", "SMD"),
            (
                ("Patients", "1045", "299", "746", ""),
                ("Age, median (quartiles), years", "66 (61, 71)", "69 (64, 73)", "65 (60, 70)", "0.48"),
                ("PSA, median (quartiles), ng/mL", "8.1 (5.9, 12)", "10 (7.1, 17)", "7.4 (5.6, 11)", "0.51"),
            ),
            "SMD: standardised mean difference.",
        ),
        "missingness": (
            Missingness("PSA", 38, 1045, "biomarkers"),
            Missingness("Prostate volume", 411, 1045, "biomarkers"),
            Missingness("Prostate zones", 614, 1045, "zones"),
        ),
        "predictors": PREDICTORS,
        "verdict": VERDICT,
        "thresholds": tuple(
            Operating(
                t, Estimate(1 - t, 0.9 - t, 1.0), Estimate(t, t - 0.05, t + 0.05), PPV, None, 100 - 90 * t
            )
            for t in (0.1, 0.2, 0.3, 0.5)
        ),
        "chosen_threshold": 0.2,
        "histogram": Histogram(tuple(edges.tolist()), tuple(without), tuple(having)),
        "calibration": agreement(labels, logits),
        "net_benefit": NetBenefit(thresholds, {"fused": tuple(model), "treat all": tuple(treat_all)}),
        "subgroups": {
            "centre": (
                Subgroup("north", 610, 170, Estimate(0.79, 0.74, 0.83), CALIBRATED),
                Subgroup("south", 427, 127, Estimate(0.75, 0.69, 0.81), CALIBRATED),
                Subgroup("island", None),
            ),
            "age": (Subgroup("under 60", 212, 31, Estimate(0.71, 0.6, 0.81)),),
        },
        "patterns": (
            Subgroup("zones + biomarkers", 424, 121, Estimate(0.78, 0.73, 0.82)),
            Subgroup("biomarkers", 614, 176, Estimate(0.68, 0.63, 0.72)),
            Subgroup("zones", None),
        ),
        "swarm": _swarm(),
        "shares": (Share("biomarkers", 0.61, 200), Share("zones", 0.47, 200)),
        "refused": (("zones: no series", 614), ("zones: missing slices", 2)),
        "evidence": {"TRIPOD+AI 5a": "cohorts/invented/README.md"},
    }
    return CohortPage(**{**facts, **changes})  # type: ignore[arg-type]


def tiles() -> list[Tile]:
    draw = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in (48, 48, 28)), indexing="ij")
    ball = (x**2 + y**2 + z**2 < 0.6).astype(np.float32)
    core = ((x / 0.6) ** 2 + ((y - 0.1) / 0.5) ** 2 + z**2 < 0.6).astype(np.float32)
    noise = draw.normal(0, 0.1, ball.shape).astype(np.float32)
    return [
        Tile(np.stack([ball - core * ball, core]), "label_map", "1"),
        Tile((ball + core + noise)[None], "intensity", "2"),
        Tile((ball + noise)[None, :, :, 14], "intensity", "3 (projection)", axes=None),
    ]


def training_page(**changes: object) -> TrainingPage:
    epochs = np.arange(1, 41)
    facts: dict[str, object] = {
        "title": "prostate_mri_psa",
        "question": "clinically significant prostate cancer (ISUP 2 or higher)",
        "intended_use": "Research on triage before biopsy in men with a raised PSA; not for screening.",
        "provenance": PROVENANCE,
        "flow": FLOW,
        "predictors": PREDICTORS,
        "decided": Table(
            ("predictor", "accuracy", "recall", "F1"),
            (("fused", "0.71 (0.66 to 0.75)", "0.80 (0.72 to 0.87)", "0.61 (0.55 to 0.67)"),),
            "Out-of-fold, at a risk of 0.3.",
        ),
        "verdict": VERDICT,
        "chosen": choosing(EVIDENCE, DECISION),
        "curves": (
            LearningCurve(
                "fused, fold 1",
                tuple((0.7 * np.exp(-epochs / 20)).tolist()),
                tuple((0.72 * np.exp(-epochs / 30) + 0.0003 * epochs**1.5).tolist()),
                best_epoch=22,
            ),
        ),
        "contact_sheet": contact_sheet(tiles()),
        "settings": (("fusion", "late_stack"), ("folds", "5")),
        "warnings": ("Under 50 events: no held-out claim is made.",),
    }
    return TrainingPage(**{**facts, **changes})  # type: ignore[arg-type]
