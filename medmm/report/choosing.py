"""What the training page says of the choice: grid, comparisons, net benefit, routing, promotion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from medmm.evaluation.comparison import FUSED
from medmm.evaluation.subgroups import SMALL_CELL
from medmm.report.facts import Table
from medmm.report.figures import Axis, axis_for, interval_row
from medmm.report.wording import number

if TYPE_CHECKING:
    from medmm.evaluation.availability import Cell
    from medmm.evaluation.resampling import Estimate
    from medmm.fitting.choosing import Evidence
    from medmm.fitting.promotion import Decision
    from medmm.fitting.routing import Routing


@dataclass(frozen=True, slots=True)
class GridRow:
    """One line of the availability grid, ready for the page.

    Attributes:
        first: whether the pattern begins here.
        bar: the AUROC's interval, or empty.
        scores: whether this model scores the patients of the pattern.
    """

    cell: Cell
    first: bool
    bar: Markup
    scores: bool


@dataclass(frozen=True, slots=True)
class Choosing:
    """The sections about the choice.

    Attributes:
        axis: of all bars of the grid.
        rows: the availability grid.
        calibration: of the same patterns and models.
        tables: (anchor, heading, table) of the rest.
        alias: what the model is registered as and why; empty where the recipe has no rule.
        routed: whether the recipe routes, and the grid says who scores whom.
    """

    axis: Axis
    rows: tuple[GridRow, ...]
    calibration: Table
    tables: tuple[tuple[str, str, Table], ...]
    alias: str
    routed: bool = False


def choosing(evidence: Evidence, decision: Decision | None) -> Choosing:
    """Return the sections of the page."""
    axis = axis_for([cell.auroc for cell in evidence.cells if cell.auroc], 0.5)
    routing = evidence.routing
    scored_by = {route.pattern: route.model for route in routing.routes} if routing else {}
    rows, before = [], ""
    for cell in evidence.cells:
        title = f"{cell.model}, patients with {cell.pattern}"
        bar = interval_row(cell.auroc, axis, title) if cell.auroc else Markup("")
        rows.append(GridRow(cell, cell.pattern != before, bar, scored_by.get(cell.pattern) == cell.model))
        before = cell.pattern
    tables = [
        ("compared", "Fused against each other model", _comparisons(evidence, FUSED)),
        ("benefit", "Net benefit at the threshold", _benefits(evidence)),
    ]
    if evidence.model != FUSED:
        told = _comparisons(evidence, evidence.model)
        tables.insert(1, ("shipped", "What ships against each other model", told))
    if routing is not None:
        tables.append(("routing", "Which network scores whom", _routing(routing)))
    if decision is not None:
        tables.append(("promotion", "Promotion", _promotion(decision)))
    alias = decision.sentence() if decision else ""
    return Choosing(axis, tuple(rows), _calibration(evidence), tuple(tables), alias, routing is not None)


def _calibration(evidence: Evidence) -> Table:
    rows = []
    for cell in evidence.cells:
        found, ratio = cell.calibration, cell.expected_to_observed
        if found is None or ratio is None:
            rows.append((cell.pattern, cell.model, "–", "–", "–"))
        else:
            agreed = (_plain(found.slope), _signed(found.intercept, 2), number(ratio))
            rows.append((cell.pattern, cell.model, *agreed))
    return Table(
        columns=("patients with", "model", "slope", "intercept", "expected : observed"),
        rows=tuple(rows),
        note="Of the cross-fitted risks, 95 % intervals; slope 1, intercept 0 and 1 : 1 are ideal. Withheld"
        f" where events, or patients without, are fewer than {SMALL_CELL}.",
    )


def _comparisons(evidence: Evidence, model: str) -> Table:
    named = "the fused model" if model == FUSED else f"what ships ({model})"
    repeated = f" Mean of {evidence.repeats} cross-validations; intervals count each patient once."
    return Table(
        columns=("against", "patients", "n (events)", "bootstrap", "DeLong", "p"),
        rows=tuple(
            (
                found.rival,
                found.asked_of,
                f"{found.patients} ({found.events})",
                _signed(found.gain),
                _signed(found.delong.gain),
                "–" if math.isnan(found.delong.p) else number(found.delong.p, 3),
            )
            for found in evidence.compared
            if found.model == model
        ),
        note=f"Gain in AUROC of {named}, out-of-fold, paired; 95 % intervals by the paired"
        " bootstrap and by DeLong (1988). p is DeLong's, two-sided, for one comparison; not corrected"
        " for their number." + (repeated if evidence.repeats > 1 else ""),
    )


def _benefits(evidence: Evidence) -> Table:
    return Table(
        columns=("policy", "n", "net benefit", "fused, on the same patients", "gain of fused"),
        rows=tuple(
            (name, f"{found.patients}", _signed(found.own), _signed(found.fused), _signed(found.gain))
            for name, found in evidence.benefits.items()
        ),
        note=f"Per patient, deciding at a risk of {evidence.risk:.2g} (each fold at the threshold that the"
        " other folds chose): true positives less false positives at the odds of that risk."
        " Paired 95 % intervals.",
    )


def _routing(routing: Routing) -> Table:
    return Table(
        columns=("patients with", "n", "scored by", "chosen without the fold", "gain of routing"),
        rows=tuple(
            (
                route.pattern,
                f"fewer than {SMALL_CELL}" if route.patients is None else f"{route.patients}",
                route.sentence(),
                ", ".join(f"{model} {count}" for model, count in route.chosen.items()) or "–",
                _signed(route.gain) if route.gain else "–",
            )
            for route in routing.routes
        ),
        note="A network scores the patients of a pattern in place of the fused one where its gain in AUROC on"
        " them, out-of-fold and paired, has an interval above 0: DeLong's, Bonferroni's for all"
        f" {routing.comparisons} comparisons of this table together. The last two columns choose anew for"
        " every fold on the other folds, and judge that choice on the fold: what routing is worth. So is the"
        " model `routed` in the grid and the tables above.",
    )


def _promotion(decision: Decision) -> Table:
    return Table(
        columns=("rule", "asks", "found", "met"),
        rows=tuple((c.rule, c.asked, c.found, "yes" if c.passed else "no") for c in decision.checks),
        note=f"Held against these rules: {decision.model}, out-of-fold. {decision.sentence()}",
    )


def _plain(found: Estimate) -> str:
    return "–" if math.isnan(found.value) else str(found)


def _signed(found: Estimate, decimals: int = 3) -> str:
    if math.isnan(found.lower):
        return f"{found.value:+.{decimals}f} (–)" if math.isfinite(found.value) else "–"
    return f"{found.value:+.{decimals}f} ({found.lower:+.{decimals}f} to {found.upper:+.{decimals}f})"
