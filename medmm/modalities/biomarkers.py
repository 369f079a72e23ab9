"""Biomarkers: summaries of timed results, from a long table."""

from __future__ import annotations

from collections.abc import Mapping

from medmm.columns import ResultSpec
from medmm.errors import ConfigError
from medmm.modalities.fields import Column
from medmm.modalities.tables import Table

DERIVED = ("count", "slope", "time_since_last")
"""Summaries that are no value of the analyte: its unit, its reference range and its scale are not theirs."""


class Biomarkers(Table):
    """The results with role ``input`` of a long table.

    A row is keyed by result name where one summary is asked for, and by ``name:summary`` where there
    are several; all summaries of a result are one player.
    """

    kind = "biomarkers"

    def _declared(self) -> tuple[Column, ...]:
        if not isinstance(self.declaration, Mapping):
            raise ConfigError(
                f"modality {self.name!r} is of kind 'biomarkers' but the cohort declares no results"
            )
        return tuple(
            Column(
                key=name if len(spec.summaries) == 1 else f"{name}:{summary}",
                field=name,
                kind="number",
                label=spec.label or name,
                unit=spec.unit_of(summary),
                reference=spec.reference if summary not in DERIVED else None,
                # a count, a slope and a time are plain numbers, whatever the scale of the results themselves
                log=spec.scale == "log" and summary not in DERIVED,
            )
            for name, spec in self.declaration.items()
            if isinstance(spec, ResultSpec) and spec.role == "input"
            for summary in spec.summaries
        )
