"""A recipe beside its plan: where they differ, and why the plan says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medmm.planning.grid import STEP
from medmm.planning.propose import Plan, Proposal

ALIKE = 0.15
"""Numbers that differ by a smaller share say the same: a fingerprint of other series would differ as much."""


def differences(plan: Plan, recipe: Mapping[str, Any]) -> list[tuple[Proposal, Any]]:
    """Return the proposals that a recipe does not follow, each with what the recipe says.

    Args:
        plan: of the recipe's own cohort.
        recipe: as plain values, every default filled in.
    """
    pairs = [(proposal, _said(recipe, proposal)) for proposal in plan.proposals]
    return [(proposal, said) for proposal, said in pairs if not _alike(proposal.key, said, proposal.value)]


def lines(plan: Plan, recipe: Mapping[str, Any]) -> list[str]:
    """Return what a person reads: one line per difference, and how many settings there are."""
    found = differences(plan, recipe)
    total = len(plan.proposals)
    return [
        f"planner  {total - len(found)} of {total} settings are as it proposes"
        + ("; of the others:" if found else ""),
        *(
            f"         {proposal.key}: {_plain(said)} in the recipe, {_plain(proposal.value)} proposed:"
            f" {proposal.reason}"
            for proposal, said in found
        ),
    ]


def _said(recipe: Mapping[str, Any], proposal: Proposal) -> Any:
    found: Any = recipe
    for part in proposal.key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(proposal.value, Mapping) and isinstance(found, Mapping):
        return {key: found.get(key) for key in proposal.value}
    return found


def _alike(key: str, said: Any, proposed: Any) -> bool:
    if isinstance(proposed, Mapping):
        return isinstance(said, Mapping) and all(_alike(k, said.get(k), v) for k, v in proposed.items())
    if isinstance(proposed, list):
        same = isinstance(said, Sequence) and len(said) == len(proposed)
        return same and all(_alike(key, one, other) for one, other in zip(said, proposed, strict=True))
    if isinstance(said, int | float) and isinstance(proposed, int | float):
        whole = isinstance(said, int) and isinstance(proposed, int)
        step = STEP if key.endswith(".shape") else 1 if whole else 0
        return abs(said - proposed) <= max(step, ALIKE * abs(proposed))
    return bool(said == proposed)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return "not set" if value is None else str(value)
