"""Where the synthetic patients went next: an outcome of three classes, from the radiograph and the note.

The log-odds of a class against ``home`` are ``intercept + finding · radius / 10 mm + complaint · severity``,
with the radius of the finding in the radiograph and the severity of the complaint that the admission note
tells. Drawn from streams of its own, so that everything else of a cohort is as it was without it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmm.cohort.synthetic.subjects import Subject
from medmm.cohort.synthetic.tables import COMPLAINTS, admission_note

CLASSES = ("home", "ward", "intensive care")

SEVERITY = dict(zip(COMPLAINTS, (0.0, 1.0, 2.0, 1.5), strict=True))
"""Severity of each complaint: cough, fever, shortness of breath, chest pain on breathing."""


@dataclass(frozen=True, slots=True)
class Planted:
    """The truth of one class, in log-odds against going home."""

    intercept: float
    finding: float
    complaint: float


PLANTED: Mapping[str, Planted] = {
    "ward": Planted(intercept=-2.2, finding=0.9, complaint=1.3),
    "intensive care": Planted(intercept=-5.6, finding=1.7, complaint=2.4),
}


def dispositions(people: Sequence[Subject]) -> bytes:
    """Return the table ``patient_id, disposition, admitted`` as CSV; admitted is 0 for who went home."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("patient_id", "disposition", "admitted"))
    for subject in people:
        went = disposition(subject)
        writer.writerow((subject.subject_id, went, int(went != CLASSES[0])))
    return text.getvalue().encode()


def disposition(subject: Subject) -> str:
    """Return where a patient went, drawn from a stream of its own."""
    drawn = subject.stream("disposition").random()
    for name, share in probabilities(subject).items():
        if drawn < share:
            return name
        drawn -= share
    return CLASSES[-1]


def probabilities(subject: Subject) -> dict[str, float]:
    """Return the true probability of each class."""
    size, severity = subject.radius_mm["radiograph"] / 10, SEVERITY[complaint(subject)]
    odds = {CLASSES[0]: 1.0}
    for name, planted in PLANTED.items():
        odds[name] = math.exp(planted.intercept + planted.finding * size + planted.complaint * severity)
    return {name: share / sum(odds.values()) for name, share in odds.items()}


def complaint(subject: Subject) -> str:
    """Return what a patient complained of: as the admission note tells, else drawn."""
    note = admission_note(subject)
    told = next((word for word in COMPLAINTS if f"with {word} for" in note), None)
    return told or str(subject.stream("complaint").choice(COMPLAINTS))


def truth() -> dict[str, Any]:
    """Return the planted coefficients, as JSON values."""
    return {
        "image": "radiograph",
        "severity": SEVERITY,
        "log_odds": {
            name: {
                "intercept": planted.intercept,
                "per_10_mm_radius": planted.finding,
                "per_severity": planted.complaint,
            }
            for name, planted in PLANTED.items()
        },
    }
