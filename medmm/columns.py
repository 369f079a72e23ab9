"""What a cohort declares of one field, one result code or one kind of image, and one value of it.

Units are UCUM strings throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Role = Literal["input", "subgroup", "key", "time", "outcome", "never"]
Kind = Literal["number", "category", "ordinal", "date", "flag", "text"]
Scale = Literal["linear", "log"]
Summary = Literal["last", "first", "min", "max", "mean", "count", "slope", "time_since_last"]


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("a range is [low, high], two finite numbers, the lower first")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Words = tuple[str, ...]


class Declared(BaseModel):
    """Base of everything a person writes in YAML: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Named(Declared):
    """What a field or a result is called, and by which terms others know it.

    ``label: {en: Sodium, zh: 钠}`` may stand for ``label`` and ``label_zh``.

    Attributes:
        label: in English; what pages print.
        label_zh: in Chinese.
        code: of the source, usually LOINC.
        snomed: SNOMED CT concept id, digits.
    """

    label: str | None = None
    label_zh: str | None = None
    code: str | None = None
    snomed: Annotated[str, Field(pattern=r"^[0-9]{6,18}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _both_languages(cls, values: Any) -> Any:
        label = values.get("label") if isinstance(values, dict) else None
        if not isinstance(label, dict):
            return values
        if set(label) - {"en", "zh"} or "en" not in label:
            raise ValueError("a label in several languages is {en: …, zh: …}")
        return {**values, "label": label["en"]} | ({"label_zh": label["zh"]} if "zh" in label else {})


class FieldSpec(Named):
    """One clinical field with at most one value per patient: a column of a wide table, or found by events.

    Attributes:
        scale: on which a model sees a number; ``log`` for what ranges over magnitudes.
        event: the code of the events that it is read from, instead of a column: the last one known at the
            prediction time. A flag is "yes" where there is one that has no value of its own.
        window_days: how far back such an event may lie; None for any time.
        absent: what a patient without such an event has ("no"); None for a missing value.
        age_from: the column of birth dates of which a number is the completed years at the prediction time.
    """

    role: Role
    kind: Kind = "category"
    unit: str | None = None
    plausible: Range | None = None
    reference: Range | None = None
    missing_codes: Words = ()
    levels: Words = ()
    scale: Scale = "linear"
    event: str | None = None
    window_days: Annotated[float, Field(gt=0)] | None = None
    absent: str | None = None
    age_from: str | None = None
    why: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> FieldSpec:
        if self.event is None and (self.window_days is not None or self.absent is not None):
            raise ValueError("`window_days` and `absent` speak of events; name their code as `event`")
        if self.age_from is not None and (self.kind != "number" or self.event is not None):
            raise ValueError("`age_from` makes a field of kind `number`, and takes the place of `event`")
        if self.scale != "linear" and self.kind != "number":
            raise ValueError("a `scale` is of a field of kind `number`")
        if self.role == "never" and not self.why:
            raise ValueError("a column that is never used says `why`")
        if self.kind == "ordinal" and len(self.levels) < 2:
            raise ValueError("an ordinal field lists its `levels`, lowest first")
        return self


class ResultSpec(Named):
    """One code of a long table: a biomarker with any number of timed results per patient.

    Attributes:
        limits: the limits of detection in the declared unit, taken for a recorded "-inf" or "inf".
        summary: what becomes of the results in the window: ``slope`` is the least-squares slope in units per
            day (missing below two times), ``time_since_last`` is in days; an empty list for none.
        scale: on which a model sees the values; ``log`` for what ranges over magnitudes.
        series: whether all results in the window also go, one by one, to the block ``series``.
    """

    role: Role
    kind: Literal["number"] = "number"
    name: str | None = None
    unit: str | None = None
    molar_mass_g_per_mol: Annotated[float, Field(gt=0)] | None = None
    plausible: Range | None = None
    reference: Range | None = None
    limits: Range | None = None
    summary: Summary | tuple[Summary, ...] = "last"
    series: bool = False
    window_days: Annotated[float, Field(gt=0)] | None = None
    scale: Scale = "linear"
    missing_codes: Words = ()
    why: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ResultSpec:
        if (self.code is None) == (self.name is None):
            raise ValueError("a result is identified by `code` or by `name`, one of them")
        if self.role == "never" and not self.why:
            raise ValueError("a result that is never used says `why`")
        return self

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """The summaries asked for, as a tuple."""
        return (self.summary,) if isinstance(self.summary, str) else self.summary

    def unit_of(self, summary: Summary) -> str | None:
        """Return the unit of one summary: a slope is per day, a count has none."""
        derived = {"count": None, "slope": f"{self.unit}/d" if self.unit else None, "time_since_last": "d"}
        return derived.get(summary, self.unit)


class AssumeKnown(Declared):
    """A person's statement that undated values of a source were known at the prediction time."""

    assume_known: str


class NotesSpec(Declared):
    """Which of the notes that were known at the prediction time a model reads.

    Attributes:
        take: the last note, or all of them, oldest to newest.
        window_days: how far to look back; None for any time.
    """

    take: Literal["last", "all"] = "all"
    window_days: Annotated[float, Field(gt=0)] | None = None
    label: str | None = None


class MaskSpec(Declared):
    """Where the mask of an image block is found: drawn on the chosen series, or another block's label map.

    Attributes:
        kind: of the mask drawn on the series; None for either.
        structures: labels (SegmentLabel, ROIName) that are meant; empty for everything that is drawn.
        block: a ``label_map`` block of the cohort, whose chosen series lies on the same grid.
        labels: values of that label map that are inside; empty for every value but 0.
        late: what becomes of a mask that was drawn after the prediction time, or does not say when.
    """

    kind: Literal["SEG", "RTSTRUCT"] | None = None
    structures: Words = ()
    block: str | None = None
    labels: tuple[int, ...] = ()
    late: Literal["refuse"] | AssumeKnown = "refuse"

    @model_validator(mode="after")
    def _one_source(self) -> MaskSpec:
        if self.block is not None and (self.kind or self.structures or self.late != "refuse"):
            raise ValueError(
                "a mask from a `block` has no `kind`, `structures` or `late`; that block has its own"
            )
        if self.labels and self.block is None:
            raise ValueError("`labels` are values of a label map: name its `block`; else name `structures`")
        return self


VolumeElement = Literal[
    "StackID",
    "EchoNumbers",
    "EchoTime",
    "DiffusionBValue",
    "ConvolutionKernel",
    "TemporalPosition",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "TriggerTime",
    "FrameReferenceTime",
    "ImageType",
]
"""Elements that tell the volumes of one series apart, by their keywords."""


class ImageSpec(Declared):
    """One image block: which series of a patient is taken, and what its numbers mean.

    Attributes:
        volume: of a series of several volumes (b-values, echoes, phases), the one whose elements have these
            values: a number, [low, high], or a word.
        choose: of the eligible series known in time, ``nearest`` or ``last`` takes the latest, ``first`` the
            earliest, ``largest`` the one of most pixels, ``all`` every one (a bag of 2-D images).
        mask: which mask goes with the chosen series; the recipe says what it is for.
        labels: the values of a label map that are structures.
        label_names: what a reader is shown for a label ({100: peripheral zone}); others show their number.
    """

    dir: str
    match: Literal["PatientID"] = "PatientID"
    modality: str | None = None
    body_part: str | None = None
    description: str | None = None
    orientation: Literal["axial", "coronal", "sagittal"] | None = None
    thickness_mm: Range | None = None
    volume: dict[VolumeElement, float | Range | str] = Field(default_factory=dict)
    choose: Literal["nearest", "first", "last", "largest", "all"] = "nearest"
    time: Literal["dates", "longitudinal_offset"] = "dates"
    undated: Literal["refuse"] | AssumeKnown = "refuse"
    allow_burned_in: bool = False
    kind: Literal["intensity", "label_map"] = "intensity"
    labels: tuple[int, ...] = ()
    mask: MaskSpec | None = None
    label_names: dict[int, str] = Field(default_factory=dict)
    label: str | None = None
    required: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> ImageSpec:
        if (self.kind == "label_map") != bool(self.labels):
            raise ValueError("`labels` lists the values of a label_map, and of nothing else")
        if self.mask and (self.kind == "label_map" or self.choose == "all"):
            raise ValueError(
                "a `mask` goes with one series of intensities, not with a label_map or `choose: all`"
            )
        if self.volume and self.choose == "all":
            raise ValueError("`volume` names one volume of one series, and `choose: all` takes every series")
        unknown = sorted(set(self.label_names) - set(self.labels))
        if unknown:
            raise ValueError(f"`label_names` names {unknown}, which `labels` does not list")
        return self


class Status(StrEnum):
    """Why a value is, or is not, there."""

    KNOWN = "known"
    MISSING = "missing"
    UNDATED = "undated"
    OUTSIDE_WINDOW = "outside_window"
    IMPLAUSIBLE = "implausible"
    UNPARSABLE = "unparsable"


@dataclass(frozen=True, slots=True)
class Value:
    """One field of one patient, as it was known at the prediction time.

    Attributes:
        value: a number in the declared unit, a category, or None unless ``status`` is KNOWN.
        status: why the value is or is not there.
        text: the cell as recorded ("<0.01", "male"); empty when there was none.
        comparator: "", "<", "<=", ">" or ">=", when the laboratory gave a limit.
        offset_days: when it was collected, in days before (negative) or at the prediction time; None for a
            field without a time, and for an undated one.
        undated: whether it was used on a person's word that it was known in time.
    """

    value: float | str | None
    status: Status = Status.KNOWN
    text: str = ""
    comparator: str = ""
    offset_days: float | None = None
    undated: bool = False


MISSING = Value(None, Status.MISSING)
"""A cell that the source left empty."""
