"""What a cohort says of an outcome, and how a table's words become labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from medmm.arrays import Bools, Float64
from medmm.cohort.origin import Filter
from medmm.cohort.values import parse_number
from medmm.columns import Declared, Words
from medmm.errors import DataError

KEYS = {
    "binary": ("positive", "negative"),
    "multiclass": ("classes",),
    "ordinal": ("classes",),
    "regression": ("unit", "plausible"),
    "survival": ("event", "positive", "negative", "ends"),
}
"""The keys of :class:`OutcomeSpec` that belong to each kind, besides those that belong to all."""

Cells = Mapping[str, Sequence[Any]]


class OutcomeSpec(Declared):
    """One outcome: a column of a table with at most one row per subject.

    Attributes:
        kind: ``binary``; ``multiclass``, one of several ``classes``; ``ordinal``, the same in an order from
            low to high; ``regression``, a quantity; ``survival``, days until something happens.
        positive: the word of an event; of a survival, in the column ``event``.
        negative: the other word; may be left out when the column holds one other word besides ``positive``.
        classes: the words of the column, all of them.
        unit: UCUM unit of a quantity, as shown.
        plausible: lowest and highest quantity that can be true; another one is no label.
        event: the column that says whether the event happened or the patient was only watched until then.
        ends: ends of the intervals in days on which hazards are estimated; where none are given, intervals
            with equally many events of the training patients.
    """

    table: str
    id: str | None = None
    column: str | None = None
    where: Filter = Field(default_factory=dict)
    kind: Literal["binary", "multiclass", "ordinal", "regression", "survival"] = "binary"
    positive: int | str | bool | None = None
    negative: int | str | bool | None = None
    classes: tuple[int | str | bool, ...] = ()
    unit: str | None = None
    plausible: tuple[float, float] | None = None
    event: str | None = None
    ends: tuple[float, ...] = ()
    missing_codes: Words = ()
    label: str | None = None

    @model_validator(mode="after")
    def _of_its_kind(self) -> OutcomeSpec:
        theirs = {key for keys in KEYS.values() for key in keys} - set(KEYS[self.kind])
        blank = {
            key: field.get_default(call_default_factory=True)
            for key, field in type(self).model_fields.items()
        }
        foreign = sorted(key for key in theirs if getattr(self, key) != blank[key])
        if foreign:
            raise ValueError(f"a {self.kind} outcome has no `{foreign[0]}`")
        if self.kind == "binary" and self.positive is None:
            raise ValueError("a binary outcome says which word is `positive`")
        if self.kind in ("multiclass", "ordinal"):
            words = {canonical(word) for word in self.classes}
            if len(self.classes) < 3 or len(words) < len(self.classes):
                raise ValueError(f"a {self.kind} outcome lists three or more different `classes`")
        if self.kind == "survival":
            if self.event is None or self.positive is None:
                raise ValueError("a survival outcome names its `event` column, and the `positive` word in it")
            if list(self.ends) != sorted(set(self.ends)) or any(end <= 0 for end in self.ends):
                raise ValueError("`ends` are days after the prediction time, each later than the one before")
        return self

    def columns(self, name: str) -> list[str]:
        """Return the columns that hold it."""
        return [self.column or name, *([self.event] if self.event else [])]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as text."""
        return tuple(str(word) for word in self.classes)


def counted(spec: OutcomeSpec, values: Sequence[float]) -> str:
    """Return how many have which label, in words: "38 home, 12 ward", "51 labels", "7 events of 40"."""
    if spec.kind in ("multiclass", "ordinal"):
        return ", ".join(f"{list(values).count(place)} {name}" for place, name in enumerate(spec.names))
    if spec.kind == "regression":
        return f"{len(values)} labels"
    word = "positive" if spec.kind == "binary" else "events"
    return f"{sum(value > 0 for value in values)} of {len(values)} {word}"


def halved(spec: OutcomeSpec, labels: Float64) -> tuple[Float64, str]:
    """Return an outcome of any kind as one of yes and no, about half of each where it leaves a choice.

    Classes are divided as evenly as they can be, a quantity at its median. Of a time to an event the question
    is whether it happened within the median time; whoever was watched for less than that has no answer.

    Args:
        labels: ``[patient]``, NaN where not known.

    Returns:
        ``[patient]`` 1.0, 0.0 or NaN, and what was asked in words; "" of a binary outcome.
    """
    known = labels[np.isfinite(labels)]
    if spec.kind == "binary" or not len(known):
        return labels, ""

    def told(yes: Bools) -> Float64:
        return np.where(np.isfinite(labels), yes.astype(np.float64), np.nan)

    if spec.kind == "multiclass":
        nearest = min(range(len(spec.names)), key=lambda place: abs(float((known == place).mean()) - 0.5))
        return told(labels == nearest), spec.names[nearest]
    if spec.kind == "ordinal":
        cuts = range(1, len(spec.names))
        cut = min(cuts, key=lambda place: abs(float((known >= place).mean()) - 0.5))
        return told(labels >= cut), f"{spec.names[cut]} or above"
    middle = float(np.median(np.abs(known)))
    if spec.kind == "regression":
        middle = float(np.median(known))
        return told(labels > middle), f"above {middle:g}{f' {spec.unit}' if spec.unit else ''}"
    happened = (labels > 0) & (labels <= middle)
    unwatched = (labels < 0) & (-labels < middle)
    return np.where(unwatched, np.nan, told(happened)), f"an event within {middle:g} days"


