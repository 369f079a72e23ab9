"""The synthetic tables once more, as a data model of hospitals holds them: MEDS, OMOP or FHIR.

Nothing is lost on the way, so that each of them, joined, is the same cohort. What a data model has no place
for (when a result became available, whether it was corrected) stands in columns of our own.
"""

# ruff: noqa: S608 - the names are this file's own
from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from medmm.cohort.values import parse_number
from medmm.errors import ConfigError, OutputError
from medmm.sources.duck import Engine, literal
from medmm.sources.omop import OPERATORS, SEXES

FORMATS = ("meds", "omop", "fhir")
INDEX = "IMP"
"""The visit that defines the prediction time (HL7 v3 ActCode: inpatient encounter)."""
FIELDS = {
    "site": ("site", ""),
    "age": ("30525-0", "a"),
    "frailty": ("frailty", ""),
    "smoking": ("72166-2", ""),
    "diabetes": ("73211009", ""),
    "immunosuppressed": ("234532001", ""),
    "weight_kg": ("29463-7", "kg"),
}
"""Per field of the records, the code of its events (LOINC, SNOMED CT, or our own word) and their unit."""
KNOWN_AFTER = timedelta(hours=72)

Row = Mapping[str, str]
_OWN = {"available_at": "available_at", "status": "status"}
_SOURCES: Mapping[str, dict[str, Any]] = {
    "meds": {"unit": "unit", "midnight": "time"} | _OWN,
    "omop": {"subject_id": "person_source_value", "code": "concept_code", "midnight": "time"} | _OWN,
    "fhir": {"timezone": "UTC"},
}
_RESULTS = {"meds": {"kind": "LAB"}, "omop": {"kind": "measurement"}, "fhir": {"kind": "Observation"}}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a person; ``kind`` is "VISIT", "LAB", "FACT", "OUTCOME" or "NOTE"."""

    kind: str
    patient: str
    code: str
    name: str
    value: str
    unit: str
    time: str
    available_at: str = ""
    status: str = ""


def export(folder: Path, form: str) -> Path:
    """Write ``folder/<form>/`` and ``folder/cohort-<form>.yaml`` beside the tables of a synthetic cohort.

    Args:
        folder: holds the tables and cohort.yaml.
        form: one of :data:`FORMATS`.

    Returns:
        The cohort.yaml that reads it; one that is there already is left.

    Raises:
        ConfigError: if there is no such form.
        OutputError: if the folder cannot be written.
    """
    if form not in FORMATS:
        raise ConfigError(f"no data model {form!r}; there are {', '.join(FORMATS)}")
    told = folder / f"cohort-{form}.yaml"
    if told.exists():
        return told
    try:
        spec = yaml.safe_load((folder / "cohort.yaml").read_text())
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            made = Path(scratch) / form
            made.mkdir()
            _write(folder, made, form, spec)
            made.replace(folder / form)
        # by way of JSON, since YAML would write what occurs twice as an alias, and aliases are not read
        plain = json.loads(json.dumps(_declaration(spec, form)))
        told.write_text(yaml.safe_dump(plain, sort_keys=False))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from None
    return told


def _write(folder: Path, target: Path, form: str, spec: Mapping[str, Any]) -> None:
    outcomes = {
        name: (outcome["table"], outcome.get("column") or name) for name, outcome in spec["outcomes"].items()
    }
    names = {"records.csv", "biomarkers.csv", "notes.csv", *(table for table, _ in outcomes.values())}
    tables = {name: _rows(folder / name) for name in names}
    events = list(_events(tables, outcomes))
    sexes = {row["patient_id"]: row["sex"] for row in tables["records.csv"]}
    {"meds": _meds, "omop": _omop, "fhir": _fhir}[form](target, sexes, events)


def _rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _events(tables: Mapping[str, Sequence[Row]], outcomes: Mapping[str, tuple[str, str]]) -> Iterator[Event]:
    for row in tables["records.csv"]:
        patient, when = row["patient_id"], row["assessed_at"]
        yield Event("VISIT", patient, INDEX, "inpatient encounter", "", "", when)
        for field, (code, unit) in FIELDS.items():
            if row[field]:
                yield Event("FACT", patient, code, field, row[field], unit, when)
    columns = ("patient_id", "code", "name", "value", "unit", "collected_at", "available_at", "status")
    for row in tables["biomarkers.csv"]:
        yield Event("LAB", *(row[column] for column in columns))
    known = {
        row["patient_id"]: datetime.fromisoformat(row["assessed_at"]) + KNOWN_AFTER
        for row in tables["records.csv"]
    }
    for outcome, (table, column) in outcomes.items():
        for row in tables[table]:
            patient, label = row["patient_id"], row[column]
            if label:
                when = f"{known[patient]:%Y-%m-%d %H:%M:%S}"
                yield Event("OUTCOME", patient, outcome, outcome, label, "", when)
    for row in tables["notes.csv"]:
        yield Event("NOTE", row["patient_id"], "note", "note", row["text"], "", row["written_at"])


def _declaration(spec: dict[str, Any], form: str) -> dict[str, Any]:
    """Return the synthetic cohort.yaml as it reads for one of the formats."""

    def coded(kind: str, code: str) -> str:
        return f"{kind}//{code}" if form == "meds" else code

    index = {"table": "events", "where": {"code": coded("VISIT", INDEX)}}
    fields = {name: dict(spec["records"]["fields"][name]) for name in ("sex", *FIELDS)}
    for name, (code, _) in FIELDS.items():
        fields[name]["event"] = coded("FACT", code)
    if form == "meds":
        fields["sex"]["event"] = "FACT//sex"
    results = spec["biomarkers"]["results"]
    results = {name: result | {"code": coded("LAB", result["code"])} for name, result in results.items()}
    biomarkers = {key: part for key, part in spec["biomarkers"].items() if key not in ("table", "columns")}
    notes = {key: part for key, part in spec["notes"].items() if key not in ("table", "columns")}
    where: dict[str, Any] = dict(_RESULTS[form])
    if form == "fhir":  # there, a result and any other observation are the same resource
        where["code"] = [result["code"] for result in results.values()]
    told = spec | {
        "source": {"kind": form, "path": form} | _SOURCES[form],
        "subjects": index | {"id": "subject_id"},
        "prediction_time": index | {"column": "time", "resolution": "second"},
        "outcomes": {
            name: outcome | {"table": "events", "column": "value", "where": {"code": coded("OUTCOME", name)}}
            for name, outcome in spec["outcomes"].items()
        },
        "records": {"fields": fields},
        "biomarkers": biomarkers | {"where": where, "results": results},
        "notes": notes | ({"where": {"code": coded("NOTE", "note")}} if form == "meds" else {}),
        "never_columns": {},
    }
    if form == "meds":  # a fact without a time is static there, and ids are whole numbers
        told["records"]["events"] = {"undated": {"assume_known": "MEDS: what has no time holds at all times"}}
        told["crosswalk"] = {"table": "meds/patients.csv", "id": "subject_id", "patient_id": "patient_id"}
    return told


def _csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _number(event: Event) -> tuple[str, str]:
    """Return the number as a data model keeps it, and its comparator; "" where the cell is none."""
    found = parse_number(event.value)
    if found is None or found.value is None:
        return "", ""
    return f"{found.value!r}", found.comparator


def _meds(target: Path, sexes: Mapping[str, str], events: Sequence[Event]) -> None:
    """Source: MEDS 0.4, https://medical-event-data-standard.github.io."""
    people = {name: n for n, name in enumerate(sorted({e.patient for e in events} | set(sexes)), 1)}
    _csv(target / "patients.csv", ("subject_id", "patient_id"), [(n, name) for name, n in people.items()])
    facts = [Event("FACT", name, "sex", "sex", sex, "", "") for name, sex in sexes.items() if sex]
    rows = [(people[e.patient], f"{e.kind}//{e.code}", e.name, *_number(e), e) for e in (*facts, *events)]
    rows.sort(key=lambda row: (row[0], row[-1].time))
    columns: dict[str, tuple[str, Sequence[Any]]] = {
        "subject_id": ("BIGINT", [row[0] for row in rows]),
        "time": ("TIMESTAMP", [row[-1].time or None for row in rows]),
        "code": ("VARCHAR", [row[1] for row in rows]),
        "numeric_value": ("FLOAT", [float(row[3]) if row[3] and not row[4] else None for row in rows]),
        "text_value": ("VARCHAR", [row[-1].value or None for row in rows]),
        "unit": ("VARCHAR", [row[-1].unit or None for row in rows]),
        "available_at": ("TIMESTAMP", [row[-1].available_at or None for row in rows]),
        "status": ("VARCHAR", [row[-1].status or None for row in rows]),
    }
    (target / "data" / "train").mkdir(parents=True)
    (target / "metadata").mkdir()
    half = len(people) // 2
    with Engine(threads=1) as engine:
        engine.put("shard", columns)
        for number, which in enumerate((f"<= {half}", f"> {half}")):
            engine.copy(
                f"SELECT * FROM shard WHERE subject_id {which} ORDER BY subject_id, time NULLS FIRST",
                target / "data" / "train" / f"{number}.parquet",
                "FORMAT parquet",
            )
        engine.put(
            "codes",
            {
                "code": ("VARCHAR", list({row[1]: row[2] for row in rows})),
                "description": ("VARCHAR", list({row[1]: row[2] for row in rows}.values())),
            },
        )
        engine.copy(
            "SELECT code, description, []::VARCHAR[] AS parent_codes FROM codes",
            target / "metadata" / "codes.parquet",
            "FORMAT parquet",
        )
        engine.copy(
            f"SELECT DISTINCT subject_id, {literal('train')} AS split FROM shard",
            target / "metadata" / "subject_splits.parquet",
            "FORMAT parquet",
        )


