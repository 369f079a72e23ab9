"""FHIR R4 bulk export: one resource a line of NDJSON.

Patient becomes ``subjects``; Encounter, Condition, Observation (with its components), MedicationStatement,
ImagingStudy and DiagnosticReport become ``events``; a report's conclusion and plain text become ``notes``,
whose time is when the report was issued, since its effective time is that of the examination.
Lines are read one at a time and with a limit, numbers as they stand, so 85.70 stays 85.70.
Sources: HL7 FHIR R4 (4.0.1), https://hl7.org/fhir/R4; Bulk Data Access 2.0, https://hl7.org/fhir/uv/bulkdata.
"""

# ruff: noqa: S608 - the names are this file's own
from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator

from medmm.columns import Declared
from medmm.errors import DataError
from medmm.sources import canonical
from medmm.sources.duck import Engine
from medmm.sources.tables import Table, contained

MAX_LINE_BYTES = 16 << 20
FLAGS = ("HH", "LL", "H", "L", "A")
"""Interpretations (HL7 v3 ObservationInterpretation) that a laboratory writes beside the number."""
SYSTEMS = ("http://loinc.org", "http://snomed.info/sct", "http://www.nlm.nih.gov/research/umls/rxnorm")

NOT_TAKEN = ("not-taken", "intended")
"""Statuses of a MedicationStatement that says that there was no drug, or none yet."""

Resource = Mapping[str, Any]
Event = dict[str, str]


def known_zone(name: str) -> str:
    """Return the name of a time zone of the IANA's.

    Raises:
        ValueError: if there is no such zone.
    """
    if name not in available_timezones():
        raise ValueError(f"{name!r} is no time zone; name one of the IANA's, such as Europe/Berlin")
    return name


class FhirSource(Declared):
    """A folder of NDJSON files, searched with everything below it.

    Attributes:
        path: the folder, relative to the data root.
        systems: of several codings, that of the first of these systems is taken, else the first coding.
        identifier: the system of the identifier by which images and other tables call the patient; whoever
            has none is called "Patient/…". None for the id of the resource.
        timezone: local time of the site, in which DICOM files and tables without an offset from UTC are
            written; instants are converted to it, and in the hour that the clocks show twice to a date
            alone. None keeps them as they are.
    """

    kind: Literal["fhir"]
    path: str = "."
    systems: tuple[str, ...] = SYSTEMS
    identifier: str | None = None
    timezone: Annotated[str, AfterValidator(known_zone)] | None = None


def open_fhir(
    engine: Engine, root: Path, source: FhirSource, wanted: Sequence[str] | None
) -> dict[str, Table]:
    """Read an export and return its canonical relations.

    Args:
        engine: keeps what was read in its private folder.
        root: the data root.
        source: where the export is.
        wanted: only the lines that may be about these subjects; None for everybody.

    Raises:
        DataError: if there is no file, or a line is no resource.
    """
    folder = contained(root, source.path)
    files = sorted(folder.rglob("*.ndjson"))
    if not files:
        raise DataError(f"{source.path} has no *.ndjson; a FHIR bulk export is a folder of them")
    reader = _Reader(source)
    rows: dict[str, Any] = {}
    paths = {name: engine.private(f"fhir-{name}.csv") for name in canonical.RELATIONS}
    opened = {name: path.open("x", newline="", encoding="utf-8") for name, path in paths.items()}
    try:
        for name, columns in canonical.RELATIONS.items():
            rows[name] = csv.writer(opened[name], quoting=csv.QUOTE_ALL, lineterminator="\n")
            rows[name].writerow(columns)
        needles = None if wanted is None or source.identifier else [one.encode() for one in wanted]
        for resource in _resources(files, needles):
            for name, event in reader.read(resource):
                rows[name].writerow([event.get(column, "") for column in canonical.RELATIONS[name]])
    finally:
        for file in opened.values():
            file.close()
    found = {
        name: engine.keep_csv(path, canonical.RELATIONS[name], what=source.path)
        for name, path in paths.items()
    }
    own = _own_name("subject_id") if source.identifier else "subject_id"
    return {name: _named(name, relation, found["subjects"], own) for name, relation in found.items()}


def _own_name(resource: str) -> str:
    """SQL: what a patient without the identifier is called, so that no other's identifier can be the same."""
    return f"CASE WHEN contains({resource}, '/') THEN {resource} ELSE 'Patient/' || {resource} END"


