"""The evidence that a model is chosen by, all of it out-of-fold: grid, paired comparisons, net benefit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.evaluation.availability import Cell, grid
from medmm.evaluation.calibrate import calibrated_by_repeat
from medmm.evaluation.comparison import FUSED, Verdict
from medmm.evaluation.discrimination import has_pair
from medmm.evaluation.paired import (
    TREAT_ALL,
    TREAT_NONE,
    Benefit,
    DeLong,
    auroc_of_repeats,
    benefit_of_deciding,
    delong_difference,
    less,
    net_benefit_gains,
)
from medmm.evaluation.resampling import Estimate, bootstrap
from medmm.evaluation.subgroups import availability
from medmm.fitting.judgement import cross_chosen, triple, undecided
from medmm.fitting.predictions import Predictions
from medmm.fitting.routing import ROUTED, Routing, route
from medmm.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Compared:
    """The fused model, or what ships, against another one: by the paired bootstrap and by DeLong.

    Attributes:
        rival: the other model.
        asked_of: whom they are compared on.
        gain: AUROC of the model less that of the rival, paired bootstrap.
        delong: the same by DeLong.
        model: "fused", or "routed".
    """

    rival: str
    asked_of: str
    patients: int
    events: int
    gain: Estimate
    delong: DeLong
    model: str = FUSED


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a model is chosen by.

    Attributes:
        cells: every model on every availability pattern.
        compared: the fused model against every other one, on those whom both score; and, where there is a
            verdict, on those who have the image. Where submodels ship, "routed" against every other one too.
        benefits: net benefit at the threshold, by policy.
        risk: the threshold, or one half.
        repeats: cross-validations behind all this.
        routing: which network scores whom, where the recipe routes. "routed" is then a model among the
            others, with every fold's choice made on the other folds.
    """

    cells: tuple[Cell, ...]
    compared: tuple[Compared, ...]
    benefits: Mapping[str, Benefit]
    risk: float
    repeats: int
    routing: Routing | None = None

    @property
    def model(self) -> str:
        """What ships, by its name among the models."""
        return self.routing.model if self.routing else FUSED

    def to_json(self) -> dict[str, Any]:
        """Return the evidence as JSON values, intervals as ``[value, lower, upper]``."""
        return {
            "repeats": self.repeats,
            "availability": [_cell_json(cell) for cell in self.cells],
            "comparisons": [
                {
                    "model": found.model,
                    "rival": found.rival,
                    "of": found.asked_of,
                    "patients": found.patients,
                    "events": found.events,
                    "bootstrap": triple(found.gain),
                    "delong": triple(found.delong.gain),
                    "delong_p": found.delong.p if math.isfinite(found.delong.p) else None,
                }
                for found in self.compared
            ],
            "net_benefit": {
                "risk": self.risk,
                "policies": {
                    name: {
                        "patients": found.patients,
                        "own": triple(found.own),
                        "fused": triple(found.fused),
                        "gain": triple(found.gain),
                    }
                    for name, found in self.benefits.items()
                },
            },
            "routing": self.routing.to_json() if self.routing else None,
        }


WITH_BOTH = "whom both score"
WITH_IMAGE = "who have the image"


@dataclass(frozen=True, slots=True)
class _Layers:
    """Every repeat's logits and cross-fitted risks, ``[repeat, patient]``, and what they are judged by."""

    recipe: Recipe
    labels: Float64
    folds: Ints
    logits: Mapping[str, Float64]
    calibrated: Mapping[str, Float64]


def weigh(given: Predictions, *, verdict: Verdict | None) -> Evidence:
    """Gather the evidence.

    Args:
        verdict: whose comparisons get DeLong's beside them; None without one.
    """
    recipe, out_of_fold, labels = given.recipe, given.out_of_fold, given.labels
    folds = out_of_fold.repeated_folds
    logits = {model: out_of_fold.repeated(model) for model in out_of_fold.logits}
    calibrated = {model: calibrated_by_repeat(values, labels, folds) for model, values in logits.items()}
    routing = None
    if recipe.routing == "never_worse":
        routing = route(recipe, logits, labels, folds, given.present, names=given.names)
        logits[ROUTED] = calibrated[ROUTED] = routing.logits
    layers = _Layers(recipe, labels, folds, logits, calibrated)
    cells = _cells(layers, given.present, given.names)
    compared = [found for model in logits if model != FUSED and (found := _compared(layers, FUSED, model))]
    if routing is not None and routing.submodels:
        rivals = [model for model in logits if model != ROUTED]
        compared += [found for model in rivals if (found := _compared(layers, ROUTED, model))]
    if verdict is not None and verdict.differences:
        compared += _beside(layers, verdict, given.imaged)
    risk, benefits = _benefits(layers)
    return Evidence(cells, tuple(compared), benefits, risk, len(folds), routing)