def _omop(target: Path, sexes: Mapping[str, str], events: Sequence[Event]) -> None:
    """Source: OMOP CDM 5.4, https://ohdsi.github.io/CommonDataModel/cdm54.html."""
    people = {name: n for n, name in enumerate(sorted({e.patient for e in events} | set(sexes)), 1)}
    genders = {word: concept for concept, word in SEXES.items()}
    _csv(
        target / "person.csv",
        ("person_id", "gender_concept_id", "year_of_birth", "person_source_value", "gender_source_value"),
        [
            (n, genders.get(sexes.get(name, ""), 0), "", name, sexes.get(name, ""))
            for name, n in people.items()
        ],
    )
    words = {e.code: e.name for e in events} | {e.unit: e.unit for e in events if e.unit}
    # ids above two billion are for a site's own concepts
    concepts = {code: 2_000_000_001 + n for n, code in enumerate(sorted(words))}
    _csv(
        target / "concept.csv",
        ("concept_id", "concept_name", "concept_code"),
        [(concept, words[code], code) for code, concept in concepts.items()],
    )
    for kinds, table, stem in (
        (("LAB",), "measurement", "measurement"),
        (("FACT", "OUTCOME"), "observation", "observation"),
        (("VISIT",), "visit_occurrence", "visit"),
        (("NOTE",), "note", "note"),
    ):
        rows = [
            _omop_row(n, people[e.patient], e, concepts)
            for n, e in enumerate((e for e in events if e.kind in kinds), 1)
        ]
        start = f"{stem}_start" if table == "visit_occurrence" else stem
        _csv(target / f"{table}.csv", _omop_columns(table, stem, start), [row[table] for row in rows])


