"""Who the synthetic patients are, and the planted truth from which their labels were drawn.

The logit of an outcome is ``intercept + finding * radius / 10 mm + Σ coefficient * standardised field``.
The finding in the image and the fields are independent, so the best score from one part alone is that
part itself, and the AUROC of a part is the limit that no model of that part passes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

import numpy as np

from medmm.arrays import Float64

FRAILTY = ("fit", "vulnerable", "frail", "severely frail")
SITES = ("east", "north", "west")
SMOKING = ("never", "former", "current")
EPOCH = datetime(2001, 1, 1)
"""First day of the fictional two years in which everybody is admitted."""

_FRAILTY_SHARES = (0.35, 0.30, 0.20, 0.15)
_FINDING_SHARE = 0.65
_RADIUS_MM = (14.0, 34.0)
_POPULATION = 20_000
"""Simulated patients behind the limits of AUROC; their sampling error is 0.003."""


@dataclass(frozen=True, slots=True)
class Planted:
    """The truth of one outcome, in log-odds.

    Attributes:
        image: the image block that shows the finding.
        finding: log-odds per 10 mm of the finding's radius.
        fields: log-odds per standardised unit of a field, by ``block.field``.
    """

    image: str
    intercept: float
    finding: float
    fields: Mapping[str, float]


PLANTED: Mapping[str, Planted] = {
    "deterioration": Planted(
        image="ct",
        intercept=-2.9,
        finding=1.2,
        fields={"records.age": 0.8, "records.frailty": 0.8, "biomarkers.crp": 1.2},
    ),
    "pneumonia": Planted(
        image="radiograph",
        intercept=-3.1,
        finding=1.2,
        fields={
            "records.age": 0.4,
            "records.smoking": 0.6,
            "records.immunosuppressed": 1.0,
            "biomarkers.procalcitonin": 0.9,
        },
    ),
}

STANDARDISED: Mapping[str, str] = {
    "records.age": "(age - 62 a) / 14 a",
    "records.frailty": "rank (0 = fit … 3 = severely frail) - 1.15",
    "records.smoking": "1 if current, else 0",
    "records.immunosuppressed": "1 if yes, else 0",
    "biomarkers.crp": "(ln(mg/L) - 3.4) / 1.1",
    "biomarkers.procalcitonin": "(ln(ng/mL) + 1.5) / 1.2",
}
"""How a field becomes the number that its coefficient multiplies."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One synthetic patient, everything about whom is known.

    Attributes:
        position: place in the cohort, from 0; decides the few special cases.
        key: seed of every random stream of this patient.
        radius_mm: per image block, radius of the finding, 0 where there is none.
        fields: the true value of every field, by ``block.field``.
        imaged: the image blocks of which the patient has a study before the prediction time.
        parts: per outcome, log-odds of the image part and of the tables part.
        labels: per outcome, the drawn label.
    """

    subject_id: str
    position: int
    key: tuple[int, int]
    assessed_at: datetime
    radius_mm: Mapping[str, float]
    fields: Mapping[str, float | str]
    imaged: frozenset[str]
    parts: Mapping[str, tuple[float, float]]
    labels: Mapping[str, int]

    def stream(self, name: str) -> np.random.Generator:
        """Return this patient's own random stream for one purpose, independent of all others."""
        return stream(*self.key, name)

    def logit(self, outcome: str) -> float:
        """Return the true log-odds of an outcome."""
        return PLANTED[outcome].intercept + sum(self.parts[outcome])


def stream(*key: int | str) -> np.random.Generator:
    """Return a generator that depends on the key alone."""
    words = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(words[:16], "big"))


def subjects(patients: int, seed: int) -> list[Subject]:
    """Return the patients; the first ones are the same however many are asked for."""
    return [_subject(position, seed) for position in range(patients)]


def _subject(position: int, seed: int) -> Subject:
    rng = stream(seed, position, "person")
    fields = _fields(rng)
    radius_mm = {planted.image: _radius_mm(rng) for planted in PLANTED.values()}
    parts = {name: _parts(planted, radius_mm, fields) for name, planted in PLANTED.items()}
    labels = {
        name: int(rng.random() < _probability(PLANTED[name].intercept + sum(both)))
        for name, both in parts.items()
    }
    return Subject(
        # A step coprime to 10^6 near its golden section: ids are distinct, and a tenth begins with zero.
        subject_id=f"{(381_967 * position + 104_729 * seed + 31) % 1_000_000:06d}",
        position=position,
        key=(seed, position),
        assessed_at=EPOCH + timedelta(minutes=int(rng.integers(0, 2 * 365 * 24 * 60))),
        radius_mm=radius_mm,
        fields=fields,
        imaged=_imaged(position, rng),
        parts=parts,
        labels=labels,
    )


