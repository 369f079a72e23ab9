"""Never-worse routing: for the patients of one set of modalities, the network that is surely best on them.

The fused network scores everybody unless another one, out-of-fold and paired on the same patients, has a
higher AUROC with an interval that leaves out 0. Of many candidates on many sets of modalities one is lucky,
so the intervals are Bonferroni's over all of them: where no candidate is better than the fused network, the
chance that anybody is routed is at most 2.5 %. Trees and regressions are compared, never shipped.

A choice flatters what it chose, so what routing is worth is measured by choosing again for every fold, on the
other folds alone, and judging that choice on the fold (nested as in Varma & Simon 2006).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.calibration import Platt
from medmm.evaluation.calibrate import calibrated_by_repeat, fit_platt
from medmm.evaluation.comparison import FUSED
from medmm.evaluation.discrimination import has_pair
from medmm.evaluation.paired import delong_difference
from medmm.evaluation.resampling import Estimate
from medmm.evaluation.subgroups import SMALL_CELL
from medmm.fitting.candidates import TABLES
from medmm.fitting.judgement import triple
from medmm.recipe import Recipe

ROUTED = "routed"
"""The name, among the models, of what scores each patient by the choice that was made without their fold."""

PER_CLASS = 20
"""Patients with the outcome, and without, that a pattern needs before anything but the fused network is
considered: with fewer the interval of a difference is wider than any difference worth having."""


@dataclass(frozen=True, slots=True)
class Route:
    """What scores the patients who have exactly some modalities, and why.

    Attributes:
        names: these modalities.
        patients: how many; None below 11.
        events: of them; None where these, or those without the outcome, are below 11.
        model: what scores them; "fused" unless another one is surely better.
        gains: per candidate, its AUROC less that of the fused network, with DeLong's interval for all
            comparisons of the run together; empty where there are too few patients to ask.
        chosen: per model, in how many of all folds it was chosen on the other folds.
        gain: AUROC of these choices less that of the fused network: what routing is worth here.
        calibration: of the model, on these patients; None of the fused network, which has its own.
    """

    names: tuple[str, ...]
    patients: int | None
    events: int | None
    model: str
    gains: Mapping[str, Estimate]
    chosen: Mapping[str, int]
    gain: Estimate | None
    calibration: Platt | None

    @property
    def pattern(self) -> str:
        """The modalities in words."""
        return " + ".join(self.names)

    def sentence(self) -> str:
        """Return the choice in words, with the figure that it rests on."""
        if not self.gains:
            return (
                f"fused: fewer than {PER_CLASS} of them with the outcome, or without, or nothing else to take"
            )
        best = max(self.gains, key=lambda model: self.gains[model].value)
        found = self.gains[best]
        told = f"{found.value:+.3f} ({found.lower:+.3f} to {found.upper:+.3f})"
        if self.model == FUSED:
            return f"fused: nothing is surely better, the best other is {best}, {told}"
        return f"{self.model}: surely better than fused, {told}"

    def to_json(self) -> dict[str, Any]:
        """Return the choice as JSON values, intervals as ``[value, lower, upper]``."""
        return {
            "pattern": self.pattern,
            "patients": self.patients,
            "events": self.events,
            "model": self.model,
            "why": self.sentence(),
            "gains": {model: triple(gain) for model, gain in self.gains.items()},
            "chosen_without_the_fold": dict(self.chosen),
            "gain_of_routing": triple(self.gain) if self.gain else None,
        }


@dataclass(frozen=True, slots=True)
class Routing:
    """The choice for every set of modalities that patients have.

    Attributes:
        routes: the most frequent set first.
        logits: ``[repeat, patient]``, calibrated log-odds of each patient by the choice, and the
            calibration, that were made without the patient's fold; NaN of those without any modality.
        comparisons: of a candidate with the fused network on a set; what the intervals allow for.
    """

    routes: tuple[Route, ...]
    logits: Float64
    comparisons: int = 1

    @property
    def submodels(self) -> tuple[Route, ...]:
        """The choices that are shipped beside the fused network."""
        return tuple(route for route in self.routes if route.model != FUSED)

    @property
    def model(self) -> str:
        """What ships, by its name among the models: "routed", or "fused" where that scores everybody."""
        return ROUTED if self.submodels else FUSED

    def sentence(self) -> str:
        """Say what ships, for pages that give its figures; an empty text where it is the fused network."""
        if not self.submodels:
            return ""
        told = "; ".join(f"patients with {route.pattern} by {route.model}" for route in self.submodels)
        return (
            f"What ships is `{ROUTED}`: {told}; everybody else by the fused network. Its figures are of"
            " choices and calibrations made without each patient's fold."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the choices as JSON values."""
        patterns = [route.to_json() for route in self.routes]
        return {"rule": "never_worse", "comparisons": self.comparisons, "patterns": patterns}


