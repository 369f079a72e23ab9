"""From out-of-fold predictions to the evidence of a choice, and to the alias of the model in the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medmm.arrays import Ints
from medmm.cohort.link import Cohort
from medmm.cohort.outcomes import OutcomeSpec
from medmm.cohort.split import Splits, nested_in, redrawn
from medmm.fitting.candidates import Problem
from medmm.fitting.choosing import Evidence, weigh
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.judgement import Judgement, judge, judge_all
from medmm.fitting.predictions import Predictions
from medmm.fitting.preflight import preflight
from medmm.fitting.promotion import Decision, decide
from medmm.fitting.repeats import notice as few_events
from medmm.fitting.repeats import over_repeats
from medmm.fitting.routing import ROUTED, Routing
from medmm.fitting.shipping import as_shipped
from medmm.outcome import Task
from medmm.recipe import Recipe
from medmm.report import plots
from medmm.sample import Patient
from medmm.tracking import Run


@dataclass(frozen=True, slots=True)
class Choice:
    """What a run is judged by, and what follows from it.

    Attributes:
        judgements: per outcome; of one binary outcome, over all repeats of the cross-validation.
        evidence: availability grid, comparisons, net benefit of one binary outcome; None of any other run.
        decision: of the recipe's promotion rules; None where it has none.
        search: per study, what the search of settings found; empty where none were searched.
    """

    judgements: Mapping[str, Judgement]
    evidence: Evidence | None
    decision: Decision | None
    search: Mapping[str, Any] = field(default_factory=dict)

    @property
    def routing(self) -> Routing | None:
        """Which network scores whom; None where the recipe does not route."""
        return self.evidence.routing if self.evidence else None

    def with_routed(self, out_of_fold: OutOfFold) -> OutOfFold:
        """Add the routed log-odds of the first cross-validation, where submodels of its networks ship."""
        if self.routing is None or not self.routing.submodels:
            return out_of_fold
        return replace(out_of_fold, logits={**out_of_fold.logits, ROUTED: self.routing.logits[0]})

    def to_json(self) -> dict[str, Any]:
        """Return what is added to metrics.json."""
        found: dict[str, Any] = {"search": dict(self.search)} if self.search else {}
        if self.evidence is None:
            return found
        promotion = self.decision.to_json() if self.decision else None
        return found | self.evidence.to_json() | {"promotion": promotion}


def choose(problem: Problem, out_of_fold: OutOfFold, *, worst_finding: str | None) -> Choice:
    """Judge the out-of-fold predictions and hold them against the recipe's rules.

    Args:
        worst_finding: worst grade of the red team's findings, or None where it did not look.
    """
    present = problem.fitted(np.arange(len(problem.labels)))[1].present
    names, images = list(problem.modalities), list(problem.images)
    given = Predictions(problem.recipe, out_of_fold, problem.labels, present, names, images)
    if not _one_binary(problem.tasks):
        return Choice(judge_all(given, problem.tasks), None, None)
    found = over_repeats(judge(given), given)
    evidence = weigh(given, verdict=found.verdict)
    found = as_shipped(found, evidence.routing, given)
    decision = None
    if problem.recipe.promotion is not None and found.overall is not None:
        decision = decide(
            problem.recipe.promotion, evidence, found.overall, singles=names, worst_finding=worst_finding
        )
    task = problem.tasks[0]
    return Choice({task.name: replace(found, task=task)}, evidence, decision)


def _one_binary(tasks: Sequence[Task | OutcomeSpec]) -> bool:
    return len(tasks) == 1 and tasks[0].kind == "binary"


def _rarer(recipe: Recipe, cohort: Cohort, patients: Sequence[Patient]) -> int | None:
    """Return how many patients are of the rarer class; None where not one binary outcome is predicted."""
    if not _one_binary([cohort.spec.outcomes[name] for name in recipe.asked]):
        return None
    events = sum(patient.targets[recipe.asked[0]] == 1 for patient in patients)
    return min(events, len(patients) - events)


def further_folds(
    recipe: Recipe, cohort: Cohort, splits: Splits, patients: Sequence[Patient]
) -> tuple[Ints, ...]:
    """Return the folds of the further cross-validations that a recipe asks for, ``[patient]`` each."""
    rarer = _rarer(recipe, cohort, patients)
    if rarer is None:
        return ()
    divisions = redrawn(cohort, splits, recipe.folds.count(rarer) - 1)
    return tuple(np.array([of[p.subject_id] for p in patients], dtype=np.int64) for of in divisions)


def inner_folds(
    cohort: Cohort, splits: Splits, patients: Sequence[Patient], more: Sequence[Ints]
) -> dict[str, Ints]:
    """Return the cohort's nested division per cross-validation, ``[patient, outer fold]``; or nothing.

    An inner fold is -1 where the patient is in that outer fold.
    """
    if not splits.inner:
        return {}
    ids = [patient.subject_id for patient in patients]
    divisions: dict[str, Mapping[str, tuple[int, ...]]] = {"": splits.inner}
    for place, folds in enumerate(more, start=2):
        own = dict(zip(ids, folds.tolist(), strict=True))
        divisions[f"repeat{place}/"] = nested_in(cohort, splits, own)
    return {prefix: np.array([of[subject] for subject in ids]) for prefix, of in divisions.items()}


def notice(recipe: Recipe, cohort: Cohort, patients: Sequence[Patient], again: int) -> str:
    """Return what must be known about so few events; an empty text where they are not few."""
    rarer = _rarer(recipe, cohort, patients)
    return "" if rarer is None else few_events(rarer, 1 + again)


def said(decision: Decision | None, routing: Routing | None = None) -> list[str]:
    """Return what a terminal says of who is scored by what, and of the alias."""
    lines = []
    if routing:
        lines += [f"routing  patients with {route.pattern}: {route.sentence()}" for route in routing.routes]
        lines += [f"ships    {routing.sentence()}"] if routing.submodels else []
    return lines + ([f"alias    {decision.sentence()}"] if decision else [])


def checked(problem: Problem, divisions: Sequence[Ints], told: str) -> tuple[str, ...]:
    """Look at every division before the first epoch; return what a reader must know, ``told`` first.

    Raises:
        FittingError: if a fold cannot be fitted or judged.
    """
    odd = [preflight(problem, folds) for folds in divisions]
    return tuple(filter(None, (told, *odd[0])))


def track(run: Run, choice: Choice) -> None:
    """Log the evidence: figures of each pattern, the grid as a picture, and all of it as JSON."""
    if choice.evidence is None:
        return
    cells = {f"{cell.pattern}: {cell.model}": cell.auroc for cell in choice.evidence.cells if cell.auroc}
    run.final(
        {
            f"pattern.{cell.pattern}.{cell.model}.auroc": (found.value, found.lower, found.upper)
            for cell in choice.evidence.cells
            if (found := cell.auroc)
        }
    )
    run.final(
        {
            f"net_benefit_gain.{name}": (found.gain.value, found.gain.lower, found.gain.upper)
            for name, found in choice.evidence.benefits.items()
        }
    )
    if cells:
        run.figure("availability", plots.intervals(cells, title="AUROC by what patients have", reference=0.5))
    run.text("choosing.json", json.dumps(choice.to_json(), indent=1))
    if choice.decision is not None:
        run.tag("promotion", choice.decision.word)
        run.text("promotion", choice.decision.sentence())


def register(run: Run, bundle: Path, name: str, decision: Decision | None) -> None:
    """Register a bundle as ``candidate``, and as ``champion`` where the recipe's rules are met."""
    made = run.register(bundle, name, alias="candidate")
    if decision is not None and decision.passed:
        run.promote(name, made, "champion")
