"""The synthetic tables: records, results, notes, labels and what happened later, with the traps of real ones.

Cells are text, as in a CSV file. Rows after the prediction time carry the outcome, so that a join which
uses them is found out by a figure that is too good.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from medmm.cohort.synthetic.subjects import NOTHING, Subject, stream

Rows = list[list[str]]

_MG_PER_MMOL_GLUCOSE = 18.0156
"""mg/dL per mmol/L: molar mass 180.156 g/mol, tenth of a litre."""


@dataclass(frozen=True, slots=True)
class Analyte:
    """How one result is written down.

    Attributes:
        share: of the patients who have it.
        leak: the outcome that its later values follow, or None.
        units: UCUM unit, what the value is divided by, and the share of results written so.
        low: smallest value that the laboratory states, below it "<low"; high: above it ">=high".
    """

    code: str
    name: str
    units: tuple[tuple[str, float, float], ...]
    share: float
    digits: int
    leak: str | None = None
    low: float = 0.0
    high: float = float("inf")


ANALYTES = {
    "crp": Analyte(
        "1988-5",
        "C reactive protein",
        (("mg/L", 1, 0.8), ("mg/dL", 10, 0.2)),
        0.94,
        2,
        leak="deterioration",
        low=3.0,
    ),
    "procalcitonin": Analyte(
        "33959-8", "Procalcitonin", (("ng/mL", 1, 1.0),), 0.85, 3, leak="pneumonia", low=0.02
    ),
    "glucose": Analyte(
        "2345-7", "Glucose", (("mg/dL", 1, 0.7), ("mmol/L", _MG_PER_MMOL_GLUCOSE, 0.3)), 0.9, 1
    ),
    "haemoglobin": Analyte("718-7", "Haemoglobin", (("g/dL", 1, 1.0),), 0.9, 1),
    "egfr": Analyte("98979-8", "eGFR (CKD-EPI 2021)", (("mL/min/{1.73_m2}", 1, 1.0),), 0.75, 0, high=90.0),
}
_TREATMENT = ("20578-1", "Vancomycin")
_UNREADABLE = ("haemolysed", "see comment")

COMPLAINTS = ("cough", "fever", "shortness of breath", "chest pain on breathing")

RECORDS = (
    "patient_id",
    "assessed_at",
    "site",
    "age",
    "sex",
    "frailty",
    "smoking",
    "diabetes",
    "immunosuppressed",
    "weight_kg",
    "discharge_code",
)
RESULTS = ("patient_id", "code", "name", "value", "unit", "collected_at", "available_at", "status")
NOTES = ("patient_id", "written_at", "text")
LABELS = ("patient_id", "deterioration", "pneumonia", "deteriorated_at")
FOLLOW_UP = ("patient_id", "days_in_hospital", "intensive_care")

_MISSING = {"age": 0.02, "frailty": 0.08, "smoking": 0.05, "immunosuppressed": 0.05, "weight_kg": 0.2}


def tables(people: Sequence[Subject], seed: int) -> dict[str, bytes]:
    """Return every table of the cohort by file name, as CSV; long ones in no order."""
    return {
        "records.csv": _csv(RECORDS, [_record(subject) for subject in people]),
        "biomarkers.csv": _csv(RESULTS, [*_shuffled(people, _results, seed), _stranger()]),
        "notes.csv": _csv(NOTES, _shuffled(people, _notes, seed)),
        "labels.csv": _csv(LABELS, [_label(subject) for subject in people]),
        "followup.csv": _csv(FOLLOW_UP, [_follow_up(subject) for subject in people]),
    }


def _csv(header: Sequence[str], rows: Rows) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _shuffled(people: Sequence[Subject], rows: Callable[[Subject], Iterator[list[str]]], seed: int) -> Rows:
    every = [row for subject in people if subject.position != NOTHING for row in rows(subject)]
    return [every[place] for place in stream(seed, rows.__name__).permutation(len(every))]


def _stranger() -> list[str]:
    """A result of somebody whom the records do not know."""
    return ["X00001", "1988-5", "C reactive protein", "12.0", "mg/L", "2001-05-04 08:00:00", "", "final"]


def _at(subject: Subject, hours: float) -> str:
    return f"{subject.assessed_at + timedelta(seconds=round(hours * 3600)):%Y-%m-%d %H:%M:%S}"


def _record(subject: Subject) -> list[str]:
    rng = subject.stream("records")
    cells = {name: str(subject.fields.get(f"records.{name}", "")) for name in RECORDS}
    cells["age"] = cells["age"].removesuffix(".0")
    for name, share in _MISSING.items():
        if rng.random() < share or subject.position == NOTHING:
            cells[name] = "unknown" if name == "smoking" and rng.random() < 0.6 else ""
    if subject.position == NOTHING:
        cells |= {"sex": "", "diabetes": "", "smoking": ""}
    if subject.position % 97 == 31:
        cells["weight_kg"] = "780"
    cells["patient_id"], cells["assessed_at"] = subject.subject_id, _at(subject, 0)
    cells["discharge_code"] = "J96" if subject.labels["deterioration"] else "Z09"
    return [cells[name] for name in RECORDS]


def _label(subject: Subject) -> list[str]:
    rng = subject.stream("labels")
    unknown = rng.random() < 0.05
    deteriorated = bool(subject.labels["deterioration"])
    return [
        subject.subject_id,
        str(subject.labels["deterioration"]),
        "" if unknown else str(subject.labels["pneumonia"]),
        _at(subject, rng.uniform(8, 70)) if deteriorated else "",
    ]


def _follow_up(subject: Subject) -> list[str]:
    rng = subject.stream("follow-up")
    ill = subject.labels["deterioration"]
    return [subject.subject_id, str(int(rng.integers(2, 8)) + 9 * ill), "yes" if ill else "no"]


def _results(subject: Subject) -> Iterator[list[str]]:
    for name, analyte in ANALYTES.items():
        rng = subject.stream(name)
        if rng.random() < analyte.share:
            yield from _series(subject, name, analyte, rng)
    rng = subject.stream("treatment")
    if rng.random() < 0.15 + 0.5 * subject.labels["pneumonia"]:
        when = rng.uniform(-6, 40)
        yield [
            subject.subject_id,
            *_TREATMENT,
            f"{rng.uniform(8, 22):.1f}",
            "ug/mL",
            *_stamps(subject, when, 1),
            "final",
        ]


def _series(subject: Subject, name: str, analyte: Analyte, rng: np.random.Generator) -> Iterator[list[str]]:
    """Yield one patient's results of one analyte: earlier, index, late and after the prediction time."""
    true = float(subject.fields[f"biomarkers.{name}"])
    if name == "haemoglobin" and rng.random() < 0.15:
        # From the referral letter, which has no date.
        yield [*_cells(subject, analyte, true, rng), "", "", "final"]
        return
    for _ in range(rng.integers(0, 3)):
        earlier = true * rng.uniform(0.5, 1.3)
        yield [*_cells(subject, analyte, earlier, rng), *_stamps(subject, rng.uniform(-120, -20), 1), "final"]
    yield from _index_result(subject, analyte, true, rng)
    if rng.random() < 0.1:
        # Taken before the prediction time, known only after it.
        late = [*_cells(subject, analyte, _after(subject, analyte, true, rng), rng)]
        yield [*late, *_stamps(subject, -0.4, 2), "final"]
    for _ in range(rng.integers(0, 3)):
        after = _after(subject, analyte, true, rng)
        yield [*_cells(subject, analyte, after, rng), *_stamps(subject, rng.uniform(2, 72), 1), "final"]


