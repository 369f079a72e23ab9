"""The blocks of cohort.yaml: people, prediction time, records, results, notes, and who is left out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from medmm.cohort.division import Share
from medmm.cohort.origin import Filter
from medmm.columns import AssumeKnown, Declared, FieldSpec, NotesSpec, ResultSpec

BLOCKS = ("records", "biomarkers", "series", "notes")
"""Names of the blocks that are not images."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Reason = Annotated[str, StringConstraints(min_length=3)]
Undated = Literal["refuse"] | AssumeKnown
Knowledge = Literal["known", "not_known"]


class Subjects(Declared):
    """The table whose rows are the people of the cohort, one row each."""

    table: str
    id: str
    where: Filter = Field(default_factory=dict)


class PredictionTime(Declared):
    """The inclusive end of usable data, in one of three forms.

    ``{table, column, resolution}``: a date or datetime of a table; ``{day: 0}``: day ``day`` of sources that
    know only day offsets; ``{from_image: block}``: when the chosen series of that block was acquired.
    """

    table: str | None = None
    column: str | None = None
    where: Filter = Field(default_factory=dict)
    resolution: Literal["day", "second"] = "day"
    day: int | None = None
    from_image: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> PredictionTime:
        forms = [
            self.table is not None or self.column is not None,
            self.day is not None,
            bool(self.from_image),
        ]
        if sum(forms) != 1:
            raise ValueError("give one of {table, column, resolution}, {day: 0} or {from_image: block}")
        if forms[0] and not (self.table and self.column):
            raise ValueError("a prediction time from a table needs `table` and `column`")
        return self


class SameDay(Declared):
    """Whether what shares the prediction day, without a time of day, was known.

    ``results`` holds for biomarkers, notes and dates among the records alike.
    """

    index_study: Knowledge = "not_known"
    results: Knowledge = "not_known"


class ResultColumns(Declared):
    """Which column of a long table holds what; ``time`` holds datetimes, ``day`` day offsets."""

    id: str | None = None
    code: str | None = None
    name: str | None = None
    value: str = "value"
    unit: str | None = None
    time: str | None = None
    day: str | None = None
    available_at: str | None = None
    status: str | None = None

    @model_validator(mode="after")
    def _one_clock(self) -> ResultColumns:
        if self.time and self.day:
            raise ValueError("a result has its `time` or its `day`, not both")
        if not (self.code or self.name):
            raise ValueError("a long table needs a `code` or a `name` column")
        return self


class Events(Declared):
    """A long table that record fields are read from, by their `event`.

    Attributes:
        undated: what becomes of an event without a time.
        no_unit: what becomes of a number without a unit where its field declares one.
    """

    table: str
    columns: ResultColumns
    where: Filter = Field(default_factory=dict)
    undated: Undated = "refuse"
    no_unit: Literal["refuse"] | AssumeKnown = "refuse"


class Records(Declared):
    """A wide table: one row per subject, one declared role per column; some fields may come from events."""

    table: str
    id: str | None = None
    events: Events | None = None
    fields: dict[str, FieldSpec]
    max_unparsable: Share = 0.05

    @model_validator(mode="after")
    def _events_declared(self) -> Records:
        for name, field in self.fields.items():
            if field.event is not None and self.events is None:
                raise ValueError(
                    f"field {name!r} is read from events; say under `events` which table has them"
                )
        return self

    @property
    def columns(self) -> dict[str, FieldSpec]:
        """The fields that are columns of the table."""
        return {name: f for name, f in self.fields.items() if f.event is None and not f.age_from}


class Biomarkers(Declared):
    """A long table: any number of timed results per subject.

    Attributes:
        undated: what becomes of a result without a time.
        no_unit: what becomes of a result without a unit where its code declares one.
        units: how this source spells a unit, and the UCUM unit that is meant ({"K/uL": "10*3/uL"}).
        other_results: why codes that are not listed are never used; without it, each must be listed.
        duplicates: of differing values at one time (after corrected > final > preliminary), which is taken.
        max_unparsable: largest share of a code's results that may fail to parse.
    """

    table: str
    columns: ResultColumns
    where: Filter = Field(default_factory=dict)
    results: dict[Name, ResultSpec]
    undated: Undated = "refuse"
    no_unit: Literal["refuse"] | AssumeKnown = "refuse"
    units: dict[str, str] = Field(default_factory=dict)
    other_results: Reason | None = None
    duplicates: Literal["highest", "lowest"] = "highest"
    max_unparsable: Share = 0.05

    @model_validator(mode="after")
    def _identifiable(self) -> Biomarkers:
        seen: set[tuple[str, str]] = set()
        for name, result in self.results.items():
            if result.role not in ("input", "never"):
                raise ValueError(f"result {name!r}: the role of a result is `input` or `never`")
            by, word = ("code", result.code) if result.code else ("name", result.name)
            if getattr(self.columns, by) is None:
                raise ValueError(f"result {name!r} is found by `{by}`, but columns.{by} is not mapped")
            if (by, str(word)) in seen:
                raise ValueError(f"two results are found by the {by} {word!r}")
            seen.add((by, str(word)))
        return self


class NoteColumns(Declared):
    """Which column of a table of notes holds what; ``time`` holds datetimes, ``day`` day offsets."""

    id: str | None = None
    text: str
    time: str | None = None
    day: str | None = None
    available_at: str | None = None

    @model_validator(mode="after")
    def _one_clock(self) -> NoteColumns:
        if self.time and self.day:
            raise ValueError("a note has its `time` or its `day`, not both")
        return self


class Notes(Declared):
    """A table of clinical notes; accounted for in the flow, and read by a model where ``input`` says so."""

    table: str
    columns: NoteColumns
    where: Filter = Field(default_factory=dict)
    undated: Undated = "refuse"
    input: NotesSpec | None = None


class Crosswalk(Declared):
    """A table that says which PatientID (of which issuer) belongs to which subject."""

    table: str
    id: str
    patient_id: str
    issuer: str | None = None


class Exclusion(Declared):
    """One reason to leave a subject out: a condition on a field, an outcome or an image block."""

    field: str | None = None
    outcome: str | None = None
    image: str | None = None
    below: float | None = None
    above: float | None = None
    equals: str | int | None = None
    missing: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> Exclusion:
        if sum(item is not None for item in (self.field, self.outcome, self.image)) != 1:
            raise ValueError("an exclusion looks at one `field`, `outcome` or `image`")
        if sum(item is not None for item in (self.below, self.above, self.equals, self.missing)) != 1:
            raise ValueError("an exclusion has one condition: `below`, `above`, `equals` or `missing: true`")
        if self.field is None and self.missing is None:
            raise ValueError("of an outcome or an image, only `missing: true` excludes")
        return self
