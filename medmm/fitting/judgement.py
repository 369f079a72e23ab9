"""What the out-of-fold logits say: how good each model is, whether the image helps, how to calibrate.

Nothing here looks at held-out patients, and no patient is judged by a model that has seen that patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.calibration import Calibration, sigmoid
from medmm.evaluation.calibrate import Agreement, agreement, cross_fitted, fit_platt
from medmm.evaluation.comparison import FUSED, Verdict, verdict, verdict_by
from medmm.evaluation.discrimination import performance
from medmm.evaluation.kinds import IN_WORDS, RANKING, confused, ranking
from medmm.evaluation.kinds import figures as measured_figures
from medmm.evaluation.recalibrate import cross_fitted_map, fit_map
from medmm.evaluation.resampling import RESAMPLES, Estimate, Measure, bootstrap
from medmm.evaluation.subgroups import SMALL_CELL, Subgroup, availability, by_group
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.predictions import Predictions
from medmm.outcome import BINARY, Task, columns, part, scored
from medmm.recipe import Recipe, Threshold


@dataclass(frozen=True, slots=True)
class Judgement:
    """The out-of-fold evidence of a run.

    Attributes:
        calibration: fitted on every out-of-fold logit of the fused model; shipped in the bundle.
        calibrated: ``[patient, ...]``, calibrated by the other folds; NaN where not scored or without a
            label.
        figures: per model and measure, on the patients whom that model can score.
        patterns: per set of modalities that patients have.
        verdict: None where the recipe has no image, or nothing beside it.
        threshold: calibrated risk at which the decision is taken, or None.
        model: whose risks, patterns, agreement and threshold these are: "fused", or "routed" where submodels
            ship beside it.
        shipped: the verdict about what ships, where that is not the fused network alone.
        task: the outcome that is judged.
        confusion: counts ``[true class, likeliest class]`` out-of-fold, of an outcome with classes.
    """

    calibration: Calibration
    calibrated: Float64
    figures: Mapping[str, Mapping[str, Estimate]]
    counts: Mapping[str, tuple[int, int]]
    patterns: tuple[Subgroup, ...]
    overall: Agreement | None
    verdict: Verdict | None
    threshold: float | None
    task: Task = BINARY
    confusion: Ints | None = None
    model: str = FUSED
    shipped: Verdict | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values, intervals as ``[value, lower, upper]``."""
        return {
            "out_of_fold": {
                model: {name: triple(estimate) for name, estimate in measures.items()}
                | {"patients": self.counts[model][0], "events": self.counts[model][1]}
                for model, measures in self.figures.items()
            },
            "calibration": agreement_json(self.overall) if self.overall else None,
            "patterns": [
                {
                    "name": group.category,
                    "patients": group.patients,
                    "events": group.events,
                    "auroc": triple(group.auroc) if group.auroc else None,
                    "calibration": agreement_json(group.agreement) if group.agreement else None,
                }
                for group in self.patterns
            ],
            "verdict": _verdict_json(self.verdict) if self.verdict else None,
            "model": self.model,
            "verdict_of_shipped": _verdict_json(self.shipped) if self.shipped else None,
            "threshold": self.threshold,
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }


def judge_all(given: Predictions, tasks: Sequence[Task]) -> dict[str, Judgement]:
    """Judge every candidate for every outcome, on the patients whose label is known."""
    found, out_of_fold = {}, given.out_of_fold
    for index, task in enumerate(tasks):
        own = columns(given.labels)[:, index]
        rows = np.isfinite(own)
        logits = {model: part(values, tasks, index)[rows] for model, values in out_of_fold.logits.items()}
        of_it = OutOfFold(logits, out_of_fold.folds[rows], ())
        asked = replace(given, out_of_fold=of_it, labels=own[rows], present=given.present[rows])
        one = judge(asked) if task.kind == "binary" else judge_kind(asked, task)
        calibrated = np.full((len(own), *one.calibrated.shape[1:]), np.nan)
        calibrated[rows] = one.calibrated
        found[task.name] = replace(one, calibrated=calibrated, task=task)
    return found


