"""The plain values that travel between rooms: a patient's inputs, a sample, a score, an attribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from medmm.arrays import Float32
from medmm.columns import Value

TableRow: TypeAlias = Mapping[str, Value]
"""The fields of one table for one patient, by field name."""


@dataclass(frozen=True, slots=True)
class SeriesSource:
    """One chosen DICOM series of one patient, or every one where the cohort chooses ``all``.

    Attributes:
        files: the files of the series, in any order.
        offset_days: (latest) acquisition relative to the prediction time, or None when undated.
        undated: whether it was used on a person's word that it was known in time.
        pseudonym: a keyed short name of the series; the only name that may be shown or logged.
        masks: the files of the mask that goes with it, where the cohort names one and it was found in time.
    """

    files: tuple[Path, ...]
    offset_days: float | None = None
    undated: bool = False
    pseudonym: str = ""
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class TimedSeries:
    """Every result of one patient within the look-back windows, for a sequence encoder.

    One entry per (result, time); of several results at one time, the cohort's rule has chosen one. Sorted by
    time, then by position of the result, so that no order of rows in the source can show. A result without a
    date has no place in a sequence and is left out.

    Attributes:
        names: the results, in the order declared; ``code`` counts in it.
        offset_days: ascending, at or before 0 (the prediction time) unless the cohort counts whole days and
            takes the same day's results as known.
        code: position of each result in ``names``.
        value: in the unit its code declares.
        comparator: "", "<", "<=", ">" or ">=", when the laboratory gave a limit.
    """

    names: tuple[str, ...]
    offset_days: tuple[float, ...] = field(repr=False)
    code: tuple[int, ...] = field(repr=False)
    value: tuple[float, ...] = field(repr=False)
    comparator: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.offset_days)

    @property
    def as_of_days(self) -> float | None:
        """Offset of the latest entry."""
        return self.offset_days[-1] if self.offset_days else None

    @property
    def undated(self) -> int:
        """Always 0: nothing undated enters."""
        return 0


@dataclass(frozen=True, slots=True)
class NotesSource:
    """The clinical notes of one patient that were known at the prediction time, oldest to newest.

    Notes of one time stand in the order of their text, so that no order of rows in the source can show.

    Attributes:
        texts: one per note, as recorded; never shown or logged.
        offset_days: when each was written, at or before 0; None for an undated one, which comes first.
    """

    texts: tuple[str, ...] = field(repr=False)
    offset_days: tuple[float | None, ...]

    @property
    def text(self) -> str:
        """The notes joined by an empty line, oldest first."""
        return "\n\n".join(self.texts)

    @property
    def as_of_days(self) -> float | None:
        """Offset of the newest note."""
        return self.offset_days[-1] if self.offset_days else None

    @property
    def undated(self) -> int:
        """Notes used on a person's word that they were known in time."""
        return sum(offset is None for offset in self.offset_days)


@dataclass(frozen=True, slots=True)
class Absence:
    """A modality that a patient does not have, and why ("no_series", "missing_slices", …)."""

    reason: str


Source: TypeAlias = TableRow | SeriesSource | TimedSeries | NotesSource | Absence
"""What the cohort hands to a modality for one patient: a row for tables, a DICOM series for images, the whole
course of results for the block ``series``, texts for the block ``notes``; or why it has nothing."""


@dataclass(frozen=True, slots=True)
class Patient:
    """One row of a cohort: one (subject, prediction time).

    Attributes:
        subject_id: the real id; leaves the process only in score files.
        pseudonym: 16 hex digits, keyed; used in pages, logs and file names.
        sources: per modality block, what was known at the prediction time.
        targets: per outcome, the label; an outcome that is not known has no key.
        subgroups: per subgroup field, the category as text.
        split: "train", "held_out", or "" when the patient only comes to be scored.
        fold: outer fold of a train patient, -1 otherwise.
    """

    subject_id: str
    pseudonym: str
    sources: Mapping[str, Source]
    targets: Mapping[str, float] = field(default_factory=dict)
    subgroups: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    fold: int = -1


@dataclass(frozen=True, slots=True)
class Sample:
    """What the networks see of one patient; an absent modality has no key.

    Attributes:
        inputs: image ``Float[channel x y z]`` or ``Float[channel x y]`` (RAS+), table ``Float[feature]``.
        absent: the reason for each modality that has no input.
    """

    subject_id: str
    inputs: Mapping[str, Float32]
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Player:
    """One Shapley player of a table: a clinical field, with the columns that move together.

    Attributes:
        name: the field's name in the cohort.
        label: what a reader sees.
        columns: positions of its columns (values, one-hot, missing indicator) in the transformed row.
        missing_column: the column that is 1 where the field is missing, 0 where it is known.
        unit: UCUM unit, or None.
        reference: reference range in that unit, or None.
    """

    name: str
    label: str
    columns: tuple[int, ...]
    missing_column: int
    unit: str | None = None
    reference: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One predicted outcome of one patient.

    Attributes:
        kind: binary, multiclass, ordinal, regression, survival or cox (:mod:`medmm.outcome`).
        logit: uncalibrated: log-odds of the event; of the likeliest class above the mean of all classes; of
            a level or a time the score that ranks patients; of a quantity, in standard deviations.
        calibrated_logit: the same after calibration; of levels, log-odds of being above the lowest; a
            quantity itself.
        probability: of the event; of the likeliest class or level; of an event by the last day; None of a
            quantity.
        decision: "positive" or "negative" where there is a threshold; the likeliest class or level.
        value: the quantity, in its unit.
        probabilities: per class or level, adding up to 1; or per day, of an event by then.
        logits: per class, its uncalibrated logit above the mean of all classes.
    """

    kind: str
    logit: float
    calibrated_logit: float
    probability: float | None
    decision: str = ""
    value: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """One patient's result, whatever became of it.

    Attributes:
        status: "scored", or "refused".
        reason: why a patient was refused; empty when scored.
        modalities: per modality, "used", "not_in_submodel" (there, and not looked at) or the reason of its
            absence.
        as_of_days: per field, the offset of the value used, in days.
        undated: number of values and series used without a date.
        warnings: out-of-range values, unseen categories and the like, without patient data.
        submodel: the set of modalities whose own network scored the patient; empty of the fused network.
    """

    subject_id: str
    status: Literal["scored", "refused"]
    reason: str
    outcomes: Mapping[str, Outcome]
    modalities: Mapping[str, str]
    bundle_sha256: str
    as_of_days: Mapping[str, float | None] = field(default_factory=dict)
    undated: int = 0
    warnings: tuple[str, ...] = ()
    submodel: str = ""


@dataclass(frozen=True, slots=True)
class Attribution:
    """A logit taken apart: ``base + sum(values) + residual == logit``.

    Attributes:
        outcome: the outcome explained.
        component: "modality", or the modality whose fields are the players.
        names: the players.
        base: mean logit over the reference population.
        values: log-odds per player.
        errors: standard error per value (0 where exact).
        logit: what the values add up to.
    """

    outcome: str
    component: str
    names: tuple[str, ...]
    base: float
    values: tuple[float, ...]
    errors: tuple[float, ...]
    logit: float

    @property
    def residual(self) -> float:
        """What the sum misses; the receipt refuses more than 1e-5."""
        return self.logit - self.base - sum(self.values)
