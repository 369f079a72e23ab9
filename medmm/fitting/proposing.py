"""What the planner proposes for the patients who are trained on, beside what their recipe says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medmm.cohort.fingerprint import Grids, fingerprint
from medmm.cohort.link import Cohort
from medmm.fitting.candidates import Problem
from medmm.fitting.inputs import Prepared
from medmm.planning.compare import lines
from medmm.planning.fingerprint import Fingerprint
from medmm.planning.propose import Plan, propose
from medmm.sample import Patient

PLANNED = ("image", "records", "biomarkers")
"""Kinds of modalities whose blocks enter a fingerprint."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A plan, what it was made from, and the recipe beside it."""

    fingerprint: Fingerprint
    plan: Plan
    lines: tuple[str, ...]


def proposed(
    problem: Problem,
    cohort: Cohort,
    patients: Sequence[Patient],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Proposed:
    """Take the fingerprint of the patients and compare the plan for it with the recipe.

    Args:
        problem: of the patients, with their images prepared: the grids of all series are known from it.
        progress: called with (stage, done, total).
    """
    kinds = {name: modality.kind for name, modality in problem.modalities.items()}
    found = fingerprint(
        cohort,
        patients,
        problem.recipe.asked[0],
        blocks={name: kind for name, kind in kinds.items() if kind in PLANNED},
        grids={name: _grids(prepared) for name, prepared in problem.images.items()},
        progress=progress,
    )
    plan = propose(found)
    return Proposed(found, plan, tuple(lines(plan, _filled_in(problem))))


def _grids(prepared: Prepared) -> Grids:
    loaded = (row for row in prepared.certificates if not row["reason"] and row["shape"])
    return [(tuple(row["shape"]), row["spacing_mm"] and tuple(row["spacing_mm"])) for row in loaded]


def _filled_in(problem: Problem) -> dict[str, Any]:
    """Return the recipe as plain values, with every default of its modalities."""
    blocks = {
        name: modality.settings.model_dump(mode="json") for name, modality in problem.modalities.items()
    }
    values: dict[str, Any] = problem.recipe.model_dump(mode="json")
    return values | {"modalities": blocks}