def judge_kind(given: Predictions, task: Task) -> Judgement:
    """Judge every candidate for one outcome that is not binary; see :func:`judge`."""
    recipe, out_of_fold, labels = given.recipe, given.out_of_fold, given.labels
    folds, resamples, seed = out_of_fold.folds, recipe.comparison.resamples, recipe.seed
    figures, counts, ranked = {}, {}, {}
    for model, logits in out_of_fold.logits.items():
        rows = scored(logits)
        own = cross_fitted_map(task, logits[rows], labels[rows], folds[rows])
        figures[model] = measured_figures(
            task, labels[rows], (logits[rows], own), folds[rows], resamples=resamples, seed=seed
        )
        counts[model] = (int(rows.sum()), int((labels[rows] > 0).sum()))
        ranked[model] = np.full((len(labels), *logits.shape[1:]), np.nan)
        ranked[model][rows] = own if task.kind == "regression" else logits[rows]
    fused, known = out_of_fold.logits["fused"], scored(out_of_fold.logits["fused"])
    own = cross_fitted_map(task, fused[known], labels[known], folds[known])
    calibrated = np.full((len(labels), *own.shape[1:]), np.nan)
    calibrated[known] = own
    groups_of = availability(given.present[known], given.names)
    return Judgement(
        calibration=fit_map(task, fused[known], labels[known]),
        calibrated=calibrated,
        figures=figures,
        counts=counts,
        patterns=kind_groups(task, labels[known], ranked["fused"][known], groups_of, folds[known]),
        overall=None,
        verdict=_verdict_by(given, task, ranked),
        threshold=None,
        task=task,
        confusion=confused(task, labels[known], own),
    )


def kind_groups(
    task: Task, labels: Float64, ranked: Float64, names: Sequence[str], folds: Ints
) -> tuple[Subgroup, ...]:
    """Return each group's size and the measure that models are compared by, where it is large enough."""
    found = []
    for name in sorted(set(names)):
        rows = np.array([other == name for other in names])
        if rows.sum() < SMALL_CELL:
            found.append(Subgroup(name, None))
            continue
        measure = {"it": ranking(task, labels[rows], ranked[rows], folds[rows])}
        strata = task.strata(labels[rows]).astype(np.int64)
        estimate = bootstrap(measure, strata, folds[rows])["it"]
        found.append(Subgroup(name, int(rows.sum()), None, estimate if np.isfinite(estimate.value) else None))
    return tuple(found)


def _verdict_by(given: Predictions, task: Task, ranked: Mapping[str, Float64]) -> Verdict | None:
    if not given.images or "tables" not in ranked:
        return None
    labels, folds, rows = given.labels, given.out_of_fold.folds, given.imaged
    recipe = given.recipe
    measures: dict[str, Measure] = {
        model: ranking(task, labels[rows], undecided(values[rows], folds[rows]), folds[rows])
        for model, values in ranked.items()
    }
    word = IN_WORDS[RANKING[task.kind]]
    return verdict_by(
        measures,
        task.strata(labels[rows]).astype(np.int64),
        folds[rows],
        measure=f"mean {word}" if task.kind in ("multiclass", "ordinal") else word,
        margin=recipe.comparison.margin,
        resamples=recipe.comparison.resamples,
        seed=recipe.seed,
    )


def judge(given: Predictions) -> Judgement:
    """Judge every candidate for one binary outcome on its out-of-fold logits."""
    recipe, out_of_fold, labels = given.recipe, given.out_of_fold, given.labels
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
            availability(given.present[known], given.names),
            out_of_fold.folds[known],
            resamples=recipe.comparison.resamples,
            seed=recipe.seed,
        ),
        overall=agreement(labels[known], calibrated[known]),
        verdict=_verdict(given),
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
        "intercept": triple(found.intercept),
        "slope": triple(found.slope),
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
    # Decisions are alike in every fold, so they are redrawn by class alone: a weak model decides the same
    # for a whole fold, and redrawn within folds its recall would seem to be known without error.
    decided = measured(labels, calibrated - cross_chosen(recipe.threshold, calibrated, labels, folds), None)
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


def _verdict(given: Predictions) -> Verdict | None:
    """Compare on every patient who has the image; whom a rival cannot score, it cannot tell from others."""
    recipe, out_of_fold, rows = given.recipe, given.out_of_fold, given.imaged
    if not given.images or "tables" not in out_of_fold.logits:
        return None
    folds = out_of_fold.folds[rows]
    return verdict(
        given.labels[rows],
        folds,
        {model: undecided(logits[rows], folds) for model, logits in out_of_fold.logits.items()},
        margin=recipe.comparison.margin,
        resamples=recipe.comparison.resamples,
        seed=recipe.seed,
    )


def undecided(logits: Float64, folds: Ints) -> Float64:
    """Return the logits with a missing one at the median of its fold, where it neither helps nor hurts."""
    filled = logits.copy()
    for fold in np.unique(folds):
        own = folds == fold
        known = own & scored(logits)
        filled[own & ~known] = np.median(logits[known], axis=0) if known.any() else 0.0
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
        "measure": found.measure,
        "aurocs": {name: triple(value) for name, value in found.aurocs.items()},
        "differences": {name: triple(value) for name, value in found.differences.items()},
    }


def triple(estimate: Estimate) -> list[float | None]:
    """Return figure, lower and upper bound as JSON values; an undefined one is None."""
    values = (estimate.value, estimate.lower, estimate.upper)
    return [float(value) if np.isfinite(value) else None for value in values]
