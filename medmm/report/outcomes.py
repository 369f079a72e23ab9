"""Outcomes of any kind on a page: figures, confusion matrices, and one patient's panel per outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medmm.cohort.disclosure import SMALL, hidden
from medmm.report.facts import Table
from medmm.report.images import ImageEvidence
from medmm.report.waterfall import Drawing, Scale, Waterfall, draw
from medmm.report.wording import number

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate

KEPT_BACK = "*"
"""Stands for a count that is not shown."""

WHY_KEPT_BACK = f"{KEPT_BACK}: a count from 1 to {SMALL - 1}, or one from which such a count would follow."

NARROW_MEASURES = 7
"""Measures in one table; the rest go into a further one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One component of an outcome taken apart.

    Attributes:
        name: the class, or the outcome.
        modalities: shares of the modalities.
        fields: per table, shares of its fields.
        slope: of the calibration, by which every share is multiplied.
        intercept: of the calibration; with ``slope`` the place of the score on the axis.
        axis: what the axis measures ("log-odds against the mean class", "a").
        risk: whether a place on the axis is a risk.
    """

    name: str
    modalities: Waterfall
    fields: tuple[Waterfall, ...] = ()
    slope: float = 1.0
    intercept: float = 0.0
    axis: str = ""
    risk: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One outcome of one patient, whatever its kind.

    Attributes:
        title: the outcome in words.
        headline: what is expected, in a sentence.
        table: probabilities by class with the cohort's shares, or risks by day; or None.
        notes: lines under it: calibration, threshold, how good the model is.
        explanations: one per component; the first is drawn open.
        images: one per image, for the first explanation.
    """

    title: str
    headline: str
    table: Table | None = None
    notes: tuple[str, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    images: tuple[ImageEvidence, ...] = ()


def drawings(explanation: Explanation, *, start: str, end: str) -> tuple[Drawing, list[Drawing]]:
    """Return the drawn shares of the modalities, and of the fields of each table."""
    scale = Scale(explanation.slope, explanation.intercept, affine=explanation.risk, axis=explanation.axis)
    whole = draw(explanation.modalities, scale, start=start, end=end)
    parts = []
    for waterfall in explanation.fields:
        component = waterfall.attribution.component
        others = {name: value for name, value in whole.printed().items() if name != component}
        parts.append(draw(waterfall, scale, start=start, end=end, modalities=others))
    return whole, parts


def receipts(predicted: Predicted) -> list[tuple[str, str]]:
    """Return the lines by which anyone can check that the shares add up."""
    lines = []
    for explanation in predicted.explanations:
        for waterfall in (explanation.modalities, *explanation.fields):
            found = waterfall.attribution
            lines.append(
                (
                    f"Receipt: {explanation.name}, {waterfall.title or 'inputs'}",
                    f"base {number(found.base, 6)} + sum {number(sum(found.values), 6)} = "
                    f"logit {number(found.logit, 6)}, residual {found.residual:.1e} (1e-5 allowed)",
                )
            )
    return lines


def figure_tables(
    title: str,
    figures: Mapping[str, Mapping[str, Estimate]],
    counts: Mapping[str, int],
    words: Mapping[str, str],
) -> list[tuple[str, Table]]:
    """Return the figures of every model for one outcome, the fused one first, a few measures per table.

    Args:
        title: the outcome in words.
        figures: per model and measure, out-of-fold or of held-out patients.
        counts: patients per model.
        words: measures as a reader meets them; "recall.ward" becomes "recall, ward".
    """
    models = sorted(figures, key=lambda model: model != "fused")
    names = list(dict.fromkeys(name for model in models for name in figures[model]))
    tables = []
    for start in range(0, len(names), NARROW_MEASURES):
        shown = names[start : start + NARROW_MEASURES]
        rows = tuple(
            (model, str(counts[model]), *(_figure(figures[model].get(name)) for name in shown))
            for model in models
        )
        table = Table(
            ("model", "patients", *(_words(name, words) for name in shown)), rows, "95 % intervals."
        )
        tables.append((title if start == 0 else f"{title}, further", table))
    return tables


def confusion_table(title: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> tuple[str, Table]:
    """Return how often each class was taken for which; rows are what was true."""
    rows = tuple(
        (name, *shown, str(sum(row)))
        for name, shown, row in zip(classes, told_counts(counts), counts, strict=True)
    )
    note = "Rows: what was true. Columns: the class with the highest calibrated probability."
    if any(KEPT_BACK in row for row in rows):
        note += f" {WHY_KEPT_BACK}"
    return f"{title}: confusion matrix", Table(("", *classes, "patients"), rows, note)


def taken_for(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> list[str]:
    """Return a confusion matrix in words, a line per true class."""
    told = told_counts(counts)
    lines = [
        f"{name} was taken for: " + ", ".join(f"{n} {other}" for n, other in zip(row, classes, strict=True))
        for name, row in zip(classes, told, strict=True)
    ]
    return lines + ([WHY_KEPT_BACK] if any(KEPT_BACK in row for row in told) else [])


def told_counts(counts: Sequence[Sequence[int]]) -> list[list[str]]:
    """Return a confusion matrix as it may be shown: small counts kept back, and what would give them away.

    A row adds up to the patients of its class, and a column follows from the precision beside it.
    """
    found = np.asarray(counts)
    places = range(len(found))
    lines = [[(row, column) for column in places] for row in places]
    lines += [[(row, column) for row in places] for column in places]
    hide = hidden(found, lines)
    return [[KEPT_BACK if hide[r, c] else str(found[r, c]) for c in places] for r in places]


def _figure(estimate: Estimate | None) -> str:
    return "–" if estimate is None or math.isnan(estimate.value) else str(estimate)


def _words(name: str, words: Mapping[str, str]) -> str:
    measure, _, part = name.partition(".")
    told = words.get(measure, measure.replace("_", " "))
    return f"{told}, {part}" if part else told
