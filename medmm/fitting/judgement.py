"""What the out-of-fold logits say: how good each model is, whether the image helps, how to calibrate.

Nothing here looks at held-out patients, and no patient is judged by a model that has seen that patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.calibration import Platt, sigmoid
from medmm.evaluation.calibrate import Agreement, agreement, cross_fitted, fit_platt
from medmm.evaluation.comparison import Verdict, verdict
from medmm.evaluation.discrimination import performance
from medmm.evaluation.resampling import RESAMPLES, Estimate
from medmm.evaluation.subgroups import Subgroup, availability, by_group
from medmm.fitting.crossval import OutOfFold
from medmm.recipe import Recipe, Threshold


@dataclass(frozen=True, slots=True)
class Judgement:
    """The out-of-fold evidence of a run.

    Attributes:
        calibration: fitted on every out-of-fold logit of the fused model; shipped in the bundle.
        calibrated: ``[patient]``, log-odds calibrated by the other folds; NaN where not scored.
        figures: per model and measure, on the patients whom that model can score.
        patterns: per set of modalities that patients have.
        verdict: None where the recipe has no image, or nothing beside it.
        threshold: calibrated risk at which the decision is taken, or None.
    """

    calibration: Platt
    calibrated: Float64
    figures: Mapping[str, Mapping[str, Estimate]]
    counts: Mapping[str, tuple[int, int]]
    patterns: tuple[Subgroup, ...]
    overall: Agreement
    verdict: Verdict | None
    threshold: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values, intervals as ``[value, lower, upper]``."""
        return {
            "out_of_fold": {
                model: {name: _triple(estimate) for name, estimate in measures.items()}
                | {"patients": self.counts[model][0], "events": self.counts[model][1]}
                for model, measures in self.figures.items()
            },
            "calibration": agreement_json(self.overall),
            "patterns": [
                {
                    "name": group.category,
                    "patients": group.patients,
                    "events": group.events,
                    "auroc": _triple(group.auroc) if group.auroc else None,
                    "calibration": agreement_json(group.agreement) if group.agreement else None,
                }
                for group in self.patterns
            ],
            "verdict": _verdict_json(self.verdict) if self.verdict else None,
            "threshold": self.threshold,
        }


def judge(
    recipe: Recipe,
    out_of_fold: OutOfFold,
    labels: Float64,
    present: Bools,
    *,
    names: Sequence[str],
    images: Sequence[str],
) -> Judgement:
    """Judge every candidate on its out-of-fold logits.

    Args:
        labels: ``[patient]``, 0 or 1.
        present: ``[patient, modality]`` in the order of ``names``.
        images: the modalities whose worth is asked for.
    """
    fused = out_of_fold.logits["fused"]
    known = np.isfinite(fused)
    calibrated = np.full(len(labels), np.nan)
    calibrated[known] = cross_fitted(fused[known], labels[known], out_of_fold.folds[known])
    chosen = log_odds_threshold(recipe.threshold, calibrated[known], labels[known])
    threshold = None if chosen is None else float(sigmoid(chosen))
    figures, counts = {}, {}
    for model, logits in out_of_fold.logits.items():
        rows = np.isfinite(logits)
        figures[model] = _figures(recipe, labels[rows], logits[rows], out_of_fold.folds[rows])
        counts[model] = (int(rows.sum()), int(labels[rows].sum()))
    return Judgement(
        calibration=fit_platt(fused[known], labels[known]),
        calibrated=calibrated,
        figures=figures,
        counts=counts,
        patterns=groups(
            labels[known],
            (fused[known], calibrated[known]),
            availability(present[known], names),
            out_of_fold.folds[known],
            resamples=recipe.comparison.resamples,
            seed=recipe.seed,
        ),
        overall=agreement(labels[known], calibrated[known]),
        verdict=_verdict(recipe, out_of_fold, labels, present, names, images),
        threshold=threshold,
    )


def groups(
    labels: Float64,
    logits: tuple[Float64, Float64],
    names: Sequence[str],
    folds: Ints,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Subgroup, ...]:
    """Return each group's figures: ranking on uncalibrated logits, agreement on calibrated ones.

    Args:
        logits: uncalibrated and calibrated, each ``[patient]``.
        names: the group of each patient.
    """
    ranked, weighed = (
        by_group(labels, values, names, folds, resamples=resamples, seed=seed) for values in logits
    )
    return tuple(replace(group, auroc=rank.auroc) for rank, group in zip(ranked, weighed, strict=True))


