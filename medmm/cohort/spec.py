"""cohort.yaml: tables, keys, the role of every column, the prediction time, windows, outcomes, splits.

The file says nothing about models. ``load_spec`` reads it; :mod:`medmm.cohort.link` applies it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from medmm.catalogue import with_catalogue
from medmm.cohort.blocks import (
    BLOCKS,
    Biomarkers,
    Crosswalk,
    Exclusion,
    Name,
    Notes,
    PredictionTime,
    Reason,
    Records,
    SameDay,
    Subjects,
)
from medmm.cohort.dates import DateForm
from medmm.cohort.decimals import Numbers, numbers_of
from medmm.cohort.declare import did_you_mean, read_yaml, refuse_questions, validated
from medmm.cohort.division import Splits
from medmm.cohort.origin import Source, with_source
from medmm.cohort.outcomes import OutcomeSpec
from medmm.columns import Declared, ImageSpec
from medmm.errors import UNUSABLE_PATH, ConfigError, told
from medmm.sources.fhir import known_zone


class CohortSpec(Declared):
    """A whole cohort.yaml.

    Attributes:
        root: folder of the data; None when the caller names it.
        source: a data model that offers the tables `subjects`, `events` and `notes`, beside the files.
        dates: per table, columns whose dates are not ISO 8601, and how they are written.
        timezone: local time of the site, to which instants with an offset from UTC are converted.
        decimal_comma: tables that write one and a half as "1,5".
        never_tables: tables that no model may see, and why.
        never_columns: per table, columns outside `records.fields` that no model may see, and why.
        deidentification: what was done to the data before it came here, in a sentence.
    """

    schema_version: Literal[1] = 1
    name: Name
    title: str | None = None
    root: str | None = None
    deidentification: str | None = None
    source: Source | None = None
    subjects: Subjects
    prediction_time: PredictionTime
    same_day: SameDay = SameDay()
    outcomes: dict[Name, OutcomeSpec] = Field(default_factory=dict)
    records: Records | None = None
    biomarkers: Biomarkers | None = None
    notes: Notes | None = None
    images: dict[Name, ImageSpec] = Field(default_factory=dict)
    crosswalk: Crosswalk | None = None
    dates: dict[str, dict[str, DateForm]] = Field(default_factory=dict)
    timezone: Annotated[str, AfterValidator(known_zone)] | None = None
    decimal_comma: tuple[str, ...] = ()
    never_tables: dict[str, Reason] = Field(default_factory=dict)
    never_columns: dict[str, dict[str, Reason]] = Field(default_factory=dict)
    exclusions: dict[Name, Exclusion] = Field(default_factory=dict)
    splits: Splits = Splits()

    @model_validator(mode="before")
    @classmethod
    def _from_source(cls, values: Any) -> Any:
        return with_source(values) if isinstance(values, dict) and values.get("source") else values

    @model_validator(mode="after")
    def _coherent(self) -> CohortSpec:
        self._check_names()
        self._check_clock()
        self._check_dates()
        self._check_forms()
        self._check_tables()
        return self

    @property
    def subgroups(self) -> tuple[str, ...]:
        """Names of the fields with role `subgroup`."""
        fields = self.records.fields if self.records else {}
        return tuple(name for name, field in fields.items() if field.role == "subgroup")

    @property
    def used_tables(self) -> tuple[str, ...]:
        """Every table that is read, sorted."""
        parts = (self.subjects, self.records, self.biomarkers, self.notes, self.crosswalk)
        tables = {part.table for part in parts if part is not None}
        if self.records and self.records.events:
            tables.add(self.records.events.table)
        tables |= {outcome.table for outcome in self.outcomes.values()}
        if self.prediction_time.table:
            tables.add(self.prediction_time.table)
        return tuple(sorted(tables))

    @property
    def date_columns(self) -> dict[str, set[str]]:
        """Per table, the columns that are read as dates or datetimes."""
        found: dict[str, set[str]] = defaultdict(set)
        if self.prediction_time.table and self.prediction_time.column:
            found[self.prediction_time.table].add(self.prediction_time.column)
        events = self.records.events if self.records else None
        for part in (self.biomarkers, self.notes, events):
            if part is not None:
                clocks = (part.columns.time, part.columns.available_at)
                found[part.table].update(clock for clock in clocks if clock)
        for name, field in (self.records.fields if self.records else {}).items():
            if self.records and field.age_from:
                found[self.records.table].add(field.age_from)
            elif self.records and field.kind == "date" and not field.event:
                found[self.records.table].add(name)
            elif events and field.kind == "date":
                found[events.table].add(events.columns.value)
        return dict(found)

    def number_columns(self, table: str) -> dict[str, Numbers]:
        """Return the columns of a table that are read as numbers."""
        return numbers_of(table, self.records, self.biomarkers, self.outcomes)

    def missing_dates(self, table: str) -> dict[str, tuple[str, ...]]:
        """Return, per column of a table, the words that mean that its date is missing."""
        found: dict[str, tuple[str, ...]] = defaultdict(tuple)
        if self.records is None:
            return {}
        events = self.records.events
        for name, field in self.records.fields.items():
            if not field.event and table == self.records.table:
                found[field.age_from or name] += field.missing_codes
            elif field.event and events and table == events.table:
                found[events.columns.value] += field.missing_codes
        return dict(found)

    def _check_names(self) -> None:
        taken = set(BLOCKS) & set(self.images)
        if taken:
            raise ValueError(f"{sorted(taken)} cannot name an image block; they are table blocks")
        strata = [*self.outcomes, *self.subgroups, *self.images]
        for word in self.splits.stratify:
            if word not in strata:
                raise ValueError(
                    f"splits.stratify: {word!r} is no outcome, subgroup or image block"
                    + did_you_mean(word, strata)
                )
            if word in self.outcomes and self.outcomes[word].kind == "regression":
                raise ValueError(f"splits.stratify: {word!r} is a quantity, and strata are made of classes")
        fields = list(self.records.fields) if self.records else []
        for key, named, what, having in (
            ("groups", self.splits.groups, "field of the records", fields),
            ("site", self.splits.site, "subgroup", list(self.subgroups)),
        ):
            if named is not None and named not in having:
                raise ValueError(f"splits.{key}: {named!r} is no {what}" + did_you_mean(named, having))
        for reason, exclusion in self.exclusions.items():
            known, word = next(
                (known, word)
                for known, word in (
                    (fields, exclusion.field),
                    (list(self.outcomes), exclusion.outcome),
                    (list(self.images), exclusion.image),
                )
                if word is not None
            )
            if word not in known:
                raise ValueError(f"exclusions.{reason}: {word!r} is not declared" + did_you_mean(word, known))

    def _check_clock(self) -> None:
        time = self.prediction_time
        if time.from_image is not None:
            block = self.images.get(time.from_image)
            if block is None:
                raise ValueError(
                    "prediction_time.from_image names no image block"
                    + did_you_mean(time.from_image, list(self.images))
                )
            if block.choose not in ("first", "last"):
                raise ValueError(
                    f"images.{time.from_image}: the study that defines the prediction time"
                    " is chosen `first` or `last`"
                )
        by_day = time.day is not None
        for name, image in self.images.items():
            self._check_mask(name, image)
            if (image.time == "longitudinal_offset") > by_day:
                raise ValueError(
                    f"images.{name}: longitudinal_offset counts days; it needs prediction_time {{day: …}}"
                )
        for name, part in (("biomarkers", self.biomarkers), ("notes", self.notes)):
            if part is None:
                continue
            if by_day and part.columns.time:
                raise ValueError(
                    f"{name}.columns: the prediction time is a day number; map `day`, not `time`"
                )
            if not by_day and part.columns.day:
                raise ValueError(f"{name}.columns: the prediction time is a date; map `time`, not `day`")

    def _check_mask(self, name: str, image: ImageSpec) -> None:
        source = image.mask.block if image.mask else None
        if source is None:
            return
        maps = [block for block, other in self.images.items() if other.kind == "label_map"]
        if source not in maps:
            raise ValueError(
                f"images.{name}.mask: {source!r} is no label_map block" + did_you_mean(source, maps)
            )

    def _check_dates(self) -> None:
        looked_at = {exclusion.field for exclusion in self.exclusions.values()}
        fields = self.records.fields if self.records and self.prediction_time.day is not None else {}
        for name, field in fields.items():
            if field.kind == "date" and (field.role in ("input", "subgroup") or name in looked_at):
                raise ValueError(
                    f"records.fields.{name}: a date cannot be compared with a day number; count days"
                )

    def _check_forms(self) -> None:
        read = self.date_columns
        for table, forms in self.dates.items():
            for column in forms:
                if column not in read.get(table, ()):
                    dated = [f"{table}: {column}" for table, columns in read.items() for column in columns]
                    raise ValueError(
                        f"dates: {table}: {column} is read as no date"
                        + did_you_mean(f"{table}: {column}", dated)
                    )
        for table in self.decimal_comma:
            if not self.number_columns(table):
                raise ValueError(
                    f"decimal_comma: {table!r} is read for no numbers"
                    + did_you_mean(table, list(self.used_tables))
                )
        self._check_filters()

    def _check_filters(self) -> None:
        events = self.records.events if self.records else None
        parts = (self.subjects, self.prediction_time, events, self.biomarkers, self.notes)
        for part in (*parts, *self.outcomes.values()):
            table = part.table or "" if part else ""
            numbers = self.number_columns(table) if table in self.decimal_comma else {}
            for column in part.where if part else ():
                for key, rewritten in (
                    ("dates", {*self.dates.get(table, {})}),
                    ("decimal_comma", {*numbers}),
                ):
                    if column in rewritten:
                        raise ValueError(
                            f"{key}: {column} is also in a `where`, which compares words as they are"
                            " written; choose the rows by another column"
                        )

    def _check_tables(self) -> None:
        used = self.used_tables
        for table in self.never_tables:
            if table in used:
                raise ValueError(f"never_tables: {table!r} is read elsewhere in this file; it cannot be both")
        for table in self.never_columns:
            if table not in used:
                raise ValueError(f"never_columns: {table!r} is not read" + did_you_mean(table, list(used)))
        for name, field in (self.records.fields if self.records else {}).items():
            if field.role == "outcome" and not self._is_outcome(name):
                raise ValueError(
                    f"records.fields.{name} has role `outcome`, but no outcome reads that column"
                )
            if field.role == "input" and field.event is None and self._is_outcome(name):
                raise ValueError(
                    f"records.fields.{name} is an `input`, and an outcome reads that column: a model would"
                    " be given the answer; its role is `outcome`"
                )

    def _is_outcome(self, column: str) -> bool:
        table = self.records.table if self.records else None
        return any(o.table == table and column in o.columns(n) for n, o in self.outcomes.items())


def load_spec(path: Path) -> CohortSpec:
    """Read a cohort.yaml, or the one in a folder; a relative `root` is taken from where the file lies.

    Raises:
        ConfigError: if it cannot be read, means nothing, or still holds questions of a draft.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "cohort.yaml"
    values, text = read_yaml(path)
    refuse_questions(path, text)
    spec = validated(CohortSpec, with_catalogue(values), where=str(path))
    if spec.root is None:
        return spec
    return spec.model_copy(update={"root": str((path.parent / spec.root).resolve())})


def data_root(spec: CohortSpec, root: Path | None = None) -> Path:
    """Return the folder of the data: ``root``, else MEDMM_ROOT, else the file's own `root`.

    Raises:
        ConfigError: if none is given, or it is no folder.
    """
    given = root or os.environ.get("MEDMM_ROOT") or spec.root
    if not given:
        raise ConfigError(
            f"cohort {spec.name!r} does not say where its data lie; pass --root DIR or set MEDMM_ROOT"
        )
    try:
        folder = Path(given).expanduser().resolve()
    except UNUSABLE_PATH as error:
        raise ConfigError(f"the data root cannot be looked up ({told(error)}); pass --root DIR") from None
    if not folder.is_dir():
        raise ConfigError(f"the data root {folder} is no folder; pass --root DIR")
    return folder