def _index_result(
    subject: Subject, analyte: Analyte, true: float, rng: np.random.Generator
) -> Iterator[list[str]]:
    """Yield the result that carries the planted signal, sometimes a preliminary or unreadable one."""
    stamps = _stamps(subject, rng.uniform(-12, -2), 1)
    if rng.random() < 0.04:
        wrong = true * rng.uniform(1.5, 3)
        yield [*_cells(subject, analyte, wrong, rng), *stamps, "preliminary"]
        yield [*_cells(subject, analyte, true, rng), *stamps, "corrected"]
        return
    yield [*_cells(subject, analyte, true, rng), *stamps, "final"]
    if analyte.code == ANALYTES["glucose"].code and subject.position % 60 == 33:
        word = _UNREADABLE[subject.position // 60 % 2]
        yield [
            subject.subject_id,
            analyte.code,
            analyte.name,
            word,
            "mg/dL",
            *_stamps(subject, -14, 1),
            "final",
        ]


def _after(subject: Subject, analyte: Analyte, true: float, rng: np.random.Generator) -> float:
    if analyte.leak is None:
        return true * float(rng.uniform(0.8, 1.2))
    return true * float(rng.uniform(3, 6) if subject.labels[analyte.leak] else rng.uniform(0.2, 0.6))


def _stamps(subject: Subject, hours: float, turnaround_hours: float) -> tuple[str, str]:
    return _at(subject, hours), _at(subject, hours + turnaround_hours)


def _cells(subject: Subject, analyte: Analyte, value: float, rng: np.random.Generator) -> list[str]:
    """Return patient, code, name, value and unit as the laboratory writes them."""
    shares = [share for _, _, share in analyte.units]
    unit, divisor, _ = analyte.units[int(rng.choice(len(shares), p=shares))]
    digits = analyte.digits + (1 if divisor > 1 else 0)
    flagged = analyte.leak == "pneumonia" and value > 1 and rng.random() < 0.5
    text = f"{value / divisor:.{digits}f}" + (" H" if flagged else "")
    if value < analyte.low:
        text = f"<{analyte.low / divisor:g}"
    if value >= analyte.high:
        text = f">={analyte.high / divisor:g}"
    return [subject.subject_id, analyte.code, analyte.name, text, unit]


def _notes(subject: Subject) -> Iterator[list[str]]:
    rng = subject.stream("notes")
    for hours in (rng.uniform(-8, -0.2), rng.uniform(4, 60)):
        if rng.random() < 0.55:
            yield [subject.subject_id, _at(subject, hours), _note(subject, rng, later=hours > 0)]


def admission_note(subject: Subject) -> str:
    """Return the note written at admission, or an empty text where there is none."""
    return next((text for _, _, text in _notes(subject) if text.startswith("Admitted")), "")


def _note(subject: Subject, rng: np.random.Generator, *, later: bool) -> str:
    if later:
        worse = subject.labels["deterioration"]
        return "Transferred to intensive care overnight." if worse else "Improving, mobilised, eats well."
    days = int(rng.integers(1, 9))
    complaint = str(rng.choice(COMPLAINTS))
    smoker = str(subject.fields["records.smoking"])
    return f'Admitted with {complaint} for {days} days, "felt worse today".\nSmoking: {smoker}.'