def agreement_json(found: Agreement) -> dict[str, Any]:
    """Return calibration figures as JSON values; an undefined figure is None."""
    return {
        "observed": found.observed,
        "expected": found.expected,
        "intercept": _triple(found.intercept),
        "slope": _triple(found.slope),
        "brier": found.brier,
        "curve": [[float(x), float(y)] for x, y in zip(found.curve_risk, found.curve_observed, strict=True)],
    }


def _figures(recipe: Recipe, labels: Float64, logits: Float64, folds: Ints) -> dict[str, Estimate]:
    """Measure ranking on the logits as they are, and everything about risks after cross-fitted calibration.

    A model that ranks the wrong way round is calibrated to a constant, which would hide its AUROC. What
    depends on the threshold is measured with each fold's threshold chosen on the other folds.
    """
    measured = partial(performance, resamples=recipe.comparison.resamples, seed=recipe.seed)
    calibrated = cross_fitted(logits, labels, folds)
    ranking, risks = measured(labels, logits, folds), measured(labels, calibrated, folds)
    decided = measured(labels, calibrated - cross_chosen(recipe.threshold, calibrated, labels, folds), folds)
    return (
        risks
        | {name: ranking[name] for name in ("auroc", "auprc")}
        | {name: decided[name] for name in ("accuracy", "recall", "specificity", "precision", "f1")}
    )


def cross_chosen(asked: Threshold | None, calibrated: Float64, labels: Float64, folds: Ints) -> Float64:
    """Return the threshold of each patient in log-odds, ``[patient]``, chosen on the other folds."""
    chosen = np.zeros(len(labels))
    for fold in np.unique(folds):
        others = folds != fold
        found = log_odds_threshold(asked, calibrated[others], labels[others])
        chosen[folds == fold] = 0.0 if found is None else found
    return chosen


def _verdict(
    recipe: Recipe,
    out_of_fold: OutOfFold,
    labels: Float64,
    present: Bools,
    names: Sequence[str],
    images: Sequence[str],
) -> Verdict | None:
    """Compare on every patient who has the image; whom a rival cannot score, it cannot tell from others."""
    if not images or "tables" not in out_of_fold.logits:
        return None
    rows = present[:, [names.index(image) for image in images]].all(axis=1)
    folds = out_of_fold.folds[rows]
    return verdict(
        labels[rows],
        folds,
        {model: _undecided(logits[rows], folds) for model, logits in out_of_fold.logits.items()},
        margin=recipe.comparison.margin,
        resamples=recipe.comparison.resamples,
        seed=recipe.seed,
    )


def _undecided(logits: Float64, folds: Ints) -> Float64:
    """Return the logits with a missing one at the median of its fold, where it neither helps nor hurts."""
    filled = logits.copy()
    for fold in np.unique(folds):
        own = folds == fold
        known = own & np.isfinite(logits)
        filled[own & ~known] = np.median(logits[known]) if known.any() else 0.0
    return filled


def log_odds_threshold(asked: Threshold | None, calibrated: Float64, labels: Float64) -> float | None:
    """Return the log-odds to decide at: as stated, or the highest that reaches the sensitivity asked for."""
    if asked is None:
        return None
    if asked.risk is not None:
        return float(np.log(asked.risk / (1 - asked.risk)))
    assert asked.sensitivity is not None
    events = np.sort(calibrated[labels == 1])[::-1]
    return float(events[int(np.ceil(asked.sensitivity * len(events))) - 1])


def _verdict_json(found: Verdict) -> dict[str, Any]:
    return {
        "word": found.word,
        "sentence": found.sentence(),
        "patients": found.patients,
        "events": found.events,
        "margin": found.margin,
        "aurocs": {name: _triple(value) for name, value in found.aurocs.items()},
        "differences": {name: _triple(value) for name, value in found.differences.items()},
    }


def _triple(estimate: Estimate) -> list[float | None]:
    values = (estimate.value, estimate.lower, estimate.upper)
    return [float(value) if np.isfinite(value) else None for value in values]
