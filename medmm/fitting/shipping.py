"""What ships, judged: where submodels take the place of the fused network, the figures are of both together.

Each patient counts with the score of the choice, and of the calibration, that was made without the patient's
fold (:mod:`medmm.fitting.routing`), so the choice flatters nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medmm.arrays import Bools, Float64
from medmm.calibration import sigmoid
from medmm.evaluation.availability import grid
from medmm.evaluation.calibrate import agreement
from medmm.evaluation.comparison import FUSED, TABLES, Verdict, verdict_by
from medmm.evaluation.discrimination import has_pair
from medmm.evaluation.paired import auroc_of_repeats
from medmm.evaluation.subgroups import Subgroup, availability
from medmm.fitting.choosing import filled_by_repeat
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.judgement import Judgement, log_odds_threshold
from medmm.fitting.repeats import figures_of
from medmm.fitting.routing import ROUTED, Routing
from medmm.recipe import Recipe


def as_shipped(
    judgement: Judgement,
    routing: Routing | None,
    recipe: Recipe,
    out_of_fold: OutOfFold,
    labels: Float64,
    present: Bools,
    *,
    names: Sequence[str],
    images: Sequence[str],
) -> Judgement:
    """Return the judgement of what ships; that of the fused network is left where it scores everybody.

    Risks, patterns, threshold and agreement become those of the routed scores, and "routed" is a model
    among the others. The calibration remains that of the fused network, and so does the first verdict.

    Args:
        judgement: of the fused network, over all repeats.
        labels: ``[patient]``, 0 or 1.
        present: ``[patient, modality]`` in the order of ``names``.
        images: the modalities whose worth is asked for.
    """
    if routing is None or not routing.submodels:
        return judgement
    folds, logits = out_of_fold.repeated_folds, routing.logits
    calibrated = logits.mean(axis=0)
    known = np.isfinite(calibrated)
    chosen = log_odds_threshold(recipe.threshold, calibrated[known], labels[known])
    cells = grid(
        labels[known],
        folds[:, known],
        availability(present[known], names),
        {ROUTED: (logits[:, known], calibrated[known])},
        resamples=recipe.comparison.resamples,
        seed=recipe.seed,
    )
    own = {ROUTED: figures_of(recipe, labels, (logits, logits), folds)}
    return replace(
        judgement,
        model=ROUTED,
        calibrated=calibrated,
        figures={**judgement.figures, **own},
        counts={**judgement.counts, ROUTED: (int(known.sum()), int(labels[known].sum()))},
        patterns=tuple(
            Subgroup(cell.pattern, cell.patients, cell.events, cell.auroc, cell.calibration) for cell in cells
        ),
        overall=agreement(labels[known], calibrated[known]),
        threshold=None if chosen is None else float(sigmoid(chosen)),
        shipped=_verdict(
            judgement, routing, recipe, out_of_fold, labels, _looked_at(routing, present, names, images)
        ),
    )


def _looked_at(routing: Routing, present: Bools, names: Sequence[str], images: Sequence[str]) -> Bools:
    """Return the patients who have every image and are scored by what looks at one, ``[patient]``."""
    blind = {TABLES, *names} - set(images)
    rows = present[:, [names.index(image) for image in images]].all(axis=1)
    for route in routing.submodels:
        if route.model in blind:
            own = np.array([name in route.names for name in names])
            rows = rows & ~(present == own).all(axis=1)
    return np.asarray(rows)


def _verdict(
    judgement: Judgement,
    routing: Routing,
    recipe: Recipe,
    out_of_fold: OutOfFold,
    labels: Float64,
    rows: Bools,
) -> Verdict | None:
    """Compare what ships on the patients whose image it looks at; None where there is nothing to compare."""
    first = judgement.verdict
    truth, folds = labels[rows] == 1, out_of_fold.repeated_folds[:, rows]
    if first is None or not first.aurocs or not all(has_pair(truth, of) for of in folds):
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
        margin=recipe.comparison.margin,
        resamples=recipe.comparison.resamples,
        seed=recipe.seed,
    )
    return replace(found, events=int(truth.sum()))
