"""Where a cohort's tables come from: files, or a data model whose relations need no mapping."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from medmm.sources.canonical import RELATIONS
from medmm.sources.fhir import FhirSource
from medmm.sources.meds import MedsSource
from medmm.sources.omop import OmopSource

Filter = dict[str, str | tuple[str, ...]]
"""Rows of a table that count: per column, the word or the words that it holds."""
Source = Annotated[MedsSource | OmopSource | FhirSource, Field(discriminator="kind")]
EVENT_COLUMNS = {
    "id": "subject_id",
    "code": "code",
    "name": "name",
    "value": "value",
    "unit": "unit",
    "time": "time",
    "available_at": "available_at",
    "status": "status",
}
"""How :data:`medmm.sources.canonical.EVENTS` are read, unless a cohort says otherwise."""
NOTE_COLUMNS = {"id": "subject_id", "text": "text", "time": "time", "available_at": "available_at"}


def with_source(values: dict[str, Any]) -> dict[str, Any]:
    """Return a cohort.yaml with what a source settles: tables, ids and the columns of its relations."""
    settled = {"subjects": {"table": "subjects", "id": "subject_id"}} | values
    for block, table, columns in (("biomarkers", "events", EVENT_COLUMNS), ("notes", "notes", NOTE_COLUMNS)):
        part = settled.get(block)
        if isinstance(part, dict) and part.get("table", table) in RELATIONS:
            settled[block] = {"table": table, "columns": columns} | part
    records = settled.get("records")
    if isinstance(records, dict):
        events = records.get("events") or {}
        if isinstance(events, dict) and events.get("table", "events") in RELATIONS:
            events = {"table": "events", "columns": EVENT_COLUMNS} | events
        settled["records"] = {"table": "subjects"} | records | {"events": events}
    return settled
