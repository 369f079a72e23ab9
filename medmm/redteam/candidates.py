"""Everything of a cohort that is tried as a predictor, column by column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from medmm.cohort.link import Cohort
from medmm.cohort.spec import CohortSpec
from medmm.columns import FieldSpec, Status
from medmm.redteam.columns import Cell, Column, Family, gaps
from medmm.redteam.headers import columns_of
from medmm.sample import Patient, SeriesSource, Source

WITHHELD = "withheld__"
"""Before the name of a column that no model sees, while its cells are read to be tried."""
SITE = re.compile(r"cent(er|re)|site|hospital|institution|clinic|facility|ward|department", re.IGNORECASE)
NOT_CLINICAL: tuple[tuple[Family, re.Pattern[str]], ...] = (
    ("site", SITE),
    (
        "scanner",
        re.compile(r"scanner|manufacturer|vendor|(^|_)device|(^|_)kvp|kernel|protocol", re.IGNORECASE),
    ),
    (
        "count",
        re.compile(
            r"(^|_)(n|num|number|count)_?(of_)?(image|serie|stud|scan|slice|visit|exam)", re.IGNORECASE
        ),
    ),
    ("order", re.compile(r"(^|_)(id|uid|mrn|accession|row|index)(_?(number|nr|no))?$", re.IGNORECASE)),
)
"""Names of columns that say how a patient was examined; as inputs they are tried as such too."""
_TAIL = re.compile(r"(\d+)\D*$")

Progress = Callable[[str, int, int], None]


def with_withheld(spec: CohortSpec) -> CohortSpec:
    """Return a specification that reads the records' withheld columns too, so that they can be tried."""
    records = spec.records
    if records is None:
        return spec
    unused = {name: field for name, field in records.fields.items() if field.role == "never"}
    unused |= {name: FieldSpec(role="never", why=why) for name, why in _unused_columns(spec).items()}
    read = {
        name: field.model_copy(update={"role": "input", "label": WITHHELD}) for name, field in unused.items()
    }
    fields = {name: read.get(name, field) for name, field in (records.fields | read).items()}
    never = {table: why for table, why in spec.never_columns.items() if table != records.table}
    changed = records.model_copy(update={"fields": fields})
    return spec.model_copy(update={"records": changed, "never_columns": never})


def _unused_columns(spec: CohortSpec) -> Mapping[str, str]:
    return spec.never_columns.get(spec.records.table, {}) if spec.records else {}


def columns(cohort: Cohort, *, progress: Progress | None = None) -> tuple[list[Column], list[str]]:
    """Return every column that is tried, and notes on what could not be read.

    Args:
        cohort: linked with :func:`with_withheld`.
        progress: called with (stage, done, total).
    """
    found = [*_fields(cohort), *_subgroups(cohort), *_order(cohort), *_days(cohort), *_counts(cohort)]
    notes: list[str] = []
    for block in cohort.spec.images:
        found.append(
            Column(block, "missing", ["known" if chosen(p, block) else "missing" for p in cohort.patients])
        )
        series = [source.files if (source := chosen(p, block)) else None for p in cohort.patients]
        has = np.array([files is not None for files in series])
        stage = None if progress is None else partial(progress, "reading headers")
        facts, unread = columns_of(series, progress=stage)
        if unread:
            notes.append(f"{unread} headers of {block} could not be read")
        found += [Column(f"{block}: {name}", family, cells, has) for name, (family, cells) in facts.items()]
    return [column for column in found if column.distinct > 1 and _varies(column)], notes


def _varies(column: Column) -> bool:
    """Whether the column differs among those whom it can be asked of."""
    if column.eligible is None:
        return True
    return len({cell for cell, asked in zip(column.cells, column.eligible, strict=True) if asked}) > 1


def chosen(patient: Patient, block: str) -> SeriesSource | None:
    """Return the series that a patient has in an image block, or None."""
    source: Source = patient.sources[block]
    return source if isinstance(source, SeriesSource) else None


def _fields(cohort: Cohort) -> Iterator[Column]:
    for block, declared in cohort.declarations.items():
        if block in cohort.spec.images or not isinstance(declared, Mapping):
            continue
        first = next((p.sources[block] for p in cohort.patients if isinstance(p.sources[block], Mapping)), {})
        for name in first if isinstance(first, Mapping) else ():
            field = declared.get(name)
            withheld = isinstance(field, FieldSpec) and field.label == WITHHELD
            cells = [_cell(patient.sources[block], name) for patient in cohort.patients]
            column = Column(f"{block}.{name}", "withheld" if withheld else "field", cells)
            yield column
            if not withheld:
                yield gaps(column)
                for family, named in NOT_CLINICAL:
                    if named.search(name):
                        yield Column(f"input {block}.{name}", family, cells)


def _cell(source: Source, name: str) -> Cell:
    if not isinstance(source, Mapping):
        return None
    value = source[name]
    if value.status is Status.KNOWN:
        return value.value
    return value.text or "unreadable" if value.status is Status.UNPARSABLE else None


def _subgroups(cohort: Cohort) -> Iterator[Column]:
    for name in cohort.spec.subgroups:
        family: Family = "site" if SITE.search(name) else "field"
        cells = [patient.subgroups.get(name) or None for patient in cohort.patients]
        yield Column(f"subgroup {name}", family, cells)


def _order(cohort: Cohort) -> Iterator[Column]:
    """The subjects' ids: the number at their end, and what stands before it."""
    ids = [patient.subject_id for patient in cohort.patients]
    tails = [_TAIL.search(text) for text in ids]
    yield Column("number in the id", "order", [float(found[1][-15:]) if found else None for found in tails])
    heads = [text[: found.start()] if found else "" for text, found in zip(ids, tails, strict=True)]
    if len(set(heads)) < len(heads) / 2:
        yield Column("prefix of the id", "order", list(heads))


def _days(cohort: Cohort) -> Iterator[Column]:
    """The prediction time: where cases come from other years than controls, more than the disease differs."""
    days = [cohort.days.get(patient.subject_id) for patient in cohort.patients]
    yield Column("date of the prediction time", "date", days)
    yield Column(
        "weekday of the prediction time", "date", [None if d is None else f"{d % 7:.0f}" for d in days]
    )


def _counts(cohort: Cohort) -> Iterator[Column]:
    """How much there is of each patient; what came after the prediction time counts too."""
    for block in cohort.spec.images:
        of = [item for item in cohort.series if item.block == block]
        series = Counter(item.subject for item in of)
        files: Counter[str] = Counter()
        for item in of:
            files[item.subject] += item.files
        days = {item.subject: set[float | None]() for item in of}
        for item in of:
            days[item.subject].add(item.offset_days)
        has = np.array([series[patient.pseudonym] > 0 for patient in cohort.patients])
        for what, counted in (
            ("series", series),
            ("files", files),
            ("different days", Counter({subject: len(found) for subject, found in days.items()})),
        ):
            cells = [float(counted[patient.pseudonym]) for patient in cohort.patients]
            yield Column(f"{block}: number of {what}", "count", list(cells), has)
    for block in ("records", "biomarkers"):
        if block in cohort.declarations:
            known = [_known(patient.sources[block]) for patient in cohort.patients]
            yield Column(f"{block}: number of known fields", "missing", list(known))


def _known(source: Source) -> float:
    if not isinstance(source, Mapping):
        return 0.0
    return float(sum(value.status is Status.KNOWN for value in source.values()))
