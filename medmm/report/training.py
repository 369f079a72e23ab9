"""The page about one training run: who was in it, what was learned, and whether the image earns its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from medmm.evaluation.subgroups import SMALL_CELL
from medmm.report.choosing import Choosing
from medmm.report.facts import FlowStep, Predictor, Provenance, Table
from medmm.report.figures import learning
from medmm.report.forest import of_differences, of_predictors
from medmm.report.images import image_size
from medmm.report.page import render

if TYPE_CHECKING:
    from medmm.evaluation.comparison import Verdict
    from medmm.evaluation.resampling import Estimate


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Losses of one model over its epochs.

    Attributes:
        name: the model ("fused, fold 1").
        train: mean loss per epoch on the patients it was fitted on.
        tuning: mean loss per epoch on the patients it was stopped on; empty when there were none.
        best_epoch: 1-based epoch whose weights were kept, or 0.
    """

    name: str
    train: tuple[float, ...]
    tuning: tuple[float, ...] = ()
    best_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPage:
    """Everything the training page prints; a section without values is left out.

    Attributes:
        title: the pipeline's title.
        question: the outcome asked about, in words.
        intended_use: from the recipe.
        provenance: bundle, version, date, seeds.
        flow: inclusion flow, top to bottom.
        predictors: out-of-fold figures: fused first, then each modality alone, then the trees.
        shipped: what ships where that is not the fused model alone, in words; or empty.
        decided: what deciding at the threshold gives, per predictor; or None.
        chosen: availability grid, comparisons, net benefit and promotion; or None.
        verdict: whether the image earns its place, or None where there is no image.
        curves: learning curves.
        contact_sheet: PNG of what the network sees, from :func:`medmm.report.images.contact_sheet`; or empty.
        settings: (name, value) lines of the recipe worth reading.
        warnings: what a reader of the figures must know.
        outcomes: (heading, figures) of outcomes that are not one binary one.
        verdicts: (outcome, whether the image earns its place) of these.
    """

    title: str
    question: str
    intended_use: str
    provenance: Provenance
    flow: tuple[FlowStep, ...] = ()
    predictors: tuple[Predictor, ...] = ()
    shipped: str = ""
    decided: Table | None = None
    verdict: Verdict | None = None
    chosen: Choosing | None = None
    curves: tuple[LearningCurve, ...] = ()
    contact_sheet: bytes = b""
    settings: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    outcomes: tuple[tuple[str, Table], ...] = ()
    verdicts: tuple[tuple[str, Verdict], ...] = ()


DECIDED = {
    "accuracy": "accuracy",
    "recall": "recall",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
}
"""Measures of a decision, and their headings."""


def decided_table(figures: Mapping[str, Mapping[str, Estimate]], threshold: float | None) -> Table:
    """Return what deciding at a risk gives, predictor by predictor, the fused model first.

    Args:
        figures: per predictor and measure, out-of-fold.
        threshold: the risk, or None for one half.
    """
    chosen = "" if threshold is None else "; each fold's threshold was chosen on the other folds"
    return Table(
        columns=("predictor", *DECIDED.values()),
        rows=tuple(
            (model, *("–" if math.isnan(found[name].value) else str(found[name]) for name in DECIDED))
            for model, found in sorted(figures.items(), key=lambda item: item[0] != "fused")
        ),
        note=f"Out-of-fold, after calibration, at a risk of {threshold or 0.5:.2g}{chosen}. 95 % intervals.",
    )


MOST_CURVES = 24
"""Learning curves drawn; a cross-validation of many models has more than anybody looks at."""


def render_training(page: TrainingPage) -> str:
    """Return the page as one self-contained HTML document; a section without values is left out."""
    return render(
        "training.html.j2",
        page=page,
        chosen=page.chosen,
        small_cell=SMALL_CELL,
        predictors=of_predictors(page.predictors) if page.predictors else None,
        differences=of_differences(page.verdict) if page.verdict else None,
        curves=_curves(page.curves[:MOST_CURVES]),
        more=max(0, len(page.curves) - MOST_CURVES),
        sheet=image_size(page.contact_sheet) if page.contact_sheet else None,
    )


def _curves(curves: tuple[LearningCurve, ...]) -> list[tuple[LearningCurve, Markup]]:
    """Return each model's losses drawn; all share one axis of losses, so that they can be compared."""
    losses = [loss for curve in curves for loss in (*curve.train, *curve.tuning) if math.isfinite(loss)]
    limits = (min(losses), max(losses)) if losses else (0.0, 1.0)
    return [
        (curve, learning(curve.name, curve.train, curve.tuning, best=curve.best_epoch, limits=limits))
        for curve in curves
        if curve.train
    ]