def _omop_columns(table: str, stem: str, start: str) -> tuple[str, ...]:
    head = (f"{table}_id", "person_id", f"{start}_date", f"{start}_datetime")
    if table == "note":
        return (*head, "note_class_concept_id", "note_title", "note_text")
    coded = (*head, f"{stem}_concept_id", f"{stem}_source_value")
    if table == "visit_occurrence":
        return coded
    values = ("value_as_number", "value_source_value", "unit_concept_id", "unit_source_value")
    if table == "observation":
        return (*coded, *values, "value_as_string")
    return (*coded, *values, "operator_concept_id", "available_at", "status")


def _omop_row(n: int, person: int, e: Event, concepts: Mapping[str, int]) -> Mapping[str, tuple[object, ...]]:
    head = (n, person, e.time[:10], e.time if len(e.time) > 10 else "")
    coded = (*head, concepts[e.code], e.code)
    number, comparator = _number(e)
    values = (*coded, number, e.value, concepts.get(e.unit, 0), e.unit)
    operators = {sign: concept for concept, sign in OPERATORS.items()}
    return {
        "note": (*head, 0, e.name, e.value),
        "visit_occurrence": coded,
        "observation": (*values, "" if number else e.value),
        "measurement": (*values, operators.get(comparator, 0), e.available_at, e.status),
    }


