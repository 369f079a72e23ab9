"""Outcomes of any kind on a page: figures, confusion matrices, and one patient's panel per outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medmm.report.facts import Table
from medmm.report.images import ImageEvidence
from medmm.report.waterfall import Drawing, Scale, Waterfall, draw
from medmm.report.wording import number

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate

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
        (name, *(str(count) for count in row), str(sum(row)))
        for name, row in zip(classes, counts, strict=True)
    )
    note = "Rows: what was true. Columns: the class with the highest calibrated probability."
    return f"{title}: confusion matrix", Table(("", *classes, "patients"), rows, note)


def _figure(estimate: Estimate | None) -> str:
    return "–" if estimate is None or math.isnan(estimate.value) else str(estimate)


def _words(name: str, words: Mapping[str, str]) -> str:
    measure, _, part = name.partition(".")
    told = words.get(measure, measure.replace("_", " "))
    return f"{told}, {part}" if part else told