def _imaged(position: int, rng: np.random.Generator) -> frozenset[str]:
    drawn = [block for block, share in (("ct", 0.82), ("radiograph", 0.75)) if rng.random() < share]
    if position == NOTHING:
        return frozenset()
    return frozenset({*drawn, "ct"} if position in (MISSING_SLICE, TWO_STUDIES) else drawn)


NOTHING = 7
"""The patient with an empty row in the records, and nothing else."""
MISSING_SLICE = 11
"""The patient whose CT lacks a slice in the middle and must be refused."""
TWO_STUDIES = 13
"""A patient with an earlier CT study beside the index one, in which the finding is smaller."""


def _fields(rng: np.random.Generator) -> dict[str, float | str]:
    return {
        "records.age": float(np.clip(round(62 + 14 * rng.standard_normal()), 19, 97)),
        "records.sex": str(rng.choice(["female", "male"])),
        "records.site": str(rng.choice(SITES)),
        "records.frailty": str(rng.choice(FRAILTY, p=_FRAILTY_SHARES)),
        "records.smoking": str(rng.choice(SMOKING, p=(0.45, 0.30, 0.25))),
        "records.diabetes": "yes" if rng.random() < 0.2 else "no",
        "records.immunosuppressed": "yes" if rng.random() < 0.2 else "no",
        "records.weight_kg": round(float(rng.normal(78, 15)), 1),
        "biomarkers.crp": round(math.exp(3.4 + 1.1 * rng.standard_normal()), 1),
        "biomarkers.procalcitonin": round(math.exp(-1.5 + 1.2 * rng.standard_normal()), 3),
        "biomarkers.glucose": round(float(rng.lognormal(4.7, 0.25)), 0),
        "biomarkers.haemoglobin": round(float(rng.normal(13.2, 1.6)), 1),
        "biomarkers.egfr": round(float(rng.normal(78, 22)), 0),
    }


def _radius_mm(rng: np.random.Generator) -> float:
    present, radius = rng.random() < _FINDING_SHARE, rng.uniform(*_RADIUS_MM)
    return round(float(radius), 1) if present else 0.0


def _standardised(name: str, value: float | str) -> float:
    match name:
        case "records.age":
            return (float(value) - 62) / 14
        case "records.frailty":
            return FRAILTY.index(str(value)) - 1.15
        case "records.smoking":
            return float(value == "current")
        case "records.immunosuppressed":
            return float(value == "yes")
        case "biomarkers.crp":
            return (math.log(max(float(value), 0.1)) - 3.4) / 1.1
        case _:
            return (math.log(max(float(value), 0.001)) + 1.5) / 1.2


def _parts(
    planted: Planted, radius_mm: Mapping[str, float], fields: Mapping[str, float | str]
) -> tuple[float, float]:
    tables = sum(weight * _standardised(name, fields[name]) for name, weight in planted.fields.items())
    return planted.finding * radius_mm[planted.image] / 10, tables


def _probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def expected_auroc(score: Sequence[float] | Float64, probability: Float64) -> float:
    """Return the AUROC of a score, averaged over all draws of the labels; ties count one half.

    Args:
        score: ``[patient]``, any monotone scale.
        probability: ``[patient]``, true probability of the outcome, 0 to 1.
    """
    _, rank = np.unique(np.asarray(score), return_inverse=True)
    positive = np.bincount(rank, probability)
    negative = np.bincount(rank, 1 - probability)
    below = np.cumsum(negative) - negative / 2
    # A patient is never paired with itself; unlike labels of one patient would count one half.
    self_pairs = float(np.sum(probability * (1 - probability)))
    pairs = float(positive.sum() * negative.sum()) - self_pairs
    return float((positive @ below - self_pairs / 2) / pairs)


@cache
def limits(seed: int) -> dict[str, dict[str, float]]:
    """Return, per outcome, the AUROC that the best model of tables, image and both could reach.

    They hold for patients whose fields are all known and whose image shows the finding.
    """
    rng = stream(seed, "population")
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in PLANTED}
    for fields in _population(rng):
        radius_mm = {planted.image: _radius_mm(rng) for planted in PLANTED.values()}
        for name, planted in PLANTED.items():
            rows[name].append(_parts(planted, radius_mm, fields))
    found = {}
    for name, planted in PLANTED.items():
        image, tables = np.array(rows[name]).T
        probability = 1 / (1 + np.exp(-(planted.intercept + image + tables)))
        found[name] = {
            part: round(expected_auroc(score, probability), 3)
            for part, score in (("tables", tables), ("image", image), ("both", image + tables))
        }
    return found


def _population(rng: np.random.Generator) -> Iterator[dict[str, float | str]]:
    return (_fields(rng) for _ in range(_POPULATION))
