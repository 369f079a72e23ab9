"""What the red team found, as JSON, as lines and as a page."""

from __future__ import annotations

import json
from typing import Any

from medmm.redteam.attack import RedTeam
from medmm.redteam.findings import Finding
from medmm.redteam.strength import Strength
from medmm.report.redteam import render_red_team

WORDS = {
    "leak": "leaks: a figure would be false",
    "shortcut": "shortcuts: a model may learn what is not the disease",
    "look": "to look at: a person must say",
}


def summary(found: RedTeam, *, named: bool = True) -> dict[str, Any]:
    """Return everything that was found as plain values, in the order of the page.

    Args:
        found: of one outcome.
        named: whether the pseudonyms of copies are in it; without them it may be tracked.
    """
    return {
        "schema_version": 1,
        "cohort": found.cohort,
        "outcome": found.outcome,
        "patients": found.patients,
        "events": found.events,
        "looked_at": found.looked_at,
        "findings": [_finding(item, named=named) for item in found.findings],
        "groups": [{"name": name, **_strength(strong)} for name, strong in found.groups.items()],
        "fields": found.fields and _strength(found.fields),
        "shuffled": found.shuffled and [found.shuffled.value, found.shuffled.lower, found.shuffled.upper],
        "notes": list(found.notes),
    }


def to_json(found: RedTeam, *, named: bool = True) -> str:
    """Return :func:`summary` as JSON text."""
    return json.dumps(summary(found, named=named), indent=1, allow_nan=False)


def to_html(found: RedTeam, *, named: bool = True) -> str:
    """Return :func:`summary` as one self-contained page."""
    return render_red_team(summary(found, named=named))


def lines(found: RedTeam) -> list[str]:
    """Return what a terminal shows."""
    counts = {grade: sum(item.grade == grade for item in found.findings) for grade in WORDS}
    head = f"red team {found.outcome}: {found.events} of {found.patients} patients; {found.looked_at} columns"
    none = "nothing found" if found.looked_at else "nothing could be looked at"
    said = ", ".join(f"{count} {grade}" for grade, count in counts.items() if count) or none
    shuffled = f"; shuffled labels {found.shuffled}" if found.shuffled else ""
    return [
        f"{head} and groups tried: {said}{shuffled}",
        *(item.line() for item in found.findings),
        *(f"note: {note}" for note in found.notes),
    ]


def _finding(found: Finding, *, named: bool) -> dict[str, Any]:
    area = found.auroc
    return {
        "grade": found.grade,
        "rule": found.rule,
        "what": found.what,
        "auroc": area and [area.value, area.lower, area.upper],
        "bound": found.bound,
        "patients": found.patients,
        "means": found.means,
        "advice": found.advice,
        "pairs": [list(pair) for pair in found.pairs] if named else [],
    }


def _strength(found: Strength) -> dict[str, Any]:
    area = found.auroc
    return {
        "auroc": [area.value, area.lower, area.upper],
        "patients": found.patients,
        "events": found.events,
    }
