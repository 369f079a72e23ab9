"""How one field becomes numbers: one codec per kind, fitted on the training split.

A codec gives a known value its columns and says when a value is unusual; what it cannot use (a cell
that is missing, a level that was never declared) it answers with None, and the table then writes the
codec's ``blank`` columns and sets the missing indicator. Sums are taken with :func:`math.fsum` over sorted
values and logarithms with :mod:`math`, so that the order of patients, the processor and the batch do
not show in the last bit.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Self

from medmm.columns import Status, Value
from medmm.errors import DataError

FARTHEST_SD = 30.0
"""Standardised numbers end here: beyond it a network only extrapolates, and float32 could overflow."""

LARGEST = 1e30
"""Numbers end here before any arithmetic; no unit of the laboratory comes near."""

RARE = 3
"""A category that fewer training patients have shares the unknown token, so that the token is trained."""

RANK = 11
"""The training range is told by the 11th smallest and 11th largest number (CMS cell size policy)."""

USUAL = 0.98
"""Share of the training patients whose numbers are usual."""

RANKED_FROM = 50
"""With fewer numbers than this the range is the extremes, rounded outward to one significant digit."""

YES = frozenset({"1", "true", "yes", "y", "t"})
NO = frozenset({"0", "false", "no", "n", "f"})


@dataclass(frozen=True, slots=True)
class Column:
    """One entry of a table's row, as declared.

    Attributes:
        key: its name in the row.
        field: the clinical field (player) it belongs to.
        kind: "number", "date", "category", "ordinal" or "flag".
        levels: of an ordinal, lowest first.
        log: whether a number is taken on a logarithmic scale.
    """

    key: str
    field: str
    kind: str
    label: str
    unit: str | None = None
    reference: tuple[float, float] | None = None
    levels: tuple[str, ...] = ()
    log: bool = False


class Codec(ABC):
    """One fitted field."""

    @classmethod
    @abstractmethod
    def fit(cls, column: Column, values: Sequence[Value]) -> Self:
        """Return the codec fitted on the training split's values, in any order."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """What each of its columns holds, to stand after the field's name; "" for the value itself."""

    @property
    @abstractmethod
    def blank(self) -> tuple[float, ...]:
        """Its columns where the value is missing."""

    @abstractmethod
    def encode(self, column: Column, value: Value) -> tuple[float, ...] | None:
        """Return its columns for a value, or None where there is nothing it can use."""

    @abstractmethod
    def unusual(self, column: Column, value: Value) -> str:
        """Return what is unusual about a value, without the value; "" when nothing is."""

    def state(self) -> dict[str, Any]:
        """Return the fitted numbers and words as JSON values; the constructor takes them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    @abstractmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Return the codec of a :meth:`state`."""


@dataclass(frozen=True)
class Number(Codec):
    """A number: standardised by the training mean and standard deviation, missing ones at the median.

    On a log scale the number is first taken as ``sign(x) · log1p(|x| / log_unit)``, with the smallest
    positive training value as ``log_unit``: logarithmic over the range of the data whatever the unit, zero
    at zero. A censored result enters at its limit; one without a limit (``inf``, ``-inf``) at the
    largest or smallest number of the training split. A field that is constant in training is 0
    throughout, and one that training never knew stays missing.
    """

    known: int
    low: float
    high: float
    mean: float
    sd: float
    median: float
    log_unit: float

    @classmethod
    def fit(cls, column: Column, values: Sequence[Value]) -> Self:
        """Return the fitted number; see :meth:`Codec.fit`."""
        raw = [number for value in values if (number := cls._read(column, value)) is not None]
        finite = sorted(x for x in raw if math.isfinite(x))
        if not finite:
            return cls(known=0, low=0.0, high=0.0, mean=0.0, sd=0.0, median=0.0, log_unit=0.0)
        low, high = _range(finite)
        # Below 1 / LARGEST a number is zero to any laboratory, and dividing by it would overflow.
        log_unit = next((x for x in finite if x > 1 / LARGEST), 1.0) if column.log else 0.0
        within = [x if math.isfinite(x) else high if x > 0 else low for x in raw]
        scaled = sorted(cls._scale(x, log_unit) for x in within)
        mean = math.fsum(scaled) / len(scaled)
        sd = math.sqrt(math.fsum((x - mean) ** 2 for x in scaled) / len(scaled))
        # Rounding of the mean alone leaves a constant field with a standard deviation of this order.
        sd = 0.0 if sd <= 1e-12 * abs(mean) else sd
        median = statistics.median(scaled)
        return cls(len(raw), low, high, mean, sd, median, log_unit)

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Return the number of a state; see :meth:`Codec.restore`."""
        numbers = {name: float(state[name]) for name in ("low", "high", "mean", "sd", "median", "log_unit")}
        if not all(map(math.isfinite, numbers.values())):
            raise ValueError("a fitted number that is not finite")
        return cls(known=int(state["known"]), **numbers)

    @property
    def names(self) -> tuple[str, ...]:
        """One column; see :meth:`Codec.names`."""
        return ("",)

    @property
    def blank(self) -> tuple[float, ...]:
        """The median, standardised."""
        return (self._standardise(self.median),)

    def encode(self, column: Column, value: Value) -> tuple[float, ...] | None:
        """Return the standardised number; see :meth:`Codec.encode`."""
        number = self._read(column, value)
        if number is None or not self.known:
            return None
        if math.isinf(number):
            number = self.high if number > 0 else self.low
        return (self._standardise(self._scale(number, self.log_unit)),)

    def unusual(self, column: Column, value: Value) -> str:
        """Name a number outside the training range; see :meth:`Codec.unusual`."""
        number = self._read(column, value)
        if number is None:
            return ""
        if not self.known:
            return "never known in training, so not used"
        if math.isfinite(number) and not self._usual(number):
            return "outside the usual range of the training patients"
        return ""

    def _usual(self, number: float) -> bool:
        """Whether a number lies in the middle :data:`USUAL` of the training patients, or would.

        Of few numbers the range that may be told ends far inside: of 50 at the 20th and the 80th percentile.
        Each side is then taken to go on from the median as a normal distribution does.
        """
        if self.low <= number <= self.high:
            return True
        if self.known < RANKED_FROM:
            return False
        told = statistics.NormalDist().inv_cdf(1 - (RANK - 0.5) / self.known)
        reach = max(1.0, statistics.NormalDist().inv_cdf((1 + USUAL) / 2) / told)
        scaled = self._scale(number, self.log_unit)
        end = self._scale(self.high if scaled > self.median else self.low, self.log_unit)
        return abs(scaled - self.median) <= reach * abs(end - self.median)

    @staticmethod
    def _read(column: Column, value: Value) -> float | None:
        """Return the number of a value; an unknown limit as infinity."""
        if value.status is not Status.KNOWN:
            return None
        if value.value is None:
            # A comparator without a limit says which side of the scale, and no more.
            return {"<": -math.inf, ">": math.inf}.get(value.comparator[:1])
        try:
            number = float(value.value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise DataError(
                f"field {column.key!r} is declared a {column.kind} but a known value is no number"
            )
        return number if math.isinf(number) else min(max(number, -LARGEST), LARGEST)

    @staticmethod
    def _scale(number: float, log_unit: float) -> float:
        return math.copysign(math.log1p(abs(number) / log_unit), number) if log_unit else number

    def _standardise(self, scaled: float) -> float:
        z = (scaled - self.mean) / self.sd if self.sd else 0.0
        return min(max(z, -FARTHEST_SD), FARTHEST_SD)


class Ordinal(Number):
    """An ordered category: the number of its level, lowest 0, treated as a number."""

    @staticmethod
    def _read(column: Column, value: Value) -> float | None:
        text = _text(value)
        return float(column.levels.index(text)) if text in column.levels else None

    def unusual(self, column: Column, value: Value) -> str:
        """Name a level that was not declared, else as a number; see :meth:`Codec.unusual`."""
        text = _text(value)
        if text and text not in column.levels:
            return "a level that is not declared, so not used"
        return super().unusual(column, value)


@dataclass(frozen=True)
class Flag(Codec):
    """Yes or no, as 1 or 0; a missing one at the share of yes in the training split."""

    share: float

    @classmethod
    def fit(cls, column: Column, values: Sequence[Value]) -> Self:
        """Return the fitted flag; see :meth:`Codec.fit`."""
        known = [flag for value in values if (flag := _flag(value)) is not None]
        return cls(share=math.fsum(known) / len(known) if known else 0.0)

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Return the flag of a state; see :meth:`Codec.restore`."""
        share = float(state["share"])
        if not 0 <= share <= 1:
            raise ValueError("a share outside [0, 1]")
        return cls(share=share)

    @property
    def names(self) -> tuple[str, ...]:
        """One column; see :meth:`Codec.names`."""
        return ("",)

    @property
    def blank(self) -> tuple[float, ...]:
        """The share of yes in training."""
        return (self.share,)

    def encode(self, column: Column, value: Value) -> tuple[float, ...] | None:
        """Return 1 or 0; see :meth:`Codec.encode`."""
        flag = _flag(value)
        return None if flag is None else (flag,)

    def unusual(self, column: Column, value: Value) -> str:
        """Name a word that is neither yes nor no; see :meth:`Codec.unusual`."""
        return "neither yes nor no, so not used" if _text(value) and _flag(value) is None else ""


@dataclass(frozen=True)
class Category(Codec):
    """One column per category of the training split, and one for every other: the unknown token."""

    vocabulary: tuple[str, ...]

    @classmethod
    def fit(cls, column: Column, values: Sequence[Value]) -> Self:
        """Return the fitted vocabulary; see :meth:`Codec.fit`."""
        counts = Counter(text for value in values if (text := _text(value)))
        return cls(vocabulary=tuple(sorted(word for word, n in counts.items() if n >= RARE)))

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Return the category of a state; see :meth:`Codec.restore`."""
        return cls(vocabulary=tuple(str(word) for word in state["vocabulary"]))

    @property
    def names(self) -> tuple[str, ...]:
        """The vocabulary, then the unknown token; see :meth:`Codec.names`."""
        return (*(f"={word}" for word in self.vocabulary), " other")

    @property
    def blank(self) -> tuple[float, ...]:
        """All zeros."""
        return (0.0,) * (len(self.vocabulary) + 1)

    def encode(self, column: Column, value: Value) -> tuple[float, ...] | None:
        """Return the one-hot columns; see :meth:`Codec.encode`."""
        text = _text(value)
        if not text:
            return None
        hot = tuple(float(text == word) for word in self.vocabulary)
        return (*hot, float(not any(hot)))

    def unusual(self, column: Column, value: Value) -> str:
        """Name a category outside the vocabulary; see :meth:`Codec.unusual`."""
        text = _text(value)
        return "a category (almost) unseen in training" if text and text not in self.vocabulary else ""


CODECS: dict[str, type[Codec]] = {
    "number": Number,
    "date": Number,
    "category": Category,
    "ordinal": Ordinal,
    "flag": Flag,
}
"""The codec of each kind of field; a date comes as its offset from the prediction time, in days."""


def _range(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the ends of sorted numbers, none of them the extreme of one patient alone."""
    if len(ordered) >= RANKED_FROM:
        return ordered[RANK - 1], ordered[-RANK]
    return _rounded(ordered[0], ROUND_FLOOR), _rounded(ordered[-1], ROUND_CEILING)


def _rounded(number: float, direction: str) -> float:
    """Return a number at one significant digit; in decimals, so that 0.3 stays 0.3."""
    exact = Decimal(repr(number))
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted()), rounding=direction)) + 0.0


def _text(value: Value) -> str:
    """Return a known value as a word: stripped, and 2.0 as "2"; "" where it is not known."""
    if value.status is not Status.KNOWN or value.value is None:
        return ""
    if isinstance(value.value, str):
        return value.value.strip()
    return f"{value.value:.0f}" if float(value.value).is_integer() else repr(value.value)


def _flag(value: Value) -> float | None:
    text = _text(value).casefold()
    return 1.0 if text in YES else 0.0 if text in NO else None
