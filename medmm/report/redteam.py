"""The page about what predicts an outcome and should not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medmm.evaluation.resampling import Estimate
from medmm.report.figures import Axis, axis_for, interval_row
from medmm.report.page import render

GRADES = {
    "leak": ("Leaks", "a figure measured with them would be false"),
    "shortcut": ("Shortcuts", "a model may learn them in place of the disease"),
    "look": ("To look at", "a person must say what they are"),
}


def render_red_team(found: Mapping[str, Any]) -> str:
    """Return the page as one self-contained HTML document.

    Args:
        found: cohort, outcome, patients, events, looked_at, findings, groups, fields, shuffled, notes, as the
            red team sums them up.
    """
    areas = [row["auroc"] for row in found["groups"]]
    axis = axis_for([Estimate(*area) for area in areas], 0.5) if areas else None
    sections = [
        (title, why, [row for row in found["findings"] if row["grade"] == grade])
        for grade, (title, why) in GRADES.items()
    ]
    groups = [(row, _bar(row, axis)) for row in found["groups"]]
    return render("redteam.html.j2", found=found, sections=sections, groups=groups, axis=axis)


def _bar(row: Mapping[str, Any], axis: Axis | None) -> Markup:
    return interval_row(Estimate(*row["auroc"]), axis, row["name"]) if axis else Markup("")