def _fhir(target: Path, sexes: Mapping[str, str], events: Sequence[Event]) -> None:
    """Source: FHIR R4, https://hl7.org/fhir/R4; one file per type, as a bulk export writes them."""
    kinds = {"VISIT": "Encounter", "NOTE": "DiagnosticReport"}
    patients = sorted({e.patient for e in events} | set(sexes))
    with (target / "Patient.ndjson").open("w", encoding="utf-8") as file:
        for name in patients:
            known = {"gender": sexes[name]} if sexes.get(name) else {}
            file.write(json.dumps({"resourceType": "Patient", "id": name} | known) + "\n")
    lines: dict[str, list[str]] = {}
    for n, e in enumerate(events, 1):
        kind = kinds.get(e.kind, "Observation")
        lines.setdefault(kind, []).append(_fhir_line(kind, n, e))
    for kind, found in lines.items():
        (target / f"{kind}.ndjson").write_text("".join(found), encoding="utf-8")


def _fhir_line(kind: str, n: int, e: Event) -> str:
    code = {"coding": [{"system": "http://loinc.org", "code": e.code, "display": e.name}]}
    resource: dict[str, Any] = {
        "resourceType": kind,
        "id": f"{e.kind.lower()}-{n}",
        "status": e.status or "final",
        "subject": {"reference": f"Patient/{e.patient}"},
    }
    time = _instant(e.time)
    if kind == "Encounter":
        resource |= {
            "status": "finished",
            "class": {"code": e.code, "display": e.name},
            "period": {"start": time},
        }
    else:
        resource |= {"code": code} | ({"effectiveDateTime": time} if time else {})
    if e.available_at:
        resource["issued"] = _instant(e.available_at)
    if kind == "DiagnosticReport":
        # a note of the synthetic cohort is known when it was written
        resource |= {"issued": resource.get("issued", time), "conclusion": e.value}
    if kind == "Observation":
        resource |= _fhir_value(e)
    # FHIR gives a decimal its precision; Python's float would drop a final 0
    return json.dumps(resource).replace('"@', "").replace('@"', "") + "\n"


def _fhir_value(e: Event) -> dict[str, Any]:
    found = parse_number(e.value)
    if found is None or found.value is None or not e.unit:
        return {"valueString": e.value} if e.value else {}
    plain = e.value.lstrip("<>=").removesuffix(found.flag).replace(",", "").strip()
    quantity: dict[str, Any] = {"value": f"@{plain}@", "system": "http://unitsofmeasure.org", "code": e.unit}
    if found.comparator:
        quantity["comparator"] = found.comparator
    flags = {"interpretation": [{"coding": [{"code": found.flag}]}]} if found.flag else {}
    return {"valueQuantity": quantity} | flags


def _instant(text: str) -> str:
    return f"{text.replace(' ', 'T')}+00:00" if len(text) > 10 else text