def _cells(layers: _Layers, present: Bools, names: Sequence[str]) -> tuple[Cell, ...]:
    """Return the availability grid of those whom the fused model scores, its own row and "routed" first."""
    known = np.isfinite(layers.logits[FUSED][0])
    return grid(
        layers.labels[known],
        layers.folds[:, known],
        availability(present[known], names),
        {
            model: (layers.logits[model][:, known], layers.calibrated[model][:, known].mean(axis=0))
            for model in sorted(layers.logits, key=lambda model: (model != FUSED, model != ROUTED))
        },
        resamples=layers.recipe.comparison.resamples,
        seed=layers.recipe.seed,
    )


def filled_by_repeat(logits: Float64, folds: Ints) -> Float64:
    """Return logits ``[repeat, patient]`` with a missing one at the median of its fold."""
    return np.stack([undecided(own, of) for own, of in zip(logits, folds, strict=True)])


def _compared(layers: _Layers, model: str, rival: str) -> Compared | None:
    """Compare on everybody whom both score; None where nothing can be compared."""
    own, other = layers.logits[model], layers.logits[rival]
    rows = np.isfinite(own).all(axis=0) & np.isfinite(other).all(axis=0)
    truth, folds = layers.labels[rows] == 1, layers.folds[:, rows]
    if not all(has_pair(truth, of) for of in folds):
        return None
    one, two = (auroc_of_repeats(truth, values[:, rows], folds) for values in (own, other))
    comparison = layers.recipe.comparison
    gain = bootstrap(
        {"gain": less(one, two)},
        truth,
        folds[0],
        resamples=comparison.resamples,
        seed=layers.recipe.seed,
    )["gain"]
    test = delong_difference(truth, own[:, rows], other[:, rows], folds)
    return Compared(rival, WITH_BOTH, len(truth), int(truth.sum()), gain, test, model)


def _beside(layers: _Layers, verdict: Verdict, rows: Bools) -> list[Compared]:
    """Set DeLong's comparison beside each of the verdict's."""
    truth, folds = layers.labels[rows], layers.folds[:, rows]

    def filled(model: str) -> Float64:
        return filled_by_repeat(layers.logits[model][:, rows], folds)

    return [
        Compared(
            model,
            WITH_IMAGE,
            verdict.patients,
            verdict.events,
            gain,
            delong_difference(truth, filled(FUSED), filled(model), folds),
        )
        for model, gain in verdict.differences.items()
    ]


def _benefits(layers: _Layers) -> tuple[float, dict[str, Benefit]]:
    """Return the median threshold as a risk, and every policy's net benefit there.

    Each fold decides at the threshold that the other folds chose for the fused model, and all policies pay
    the same price for a false positive.
    """
    recipe, fused = layers.recipe, layers.calibrated[FUSED]
    known = np.isfinite(fused).all(axis=0)
    labels, folds = layers.labels[known], layers.folds[:, known]
    at = np.stack(
        [
            cross_chosen(recipe.threshold, own, labels, of)
            for own, of in zip(fused[:, known], folds, strict=True)
        ]
    )
    worth: dict[str, Float64] = {}
    for model, calibrated in layers.calibrated.items():
        own = calibrated[:, known]
        decided = benefit_of_deciding(labels, own >= at, np.exp(at))
        worth[model] = np.where(np.isfinite(own).all(axis=0), decided, np.nan)
    mine = worth.pop(FUSED)
    worth[TREAT_ALL] = benefit_of_deciding(labels, np.ones_like(at), np.exp(at))
    worth[TREAT_NONE] = np.zeros(len(labels))
    comparison = recipe.comparison
    found = net_benefit_gains(labels, mine, worth, resamples=comparison.resamples, seed=recipe.seed)
    return float(1 / (1 + np.exp(-np.median(at)))), found


def _cell_json(cell: Cell) -> dict[str, Any]:
    found = cell.calibration
    return {
        "pattern": cell.pattern,
        "model": cell.model,
        "patients": cell.patients,
        "events": cell.events,
        "auroc": triple(cell.auroc) if cell.auroc else None,
        "calibration_intercept": triple(found.intercept) if found else None,
        "calibration_slope": triple(found.slope) if found else None,
        "expected_to_observed": cell.expected_to_observed,
    }