def groups_of(spec: OutcomeSpec) -> list[tuple[str, float | None]]:
    """Return the groups that an outcome divides patients into, with :func:`grouped`'s value."""
    if spec.kind in ("multiclass", "ordinal"):
        named: list[tuple[str, float | None]] = [
            (name, float(place)) for place, name in enumerate(spec.names)
        ]
    elif spec.kind == "regression":
        named = [("known", 0.0)]
    else:
        named = [("yes", 1.0), ("no", 0.0)]
    return [*named, ("not known", None)]


def grouped(spec: OutcomeSpec, label: float | None) -> float | None:
    """Return the group of a label: itself, whether the event was seen, or 0 for a quantity; None for none."""
    if label is None or spec.kind in ("binary", "multiclass", "ordinal"):
        return label
    return 0.0 if spec.kind == "regression" else float(label > 0)


def labels(found: Cells, name: str, spec: OutcomeSpec) -> dict[str, float]:
    """Return the label of every subject that has one, as :mod:`medmm.outcome` counts them.

    Raises:
        DataError: if a word is none that the outcome declares, or a time is none that can be.
    """
    texts = {subject: row[0] for subject, row in found.items() if row[0] and row[0] not in spec.missing_codes}
    if spec.kind == "binary":
        return _binary(texts, name, spec)
    if spec.kind in ("multiclass", "ordinal"):
        return _classes(texts, name, spec)
    numbers = {subject: _number(text, name, spec) for subject, text in texts.items()}
    if spec.kind == "regression":
        low, high = spec.plausible or (float("-inf"), float("inf"))
        return {subject: value for subject, value in numbers.items() if low <= value <= high}
    early = sum(value <= 0 for value in numbers.values())
    if early:
        raise DataError(
            f"outcome {name!r}: {early} of {len(numbers)} times in {spec.table} are 0 or below; an event"
            " has to come after the prediction time, so exclude these subjects or correct the column"
        )
    happened = _binary({subject: row[1] for subject, row in found.items() if row[1]}, name, spec)
    return {
        subject: days if happened[subject] else -days
        for subject, days in numbers.items()
        if subject in happened
    }


def _binary(texts: Mapping[str, str], name: str, spec: OutcomeSpec) -> dict[str, float]:
    """Return 1.0 for `positive`, 0.0 otherwise."""
    texts = {subject: text for subject, text in texts.items() if text not in spec.missing_codes}
    positive = canonical(spec.positive)
    words = {canonical(text) for text in texts.values()}
    others = words - {positive}
    negative = {canonical(spec.negative)} if spec.negative is not None else others
    if len(negative) > 1 or others - negative:
        raise DataError(
            f"outcome {name!r}: {spec.table} holds {len(words)} different labels; a binary outcome has"
            " `positive` and `negative`, so declare both, and the rest as `missing_codes`"
        )
    return {subject: float(canonical(text) == positive) for subject, text in texts.items()}


def _classes(texts: Mapping[str, str], name: str, spec: OutcomeSpec) -> dict[str, float]:
    places = {canonical(word): float(place) for place, word in enumerate(spec.classes)}
    unknown = {canonical(text) for text in texts.values()} - set(places)
    if unknown:
        raise DataError(
            f"outcome {name!r}: {spec.table} holds {len(unknown)} words that are none of its"
            f" {len(places)} classes; add them to `classes`, or to `missing_codes`"
        )
    return {subject: places[canonical(text)] for subject, text in texts.items()}


def _number(text: str, name: str, spec: OutcomeSpec) -> float:
    found = parse_number(text)
    if found is None or found.value is None or found.comparator:
        raise DataError(
            f"outcome {name!r}: {spec.table} holds a label that is no number; correct it, or declare it in"
            " `missing_codes`, or `decimal_comma` of the table"
        )
    return found.value


def canonical(word: object) -> str:
    """One spelling per label: "1", "1.0" and 1 are the same, and so are "True" and true."""
    text = str(word).strip()
    number = parse_number(text)
    if number is not None and number.value is not None and not number.comparator and not number.flag:
        return f"{number.value:g}"
    return text.lower() if text.lower() in ("true", "false") else text
