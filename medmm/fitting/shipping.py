"""What ships, judged: where submodels take the place of the fused network, the figures are of both together.

Each patient counts with the score of the choice, and of the calibration, that was made without the patient's
fold (:mod:`medmm.fitting.routing`), so the choice flatters nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medmm.arrays import Bools, Float64
from medmm.evaluation.comparison import FUSED, TABLES, Verdict, verdict_by
from medmm.evaluation.discrimination import has_pair
from medmm.evaluation.paired import auroc_of_repeats
from medmm.fitting.choosing import filled_by_repeat
from medmm.fitting.judgement import Judgement
from medmm.fitting.predictions import Predictions
from medmm.fitting.repeats import decided_by, figures_of
from medmm.fitting.routing import ROUTED, Routing


def as_shipped(judgement: Judgement, routing: Routing | None, given: Predictions) -> Judgement:
    """Return the judgement of what ships; that of the fused network is left where it scores everybody.

    Risks, patterns, threshold and agreement become those of the routed scores, and "routed" is a model
    among the others. The calibration remains that of the fused network, and so does the first verdict.

    Args:
        judgement: of the fused network, over all repeats.
    """
    if routing is None or not routing.submodels:
        return judgement
    labels, logits = given.labels, routing.logits
    known = np.isfinite(logits).all(axis=0)
    own = figures_of(given.recipe, labels, (logits, logits), given.out_of_fold.repeated_folds)
    return replace(
        decided_by(judgement, given, logits, logits.mean(axis=0)),
        model=ROUTED,
        figures={**judgement.figures, ROUTED: own},
        counts={**judgement.counts, ROUTED: (int(known.sum()), int(labels[known].sum()))},
        shipped=_verdict(judgement.verdict, routing, given) if judgement.verdict else None,
    )


def _looked_at(routing: Routing, given: Predictions) -> Bools:
    """Return the patients who have every image and are scored by what looks at one, ``[patient]``."""
    blind, rows = {TABLES, *given.names} - set(given.images), given.imaged
    for route in routing.submodels:
        if route.model in blind:
            own = np.array([name in route.names for name in given.names])
            rows = rows & ~(given.present == own).all(axis=1)
    return rows


def _verdict(first: Verdict, routing: Routing, given: Predictions) -> Verdict | None:
    """Compare what ships on the patients whose image it looks at; None where there is nothing to compare."""
    rows, out_of_fold, comparison = _looked_at(routing, given), given.out_of_fold, given.recipe.comparison
    truth, folds = given.labels[rows] == 1, out_of_fold.repeated_folds[:, rows]
    if not first.aurocs or not all(has_pair(truth, of) for of in folds):
        return None
    logits: Mapping[str, Float64] = {
        ROUTED: routing.logits[:, rows],
        FUSED: out_of_fold.repeated(FUSED)[:, rows],
        **{model: out_of_fold.repeated(model)[:, rows] for model in first.differences},
    }
    found = verdict_by(
        {m: auroc_of_repeats(truth, filled_by_repeat(own, folds), folds) for m, own in logits.items()},
        truth.astype(np.int64),
        folds[0],
        measure=first.measure,
        model=ROUTED,
        margin=comparison.margin,
        resamples=comparison.resamples,
        seed=given.recipe.seed,
    )
    return replace(found, events=int(truth.sum()))
