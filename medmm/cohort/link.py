"""Joining a patient: from tables and a DICOM folder to one row per (subject, prediction time)."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from medmm.cohort import accounts
from medmm.cohort.archive import Archive, Candidate, Choice, candidates
from medmm.cohort.blocks import Exclusion
from medmm.cohort.flow import Account, Flow
from medmm.cohort.moments import Moment
from medmm.cohort.notes import Written, read_notes
from medmm.cohort.opened import Opened
from medmm.cohort.site import pseudonym
from medmm.cohort.spec import CohortSpec
from medmm.cohort.wide import Fields
from medmm.cohort.window import Results, keys, look_back
from medmm.columns import MISSING, FieldSpec, ResultSpec, Status, Value
from medmm.modality import Declaration
from medmm.sample import Absence, NotesSource, Patient, Source, TimedSeries
from medmm.sources.duck import THREADS, Engine

Choices = Mapping[str, Choice]
Column = TypeVar("Column", FieldSpec, ResultSpec)


@dataclass(frozen=True)
class Cohort:
    """What was known of every subject at the prediction time.

    Attributes:
        patients: sorted by ``subject_id``.
        declarations: per block, the inputs it offers: fields, results, or the image itself.
        flow: the accounting of subjects, files and results.
        excluded: per subject that is in no row of ``patients``, the reason: the name of an exclusion,
            "no_prediction_time", "no_index_study", "not_in_subjects" (a source other than the table of
            subjects knows them) or, of those asked for by name, "not_in_any_source".
        series: every candidate series of every image block, chosen or not.
        fingerprints: per (subject, block), what identifies the chosen series: its UID and file sizes.
        days: per subject, the day of the prediction time; read by a split by time, and by nothing else.
        groups: per subject, what `splits.groups` says (a family); "" where nothing is known.
    """

    spec: CohortSpec
    patients: Sequence[Patient]
    declarations: Mapping[str, Declaration]
    flow: Flow
    excluded: Mapping[str, str]
    series: Sequence[Candidate]
    fingerprints: Mapping[tuple[str, str], str] = field(repr=False, default_factory=dict)
    days: Mapping[str, float] = field(repr=False, default_factory=dict)
    groups: Mapping[str, str] = field(repr=False, default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Sha256 of the specification and of everything that entered; no key and no path is part of it."""
        hashed = hashlib.sha256(specification_text(self.spec).encode())
        for patient in self.patients:
            values = [
                (block, name, *_plain(value))
                for block, source in sorted(patient.sources.items())
                if isinstance(source, Mapping)
                for name, value in sorted(source.items())
            ]
            sequences = [
                (block, *_sequence(source))
                for block, source in sorted(patient.sources.items())
                if isinstance(source, TimedSeries | NotesSource)
            ]
            series = [self.fingerprints.get((patient.subject_id, b), "") for b in sorted(self.spec.images)]
            told = (patient.subject_id, sorted(patient.targets.items()), sorted(patient.subgroups.items()))
            hashed.update(repr((told, values, series, *sequences)).encode())
        return hashed.hexdigest()


