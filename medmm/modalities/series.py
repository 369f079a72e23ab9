"""The course of results: every timed result of each code, for a sequence encoder.

A patient becomes one vector in which each code owns the same columns: its newest results in slots (values,
``ln(1 + days)`` before the prediction time, filled or not), and 1 where it has none. The encoder merges the
slots of all codes by time (:mod:`medmm.encoders.series`). Since a code's columns move together, a code is one
Shapley player, as exact as a field of a table.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import Field

from medmm.columns import Declared, ResultSpec, Value
from medmm.encoders import MOST_EVENTS
from medmm.errors import BundleError, ConfigError, DataError, FittingError
from medmm.modalities.fields import Column, Number
from medmm.modalities.sequences import SequenceSettings, WarmStarted
from medmm.modality import Declaration, Modality
from medmm.sample import Player, Source, TimedSeries

if TYPE_CHECKING:
    from torch import nn

    from medmm.arrays import Float32


class SeriesSettings(Declared):
    """A course's block of a recipe.

    Attributes:
        length: results taken per code, the newest.
    """

    length: Annotated[int, Field(ge=1)] = 8
    encoder: SequenceSettings = SequenceSettings()


class Series(WarmStarted, Modality):
    """The results declared with ``series: true``, one by one.

    Raises:
        ConfigError: if there is none, or there are too many slots.
    """

    kind = "series"
    Settings = SeriesSettings
    settings: SeriesSettings

    def __init__(self, name: str, settings: Declared, declaration: Declaration) -> None:
        super().__init__(name, settings, declaration)
        self._columns = self._declared()
        self._codecs: dict[str, Number] = {}
        slots = len(self._columns) * self.settings.length
        if slots > MOST_EVENTS:
            raise ConfigError(
                f"modality {name!r}: {len(self._columns)} codes of `length` {self.settings.length} are"
                f" {slots} results a patient, and a sequence holds {MOST_EVENTS}; take a smaller `length`"
            )

    def _declared(self) -> tuple[Column, ...]:
        if not isinstance(self.declaration, Mapping):
            raise ConfigError(
                f"modality {self.name!r} is of kind 'series' but the cohort declares no results for it"
            )
        columns = tuple(
            Column(
                key=name,
                field=name,
                kind="number",
                label=spec.label or name,
                unit=spec.unit,
                reference=spec.reference,
                log=spec.scale == "log",
            )
            for name, spec in self.declaration.items()
            if isinstance(spec, ResultSpec) and spec.series
        )
        if not columns:
            raise ConfigError(
                f"modality {self.name!r} needs results with `series: true` in cohort.yaml; there are none"
            )
        return columns

    def load(self, source: Source) -> TimedSeries:
        """Return the course itself.

        Raises:
            DataError: if the source is none.
        """
        if not isinstance(source, TimedSeries):
            raise DataError(f"modality {self.name!r} reads timed results, not {type(source).__name__}")
        return source

    def fit(self, loaded: Iterable[TimedSeries]) -> Self:
        """Return a copy whose scales are those of the training split's results, in any order.

        Raises:
            FittingError: if there is no course.
            DataError: if a course lacks a declared result.
        """
        courses = list(loaded)
        if not courses:
            raise FittingError(f"modality {self.name!r} has no training patient with a result")
        return self._with({column.key: self._fit_code(column, courses) for column in self._columns})

    def _fit_code(self, column: Column, courses: list[TimedSeries]) -> Number:
        """Fit a code's scale on all results, and its range so that no patient's results alone show in it."""
        own = [[value for value, _ in self._entries(course, column)] for course in courses]
        known = [sorted(values, key=_number) for values in own if values]
        scale = Number.fit(column, [value for values in known for value in values])
        low = Number.fit(column, [values[0] for values in known]).low
        high = Number.fit(column, [values[-1] for values in known]).high
        return replace(scale, low=low, high=max(low, high))

    def transform(self, loaded: TimedSeries) -> Float32:
        """Return ``[code · (3 · length + 1)]``, finite; see the module.

        Raises:
            DataError: if the course lacks a declared result.
        """
        codecs, length = self._fitted(), self.settings.length
        parts = []
        for column in self._columns:
            rows = np.zeros((3, length))
            count = 0
            for value, offset_days in reversed(self._entries(loaded, column)[-length:]):
                encoded = codecs[column.key].encode(column, value)
                if encoded is not None:
                    rows[:, count] = encoded[0], math.log1p(max(0.0, -offset_days)), 1.0
                    count += 1
            parts += [rows.ravel(), np.array([float(count == 0)])]
        return np.concatenate(parts).astype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis: the columns of all codes."""
        return (len(self._columns) * self._width,)

    @property
    def _width(self) -> int:
        return 3 * self.settings.length + 1

    def players(self) -> tuple[Player, ...]:
        """Return one player per code, in the order declared."""
        self._fitted()
        players = []
        for place, column in enumerate(self._columns):
            start, stop = place * self._width, (place + 1) * self._width
            owned = tuple(range(start, stop))
            players.append(Player(column.key, column.label, owned, stop - 1, column.unit, column.reference))
        return tuple(players)

    def warnings(self, loaded: TimedSeries) -> tuple[str, ...]:
        """Return, by label, what is unusual about any of the results that are used."""
        codecs, length = self._fitted(), self.settings.length
        found = (
            (column, codecs[column.key].unusual(column, value))
            for column in self._columns
            for value, _ in self._entries(loaded, column)[-length:]
        )
        return tuple(dict.fromkeys(f"{column.label}: {text}" for column, text in found if text))

    def encoder(self) -> nn.Module:
        """Return a fresh sequence encoder; see :mod:`medmm.encoders.series`."""
        from medmm.encoders.series import SeriesEncoder

        block = self.settings.encoder
        return SeriesEncoder(
            len(self._columns),
            self.settings.length,
            block.kind,
            block.width,
            layers=block.layers,
            heads=block.heads,
            dropout=block.dropout,
        )

    def warm_start(self, encoder: nn.Module) -> None:
        """Read the weights to begin with, where the recipe names a file.

        Raises:
            ConfigError: if the file is not of this encoder.
        """
        if wanted := self.settings.encoder.pretrained:
            wanted.fill(encoder, self.folder)

    def state(self) -> dict[str, Any]:
        """Return each code's scale, as JSON values."""
        return {"codes": {key: codec.state() for key, codec in self._fitted().items()}}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Return a copy with a fitted state.

        Raises:
            BundleError: if the state is not that of the declared results.
        """
        try:
            codes = state["codes"]
            if set(codes) != {column.key for column in self._columns}:
                raise ValueError("its results are not those the cohort declares")
            return self._with({column.key: Number.restore(codes[column.key]) for column in self._columns})
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"the fitted state of modality {self.name!r} cannot be used: {error}"
            ) from error

    def _entries(self, course: TimedSeries, column: Column) -> list[tuple[Value, float]]:
        """Return one code's results with their offsets in days, oldest first."""
        if column.key not in course.names:
            raise DataError(f"a course of modality {self.name!r} lacks the declared result {column.key!r}")
        own = course.names.index(column.key)
        every = zip(course.code, course.value, course.comparator, course.offset_days, strict=True)
        return [
            (Value(value, comparator=comparator), offset)
            for code, value, comparator, offset in every
            if code == own
        ]

    def _with(self, codecs: dict[str, Number]) -> Self:
        fitted = copy.copy(self)
        fitted._codecs = codecs
        return fitted

    def _fitted(self) -> dict[str, Number]:
        if not self._codecs:
            raise FittingError(f"modality {self.name!r} has to be fitted, or restored, before it is used")
        return self._codecs


def _number(value: Value) -> float:
    return float(value.value) if value.value is not None else 0.0
