"""Records: one value per clinical field and patient, from a wide table."""

from __future__ import annotations

from collections.abc import Mapping

from medmm.columns import FieldSpec
from medmm.errors import ConfigError
from medmm.modalities.fields import Column
from medmm.modalities.tables import Table


class Records(Table):
    """The fields with role ``input`` of a wide table; a row is keyed by field name."""

    kind = "records"

    def _declared(self) -> tuple[Column, ...]:
        if not isinstance(self.declaration, Mapping):
            raise ConfigError(
                f"modality {self.name!r} is of kind 'records' but the cohort declares no fields"
            )
        return tuple(
            Column(
                key=name,
                field=name,
                kind=spec.kind,
                label=spec.label or name,
                unit=spec.unit,
                reference=spec.reference,
                levels=spec.levels,
                log=spec.scale == "log",
            )
            for name, spec in self.declaration.items()
            if isinstance(spec, FieldSpec) and spec.role == "input"
        )
