"""The same judgement over repeats of the cross-validation, each with other folds.

A patient has one prediction per repeat and remains one patient: ranking is measured inside the folds of each
repeat and averaged over repeats, risks are calibrated inside each repeat and averaged per patient, and a
resample draws patients with all their predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.calibration import sigmoid
from medmm.evaluation.availability import grid
from medmm.evaluation.calibrate import agreement, calibrated_by_repeat, fit_platt
from medmm.evaluation.comparison import FUSED, Verdict, with_figures
from medmm.evaluation.discrimination import has_pair, usual_measures
from medmm.evaluation.paired import auroc_of_repeats, averaged, less
from medmm.evaluation.resampling import Estimate, Measure, bootstrap
from medmm.evaluation.subgroups import Subgroup, availability
from medmm.fitting.choosing import filled_by_repeat
from medmm.fitting.judgement import Judgement, cross_chosen, log_odds_threshold
from medmm.fitting.predictions import Predictions
from medmm.recipe import Recipe
from medmm.recipe.choosing import FEW_EVENTS

RANKING = ("auroc", "auprc")
DECIDED = ("accuracy", "recall", "specificity", "precision", "f1")


def over_repeats(judgement: Judgement, given: Predictions) -> Judgement:
    """Return the judgement with the figures of all repeats; one cross-validation is left as it was judged.

    Args:
        judgement: of the first cross-validation.
    """
    recipe, out_of_fold, labels = given.recipe, given.out_of_fold, given.labels
    if not out_of_fold.more:
        return judgement
    folds, fused = out_of_fold.repeated_folds, out_of_fold.repeated(FUSED)
    known = np.isfinite(fused).all(axis=0)
    calibrated = calibrated_by_repeat(fused, labels, folds).mean(axis=0)
    return replace(
        decided_by(judgement, given, fused, calibrated),
        calibration=fit_platt(fused[:, known].mean(axis=0), labels[known]),
        figures={
            model: _figures(recipe, labels, out_of_fold.repeated(model), folds)
            for model in out_of_fold.logits
        },
        verdict=_verdict(judgement.verdict, given),
    )


def decided_by(judgement: Judgement, given: Predictions, logits: Float64, calibrated: Float64) -> Judgement:
    """Return the judgement with risks, patterns, agreement and threshold of other scores.

    Args:
        logits: ``[repeat, patient]``, what ranks; NaN where there is no score.
        calibrated: ``[patient]``, log-odds calibrated without each patient's fold, the mean of the repeats.
    """
    known = np.isfinite(logits).all(axis=0)
    labels, own = given.labels[known], calibrated[known]
    chosen = log_odds_threshold(given.recipe.threshold, own, labels)
    cells = grid(
        labels,
        given.out_of_fold.repeated_folds[:, known],
        availability(given.present[known], given.names),
        {FUSED: (logits[:, known], own)},
        resamples=given.recipe.comparison.resamples,
        seed=given.recipe.seed,
    )
    return replace(
        judgement,
        calibrated=calibrated,
        patterns=tuple(
            Subgroup(cell.pattern, cell.patients, cell.events, cell.auroc, cell.calibration) for cell in cells
        ),
        overall=agreement(labels, own),
        threshold=None if chosen is None else float(sigmoid(chosen)),
    )


def notice(events: int, repeats: int) -> str:
    """Return what a reader must know about so few events; an empty text where they are not few."""
    if events >= FEW_EVENTS:
        return ""
    few = f"{events} patients of the rarer class are fewer than {FEW_EVENTS}: no held-out claim is made"
    if repeats > 1:
        return f"{few}, and every figure is the mean of {repeats} cross-validations with other folds"
    return (
        f"{few}, and one division into folds leaves much to its luck; `folds: {{repeats: 3}}` in the recipe"
        " gives the figure of three, at three times the cost"
    )


def _figures(recipe: Recipe, labels: Float64, logits: Float64, folds: Ints) -> dict[str, Estimate]:
    calibrated = calibrated_by_repeat(logits, labels, folds)
    return figures_of(recipe, labels, (logits, calibrated), folds)


def figures_of(
    recipe: Recipe, labels: Float64, found: tuple[Float64, Float64], folds: Ints
) -> dict[str, Estimate]:
    """Measure each repeat as one cross-validation is measured, and average on the same resampled patients.

    Args:
        labels: ``[patient]``, 0 or 1.
        found: logits as they are and calibrated without each patient's fold, ``[repeat, patient]``; NaN
            where the model cannot score.
        folds: ``[repeat, patient]``.
    """
    rows = np.isfinite(found[0]).all(axis=0)
    truth, of = labels[rows] == 1, folds[:, rows]
    ranked_or_weighed: list[Mapping[str, Measure]] = []
    decided: list[Mapping[str, Measure]] = []
    for raw, risks, parts in zip(found[0][:, rows], found[1][:, rows], of, strict=True):
        cut = risks - cross_chosen(recipe.threshold, risks, labels[rows], parts)
        ranking, risk, decision = (usual_measures(truth, values, parts) for values in (raw, risks, cut))
        ranked_or_weighed.append(risk | {name: ranking[name] for name in RANKING})
        decided.append({name: decision[name] for name in DECIDED})
    drawn: dict[str, Estimate] = {}
    # Decisions are redrawn by class alone, as one cross-validation's are (:mod:`medmm.fitting.judgement`).
    for each, strata in ((ranked_or_weighed, of[0]), (decided, np.zeros_like(of[0]))):
        measures = {name: averaged([repeat[name] for repeat in each]) for name in each[0]}
        drawn |= bootstrap(measures, truth, strata, resamples=recipe.comparison.resamples, seed=recipe.seed)
    return drawn


def _verdict(first: Verdict | None, given: Predictions) -> Verdict | None:
    if first is None or not first.aurocs:
        return first
    recipe, out_of_fold, rows = given.recipe, given.out_of_fold, given.imaged
    truth, folds = given.labels[rows] == 1, out_of_fold.repeated_folds[:, rows]
    if not all(has_pair(truth, of) for of in folds):
        return replace(first, word="cannot tell", aurocs={}, differences={})
    measures = {
        model: auroc_of_repeats(truth, filled_by_repeat(out_of_fold.repeated(model)[:, rows], folds), folds)
        for model in first.aurocs
    }
    gains = {f"{FUSED} - {name}": less(measures[FUSED], measures[name]) for name in first.differences}
    found = bootstrap(
        {**measures, **gains}, truth, folds[0], resamples=recipe.comparison.resamples, seed=recipe.seed
    )
    return with_figures(
        first,
        {name: found[name] for name in first.aurocs},
        {name: found[f"{FUSED} - {name}"] for name in first.differences},
    )
