"""Where tables come from: files read as text, or a data model that maps itself to three relations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medmm.sources.duck import Engine
    from medmm.sources.fhir import FhirSource
    from medmm.sources.meds import MedsSource
    from medmm.sources.omop import OmopSource
    from medmm.sources.tables import Table


def open_source(
    engine: Engine, root: Path, source: MedsSource | OmopSource | FhirSource, wanted: Sequence[str] | None
) -> dict[str, Table]:
    """Return the relations that a source offers, by the names of :data:`medmm.sources.canonical.RELATIONS`.

    Args:
        engine: reads it.
        root: the data root.
        source: as the cohort declares it.
        wanted: the subjects asked for; None for everybody. A source may read more than these.

    Raises:
        ConfigError: if the declaration cannot mean what it says.
        DataError: if the source is missing or malformed.
    """
    if source.kind == "meds":
        from medmm.sources.meds import open_meds

        return open_meds(engine, root, source)
    if source.kind == "omop":
        from medmm.sources.omop import open_omop

        return open_omop(engine, root, source, wanted)
    from medmm.sources.fhir import open_fhir

    return open_fhir(engine, root, source, wanted)