def _named(name: str, relation: str, people: str, own: str) -> Table:
    """A relation whose subjects bear the name that the cohort uses; the reader put it into ``split``.

    Args:
        name: of the relation.
        relation: as it was read.
        people: the relation ``subjects``.
        own: SQL of the name of whoever has none there.
    """
    columns = canonical.RELATIONS[name]
    if name == "subjects":
        select = {column: column for column in columns} | {
            "subject_id": f"coalesce(split, {own})",
            "split": "NULL",
        }
        return canonical.table(name, select, relation)
    select = {column: f"e.{column}" for column in columns}
    select["subject_id"] = f"coalesce(p.split, {own.replace('subject_id', 'e.subject_id')})"
    joined = f"{relation} e LEFT JOIN (SELECT DISTINCT ON (subject_id) subject_id, split FROM {people}) p"
    return canonical.table(name, select, f"{joined} ON e.subject_id = p.subject_id")


def _resources(files: Sequence[Path], needles: Sequence[bytes] | None) -> Iterator[Resource]:
    for path in files:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path.name}, line {number} is longer than {MAX_LINE_BYTES >> 20} MB; a bulk export"
                        " has one resource a line"
                    )
                if line.isspace() or (needles is not None and not any(one in line for one in needles)):
                    continue
                yield _resource(line, path.name, number)


def _resource(line: bytes, name: str, number: int) -> Resource:
    try:
        found = json.loads(line.decode("utf-8-sig"), parse_float=str, parse_int=str)
    except UnicodeDecodeError:
        raise DataError(f"{name}, line {number} is not UTF-8, which FHIR demands; export it anew") from None
    except (ValueError, RecursionError):
        raise DataError(f"{name}, line {number} is no JSON; export it anew") from None
    if not isinstance(found, dict) or not isinstance(found.get("resourceType"), str):
        raise DataError(f"{name}, line {number} is no FHIR resource: it has no resourceType")
    return found