def link(
    spec: CohortSpec,
    root: Path,
    *,
    key: bytes,
    subjects: Sequence[str] | None = None,
    outcomes: bool = True,
    index_cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Cohort:
    """Join a cohort by its keys, up to each subject's prediction time.

    Args:
        spec: the validated cohort.yaml.
        root: folder of the data.
        key: the site's key, for pseudonyms.
        subjects: only these; None for everybody. A subject comes out the same either way.
        outcomes: whether outcome tables are read (they need not exist when scoring).
        index_cache: folder in which the DICOM index is kept between runs.
        progress: called with (done, total) files while a DICOM folder is scanned.

    Raises:
        ConfigError: if a column or a code has no role.
        DataError: if a table is missing, malformed or contradicts itself.
    """
    root = Path(root)
    with Engine(threads=THREADS if subjects is None else 1) as engine:
        opened = Opened.of(engine, spec, root, subjects=subjects, outcomes=outcomes)
        archive = Archive.scan(
            spec,
            root,
            crosswalk=opened.crosswalk(),
            wanted=opened.wanted,
            cache=index_cache,
            progress=progress,
        )
        with _without_collections():
            return _join(opened, archive, key)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the garbage collector, and leave it as it was however the block ends.

    A join makes many small objects and no circles; the collector would look for some again and again. It is
    one for the whole process, so nothing but a join runs in here, and an interrupt must not leave it off.
    """
    was = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was:
            gc.enable()


@dataclass(frozen=True, slots=True)
class _Everybody:
    """What the sources say of everybody, but for their long tables.

    Attributes:
        found: ids of any source.
        predictions: of those who have a prediction time.
        clocks: how many prediction times came from where.
        labels: by outcome and subject.
        rows: the fields of the records, by subject.
        reader: what read them.
        choices: the series of every image block, by subject.
        excluded: who is left out, and why.
    """

    found: set[str]
    predictions: Mapping[str, Moment]
    clocks: Mapping[str, int]
    labels: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, Mapping[str, Value]]
    reader: Fields
    choices: Mapping[str, Choices]
    excluded: dict[str, str]

    @classmethod
    def of(cls, opened: Opened, archive: Archive, listed: Sequence[str]) -> _Everybody:
        found = {*opened.everywhere(), *archive.subjects()}
        predictions, clocks = _prediction_times(opened, archive, listed)
        labels = opened.labels()
        rows, reader = opened.records(predictions)
        choices = {subject: archive.choose(subject, moment) for subject, moment in predictions.items()}
        excluded = _without_a_row(opened, found, listed, predictions)
        excluded |= _excluded(opened, rows, choices, labels)
        return cls(found, predictions, clocks, labels, rows, reader, choices, excluded)


def _join(opened: Opened, archive: Archive, key: bytes) -> Cohort:
    spec, listed = opened.spec, opened.listed()
    everybody = _Everybody.of(opened, archive, listed)
    kept = sorted(set(everybody.predictions) - set(everybody.excluded))
    chosen = {subject: everybody.choices[subject] for subject in kept}
    results, notes = _long_tables(opened, {subject: everybody.predictions[subject] for subject in kept})
    excluded = everybody.excluded | dict.fromkeys(results.others - set(listed), "not_in_subjects")
    if spec.records and not opened.restricted:
        everybody.reader.check(spec.records)
    patients = _patients(spec, everybody, _tables(spec, results, notes), _images(archive, chosen, key), key)
    flow = Flow(
        accounts.subjects(everybody.found.union(opened.wanted or (), results.others), kept, excluded),
        archive.account(chosen),
        Account("results", results.total, dict(results.fates)),
        notes.account,
        accounts.undated(declarations(spec), patients, results),
        accounts.unparsable(everybody.reader.unparsable, results),
        dict(everybody.clocks),
        tuple(accounts.findings(opened, results, kept, everybody.predictions, excluded, key)),
    )
    rows, groups = everybody.rows, spec.splits.groups
    return Cohort(
        spec,
        patients,
        declarations(spec),
        flow,
        dict(sorted(excluded.items())),
        tuple(candidates(chosen, key)),
        archive.fingerprints(chosen),
        {subject: everybody.predictions[subject].day for subject in kept},
        {subject: rows[subject][groups].text for subject in kept if groups},
    )


def _patients(
    spec: CohortSpec,
    everybody: _Everybody,
    told: Callable[[Mapping[str, Value], int], dict[str, Source]],
    series: Mapping[str, dict[str, Source]],
    key: bytes,
) -> tuple[Patient, ...]:
    """Return those who are in, in the order of ``series``."""
    rows, labels = everybody.rows, everybody.labels
    return tuple(
        Patient(
            subject,
            pseudonym(key, subject),
            told(rows.get(subject, {}), place) | images,
            {name: found[subject] for name, found in labels.items() if subject in found},
            {name: rows[subject][name].text for name in spec.subgroups},
        )
        for place, (subject, images) in enumerate(series.items())
    )


def declarations(spec: CohortSpec) -> dict[str, Declaration]:
    """Return what each block offers to a model.

    Fields of role ``input`` as ``records``; results of role ``input`` by their summaries as ``biomarkers``
    and, of those declared ``series: true``, one by one as ``series``; the notes declared as ``input``; every
    image.
    """
    offered: dict[str, Declaration] = {}
    if spec.records and inputs(spec.records.fields):
        offered["records"] = inputs(spec.records.fields)
    results = inputs(spec.biomarkers.results) if spec.biomarkers else {}
    if any(result.summaries for result in results.values()):
        offered["biomarkers"] = {name: result for name, result in results.items() if result.summaries}
    if any(result.series for result in results.values()):
        offered["series"] = {name: result for name, result in results.items() if result.series}
    if spec.notes and spec.notes.input:
        offered["notes"] = spec.notes.input
    return offered | spec.images


def inputs(declared: Mapping[str, Column]) -> dict[str, Column]:
    """Return the fields or results of role `input`, in the order they were declared."""
    return {name: column for name, column in declared.items() if column.role == "input"}


def specification_text(spec: CohortSpec) -> str:
    """Return the specification as canonical JSON, without where its data lie."""
    # A cohort whose dates are all ISO 8601 is the same as before other forms could be declared.
    unsaid = {"root"} if spec.dates else {"root", "dates"}
    return json.dumps(spec.model_dump(mode="json", exclude=unsaid), sort_keys=True)


def _prediction_times(
    opened: Opened, archive: Archive, listed: Sequence[str]
) -> tuple[dict[str, Moment], Mapping[str, int]]:
    if not opened.spec.prediction_time.from_image:
        return opened.prediction_times(listed)
    found = {subject: when for subject in listed if (when := archive.prediction_time(subject))}
    clocks = [clock for _, clock in found.values()]
    times = {subject: moment for subject, (moment, _) in found.items()}
    return times, {clock: clocks.count(clock) for clock in sorted(set(clocks))}


def _without_a_row(
    opened: Opened, found: set[str], listed: Sequence[str], predictions: Mapping[str, Moment]
) -> dict[str, str]:
    """Return why those whom nothing can be said of are left out."""
    no_time = "no_index_study" if opened.spec.prediction_time.from_image else "no_prediction_time"
    reasons = dict.fromkeys(set(opened.wanted or ()) - found, "not_in_any_source")
    reasons |= dict.fromkeys(found - set(listed), "not_in_subjects")
    return reasons | dict.fromkeys(set(listed) - set(predictions), no_time)


def _excluded(
    opened: Opened,
    rows: Mapping[str, Mapping[str, Value]],
    choices: Mapping[str, Choices],
    labels: Mapping[str, Mapping[str, float]],
) -> dict[str, str]:
    """Return, per subject, the first declared reason that applies; no outcome, when none is read."""
    found: dict[str, str] = {}
    for reason, exclusion in opened.spec.exclusions.items():
        for subject, chosen in choices.items():
            if exclusion.field is not None:
                applies = _field_excludes(exclusion, rows[subject].get(exclusion.field, MISSING))
            elif exclusion.image is not None:
                applies = not chosen[exclusion.image].taken
            else:
                applies = opened.outcomes and subject not in labels[exclusion.outcome or ""]
            if applies:
                found.setdefault(subject, reason)
    return found


def _field_excludes(exclusion: Exclusion, value: Value) -> bool:
    if exclusion.missing:
        return value.status is not Status.KNOWN
    if exclusion.equals is not None:
        return str(exclusion.equals) in (value.text, str(value.value))
    if not isinstance(value.value, float):
        return False
    below = exclusion.below is not None and value.value < exclusion.below
    return below or (exclusion.above is not None and value.value > exclusion.above)


def _long_tables(opened: Opened, kept: Mapping[str, Moment]) -> tuple[Results, Written]:
    """Window the results and the notes of the kept subjects, numbered in their order."""
    spec, moments = opened.spec, list(kept.values())
    columns = {
        "subject": ("INTEGER", range(len(kept))),
        "id": ("VARCHAR", list(kept)),
        "t_day": ("DOUBLE", [moment.day for moment in moments]),
        "t_us": ("BIGINT", [moment.instant_us for moment in moments]),
        "t_aware": ("BOOLEAN", [moment.aware for moment in moments]),
    }
    opened.engine.put("kept", columns)
    same_day, restricted = spec.same_day.results == "known", opened.restricted
    results, notes = Results({}, {}, 0, 0), Written(Account("notes", 0, {}), {})
    if spec.biomarkers:
        results = look_back(
            opened.engine,
            spec.biomarkers,
            opened.table(spec.biomarkers),
            spec.biomarkers.columns.id or spec.subjects.id,
            same_day=same_day,
            restricted=restricted,
        )
    if spec.notes:
        table = opened.table(spec.notes)
        id_column = spec.notes.columns.id or spec.subjects.id
        notes = read_notes(
            opened.engine, spec.notes, table, id_column, same_day=same_day, restricted=restricted
        )
    return results, notes


def _tables(
    spec: CohortSpec, results: Results, notes: Written
) -> Callable[[Mapping[str, Value], int], dict[str, Source]]:
    """Return what tells, of a row of the records and a position among the kept, what the tables say."""
    offered = declarations(spec)
    fields = list(inputs(spec.records.fields)) if spec.records else []
    nothing = dict.fromkeys(keys(inputs(spec.biomarkers.results)) if spec.biomarkers else (), MISSING)

    def told(row: Mapping[str, Value], place: int) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        if "records" in offered:
            sources["records"] = {name: row[name] for name in fields}
        if "biomarkers" in offered:
            sources["biomarkers"] = results.rows.get(place) or dict(nothing)
        if "series" in offered:
            sources["series"] = results.courses.get(place) or Absence("no_results")
        if "notes" in offered:
            sources["notes"] = notes.texts.get(place) or Absence("no_notes")
        return sources

    return told


def _images(archive: Archive, chosen: Mapping[str, Choices], key: bytes) -> dict[str, dict[str, Source]]:
    """Return, per subject, the series of every image block, or why there is none."""
    return {
        subject: {block: archive.source(block, choice, key) for block, choice in choices.items()}
        for subject, choices in chosen.items()
    }


def _sequence(source: TimedSeries | NotesSource) -> tuple[object, ...]:
    if isinstance(source, NotesSource):
        return (source.texts, source.offset_days)
    return (source.names, source.offset_days, source.code, source.value, source.comparator)


def _plain(value: Value) -> tuple[object, ...]:
    status = value.status.value
    return (value.value, status, value.text, value.comparator, value.offset_days, value.undated)
