"""Whether a model may be called champion: the recipe's rules, each with what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medmm.evaluation.calibrate import Agreement
from medmm.evaluation.comparison import FUSED
from medmm.fitting.choosing import WITH_BOTH, Evidence
from medmm.recipe import Promotion

GRADES = ("nothing", "look", "shortcut", "leak")
"""Of the red team's findings, the mildest first."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule: what it asks, what was found, and whether that is enough."""

    rule: str
    asked: str
    found: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """The rules of a recipe against the evidence of a run.

    Attributes:
        model: what was held against them: the fused network, or "routed" where submodels ship beside it.
    """

    checks: tuple[Check, ...]
    model: str = FUSED

    @property
    def passed(self) -> bool:
        """Whether every rule is met."""
        return all(check.passed for check in self.checks)

    @property
    def word(self) -> Literal["champion", "candidate"]:
        """The best alias that the model gets."""
        return "champion" if self.passed else "candidate"

    def sentence(self) -> str:
        """Return the decision in words, with the rules that failed."""
        if self.passed:
            return f"champion: every rule of `promotion` is met{self._of(' by')}"
        failed = "; ".join(f"{c.rule} asks {c.asked}, found {c.found}" for c in self.checks if not c.passed)
        return f"candidate only{self._of(', as')}: {failed}"

    def _of(self, joined: str) -> str:
        """Name what was judged where that is not the fused network alone."""
        return "" if self.model == FUSED else f"{joined} {self.model}"

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON values."""
        rows = [{"rule": c.rule, "asked": c.asked, "found": c.found, "passed": c.passed} for c in self.checks]
        return {"passed": self.passed, "alias": self.word, "model": self.model, "checks": rows}


def decide(
    rules: Promotion,
    evidence: Evidence,
    overall: Agreement,
    *,
    singles: Sequence[str],
    worst_finding: str | None,
) -> Decision:
    """Hold what a run ships against the recipe's rules.

    Args:
        overall: calibration of the cross-fitted risks of what ships.
        singles: the modalities, each of which was fitted alone.
        worst_finding: worst grade among the red team's findings, "nothing", or None where it did not look.
    """
    checks = []
    if rules.not_worse_than_best_single is not None:
        checks.append(_against_single(rules.not_worse_than_best_single, evidence, singles))
    if rules.calibration_slope is not None:
        low, high = rules.calibration_slope
        slope = overall.slope.value
        found = f"{slope:.2f}" if math.isfinite(slope) else "none (risks are constant, or separate perfectly)"
        checks.append(Check("calibration_slope", f"{low:g} to {high:g}", found, low <= slope <= high))
    if rules.red_team is not None:
        allowed = GRADES[: GRADES.index(rules.red_team) + 1]
        found = worst_finding or "it did not look"
        checks.append(Check("red_team", f"at worst {rules.red_team}", found, worst_finding in allowed))
    return Decision(tuple(checks), evidence.model)


def _against_single(margin: float, evidence: Evidence, singles: Sequence[str]) -> Check:
    """Compare with the modality alone over which what ships gains least, on those whom both score."""
    rule, asked = "not_worse_than_best_single", f"a lower bound of {-margin:+.2f} or more"
    compared = [
        found
        for found in evidence.compared
        if (found.model, found.asked_of) == (evidence.model, WITH_BOTH) and found.rival in singles
    ]
    if not compared:
        return Check(rule, asked, "no pair of patients to compare", False)
    least = min(compared, key=lambda found: found.gain.value)
    gain = least.gain
    said = f"{gain.value:+.2f} ({gain.lower:+.2f} to {gain.upper:+.2f}) over {least.rival}"
    return Check(rule, asked, f"{said}, {least.patients} patients", gain.lower >= -margin)