class _Reader:
    """Turns resources into rows of the canonical relations; what a resource lacks is an empty cell."""

    def __init__(self, source: FhirSource) -> None:
        self._systems = source.systems
        self._identifier = source.identifier
        self._zone = ZoneInfo(source.timezone) if source.timezone else None
        self._readers = {
            "Encounter": self._encounter,
            "Condition": self._condition,
            "Observation": self._observation,
            "MedicationStatement": self._medication,
            "ImagingStudy": self._study,
            "DiagnosticReport": self._report,
        }

    def read(self, resource: Resource) -> Iterator[tuple[str, Event]]:
        kind = resource["resourceType"]
        if kind == "Patient":
            yield "subjects", self._patient(resource)
        elif kind in self._readers:
            about = _subject(resource)
            for relation, event in self._readers[kind](resource):
                yield relation, {"subject_id": about, "kind": kind, **event}

    def _patient(self, resource: Resource) -> Event:
        name = ""
        if self._identifier:
            name = next(
                (
                    _text(one.get("value"))
                    for one in _listed(resource, "identifier")
                    if one.get("system") == self._identifier
                ),
                "",
            )
        return {
            "subject_id": _text(resource.get("id")),
            "birth_date": _text(resource.get("birthDate")),
            "sex": _text(resource.get("gender")),
            "split": name,
        }

    def _encounter(self, resource: Resource) -> Iterator[tuple[str, Event]]:
        what = _mapping(resource, "class")
        code, name = _text(what.get("code")), _text(what.get("display"))
        yield "events", self._event(resource, code, name, self._time(resource, "period", start=True))

    def _condition(self, resource: Resource) -> Iterator[tuple[str, Event]]:
        verified = _codings(resource.get("verificationStatus"))
        withdrawn = [one for one in verified if one.get("code") in ("entered-in-error", "refuted")]
        event = self._event(
            resource, *self._code(resource.get("code")), self._time(resource, "onset", start=True)
        )
        event["available_at"] = self._local(resource.get("recordedDate"))
        yield "events", event | {"status": "entered-in-error" if withdrawn else ""}

    def _observation(self, resource: Resource) -> Iterator[tuple[str, Event]]:
        time = self._time(resource, "effective")
        own = self._value(resource)
        parts = _listed(resource, "component")
        if own["value"] or not parts:
            yield "events", self._event(resource, *self._code(resource.get("code")), time) | own
        for part in parts:
            yield "events", self._event(resource, *self._code(part.get("code")), time) | self._value(part)

    def _medication(self, resource: Resource) -> Iterator[tuple[str, Event]]:
        event = self._event(
            resource,
            *self._code(resource.get("medicationCodeableConcept")),
            self._time(resource, "effective", start=True),
        )
        if event["status"] in NOT_TAKEN:
            event["status"] = "entered-in-error"
        yield "events", event | {"available_at": self._local(resource.get("dateAsserted"))}

    def _study(self, resource: Resource) -> Iterator[tuple[str, Event]]:
        for modality in _listed(resource, "modality") or [{}]:
            code, name = _text(modality.get("code")), _text(modality.get("display"))
            yield "events", self._event(resource, code, name, self._local(resource.get("started")))

    def _report(self, resource: Resource) -> Iterator[tuple[str, Event]]:
        event = self._event(resource, *self._code(resource.get("code")), self._time(resource, "effective"))
        yield "events", event
        texts = [
            _text(resource.get("conclusion")),
            *(_attached(one) for one in _listed(resource, "presentedForm")),
        ]
        if any(texts):
            # at its effective time, that of the scan, nobody had read it; without `issued` it is undated
            written = {"time": event["available_at"], "text": "\n".join(text for text in texts if text)}
            yield "notes", event | written

    def _event(self, resource: Resource, code: str, name: str, time: str) -> Event:
        return {
            "code": code,
            "name": name,
            "time": time,
            "available_at": self._local(resource.get("issued")),
            "status": _text(resource.get("status")),
        }

    def _code(self, concept: Any) -> tuple[str, str]:
        """Return code and name of a CodeableConcept, in the preferred system; else its text."""
        coded = [one for one in _codings(concept) if one.get("code")]
        text = _text(concept.get("text")) if isinstance(concept, dict) else ""
        if not coded:
            return "", text
        rank = {system: place for place, system in enumerate(self._systems)}
        best = min(coded, key=lambda one: rank.get(_text(one.get("system")), len(rank)))
        return _text(best["code"]), _text(best.get("display")) or text

    def _value(self, holder: Resource) -> Event:
        """Return value and unit of an Observation or a component, as a laboratory would write them."""
        quantity = _mapping(holder, "valueQuantity")
        if quantity:
            comparator = _text(quantity.get("comparator"))
            number = comparator + _text(quantity.get("value"))
            flags = [one.get("code") for what in _listed(holder, "interpretation") for one in _codings(what)]
            flag = next((f" {flag}" for flag in flags if flag in FLAGS), "")
            unit = _text(quantity.get("code")) or _text(quantity.get("unit"))
            return {"value": number + flag if number else "", "unit": unit}
        for key in ("valueString", "valueBoolean", "valueInteger", "valueTime"):
            if key in holder:
                return {"value": _text(holder[key]), "unit": ""}
        if "valueDateTime" in holder:
            return {"value": self._local(holder["valueDateTime"]), "unit": ""}
        code, name = self._code(holder.get("valueCodeableConcept"))
        return {"value": code or name, "unit": ""}

    def _time(self, resource: Resource, stem: str, *, start: bool = False) -> str:
        """When it was: at the end of a period, when a measured value is known, unless its start is meant."""
        for key in (f"{stem}DateTime", f"{stem}Instant"):
            if resource.get(key):
                return self._local(resource[key])
        period = _mapping(resource, f"{stem}Period") or _mapping(resource, stem)
        ends = ("start", "end") if start else ("end", "start")
        return self._local(next((period[end] for end in ends if period.get(end)), ""))

    def _local(self, value: Any) -> str:
        """Return a FHIR date or dateTime, in the site's own time where that is declared."""
        text = _text(value)
        if self._zone is None or len(text) <= 16:
            return text
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            return text
        if instant.tzinfo is None:
            return text
        local = instant.astimezone(self._zone)
        if local.utcoffset() != local.replace(fold=1 - local.fold).utcoffset():
            # the hour that the clocks show twice: what comes first in it cannot be told from local time
            return local.date().isoformat()
        return local.replace(tzinfo=None).isoformat(" ")


def _subject(resource: Resource) -> str:
    """The id of the Patient that a resource is about, of whatever version; else, the whole reference."""
    reference = _text(_mapping(resource, "subject").get("reference")).partition("/_history/")[0]
    before, found, name = reference.rpartition("Patient/")
    return name if found and (not before or before.endswith("/")) else reference


def _mapping(holder: Any, key: str) -> Resource:
    found = holder.get(key) if isinstance(holder, dict) else None
    return found if isinstance(found, dict) else {}


def _listed(holder: Resource, key: str) -> list[Resource]:
    found: Iterable[Any] = holder.get(key) or ()
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _codings(concept: Any) -> list[Resource]:
    return _listed(concept, "coding") if isinstance(concept, dict) else []


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.strip() if isinstance(value, str) else ""


def _attached(form: Resource) -> str:
    if not _text(form.get("contentType")).startswith("text/plain"):
        return ""
    try:
        return base64.b64decode(_text(form.get("data")), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""