@dataclass(frozen=True, slots=True)
class _Patients:
    """Those of one pattern: labels ``[patient]``, folds and each model's logits ``[repeat, patient]``."""

    truth: Bools
    folds: Ints
    logits: Mapping[str, Float64]

    @property
    def comparisons(self) -> int:
        """How many candidates are compared with the fused network; none where there are too few patients."""
        return len(self.logits) - 1 if self.enough(PER_CLASS) else 0

    def enough(self, least: float) -> bool:
        """Tell whether there are so many patients of each class, and a pair of both in every repeat."""
        several = min(self.truth.sum(), (~self.truth).sum()) >= least
        return bool(several and all(has_pair(self.truth, of) for of in self.folds))

    def without(self, repeat: int, fold: int) -> _Patients:
        """Return the patients of the other folds of one repeat."""
        rows, one = self.folds[repeat] != fold, slice(repeat, repeat + 1)
        logits = {model: values[one, rows] for model, values in self.logits.items()}
        return _Patients(self.truth[rows], self.folds[one, rows], logits)


def route(
    recipe: Recipe,
    logits: Mapping[str, Float64],
    labels: Float64,
    folds: Ints,
    present: Bools,
    *,
    names: Sequence[str],
) -> Routing:
    """Choose, for every set of modalities that patients have, what scores them.

    Args:
        logits: per model, out-of-fold, ``[repeat, patient]``; NaN where a model cannot score the patient.
        labels: ``[patient]``, 0 or 1.
        folds: ``[repeat, patient]``.
        present: ``[patient, modality]`` in the order of ``names``.
    """
    routed = calibrated_by_repeat(logits[FUSED], labels, folds)
    asked = []
    for own, rows in _patterns(present, names):
        models = _candidates(recipe, own, logits, rows)
        patients = _Patients(labels[rows] == 1, folds[:, rows], {m: logits[m][:, rows] for m in models})
        asked.append((own, rows, patients))
    comparisons = max(1, sum(patients.comparisons for _, _, patients in asked))
    routes = []
    for own, rows, patients in asked:
        fused = routed[:, rows]
        found, chosen = _cross_fitted(patients, fused, comparisons)
        routed[:, rows] = found
        routes.append(_route(own, patients, chosen, (found, fused), comparisons))
    return Routing(tuple(routes), routed, comparisons)


def _patterns(present: Bools, names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Bools]]:
    """Yield every set of modalities that patients have, the most frequent first, and who has it."""
    patterns, which, sizes = np.unique(present, axis=0, return_inverse=True, return_counts=True)
    for index in sorted(range(len(patterns)), key=lambda i: (-sizes[i], tuple(~patterns[i]))):
        own = tuple(name for name, there in zip(names, patterns[index], strict=True) if there)
        if own:
            yield own, which == index


def _candidates(recipe: Recipe, own: Sequence[str], logits: Mapping[str, Float64], rows: Bools) -> list[str]:
    """Return the models that may score a pattern, the fused one first: all that score every such patient."""
    asked = dict.fromkeys((FUSED, *recipe.fusions, TABLES, *own))
    return [model for model in asked if model in logits and np.isfinite(logits[model][:, rows]).all()]


def _route(
    own: tuple[str, ...],
    patients: _Patients,
    chosen: Counter[str],
    judged: tuple[Float64, Float64],
    comparisons: int,
) -> Route:
    truth = patients.truth
    model, gains = _choose(patients, PER_CLASS, comparisons)
    count, events = len(truth), int(truth.sum())
    found, fused = judged
    return Route(
        names=own,
        patients=count if count >= SMALL_CELL else None,
        events=events if min(events, count - events) >= SMALL_CELL else None,
        model=model,
        gains=gains,
        chosen=dict(chosen) if gains else {},
        gain=delong_difference(truth, found, fused, patients.folds).gain if gains else None,
        calibration=None if model == FUSED else fit_platt(patients.logits[model].mean(axis=0), truth),
    )


def _choose(patients: _Patients, least: float, comparisons: int) -> tuple[str, dict[str, Estimate]]:
    """Return the model that is surely better than the fused one by most, else that; and every difference.

    Args:
        least: patients of each class that there must be.
        comparisons: in all sets of modalities, which the intervals allow for.
    """
    if not patients.enough(least):
        return FUSED, {}
    truth, logits, folds = patients.truth, patients.logits, patients.folds
    gains = {
        model: delong_difference(truth, values, logits[FUSED], folds, comparisons=comparisons).gain
        for model, values in logits.items()
        if model != FUSED
    }
    better = [model for model, gain in gains.items() if gain.lower > 0]
    return max(better, key=lambda model: gains[model].value, default=FUSED), gains


def _cross_fitted(patients: _Patients, fused: Float64, comparisons: int) -> tuple[Float64, Counter[str]]:
    """Return log-odds ``[repeat, patient]`` by the choice made on the other folds, and what was chosen.

    Args:
        fused: calibrated log-odds of the fused network, for the folds whose choice it is.
    """
    found, chosen = fused.copy(), Counter[str]()
    for repeat, of in enumerate(patients.folds):
        for fold in np.unique(of):
            others = patients.without(repeat, int(fold))
            model, _ = _choose(others, PER_CLASS * len(others.truth) / len(of), comparisons)
            chosen[model] += 1
            if model != FUSED:
                calibration = fit_platt(others.logits[model][0], others.truth)
                rows = of == fold
                found[repeat, rows] = calibration.apply(patients.logits[model][repeat, rows])
    return found, chosen
