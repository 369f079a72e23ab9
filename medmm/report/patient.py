"""The page about one patient's score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from medmm.report.facts import Provenance
from medmm.report.images import ImageEvidence
from medmm.sample import Attribution

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate

Training = Literal["not_in_training", "out_of_fold", "in_training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How logits became risks.

    Attributes:
        method: "Platt" and the like.
        patients: how many patients it was fitted on.
        events: how many of them had the outcome.
        slope: with ``intercept``, ``calibrated logit = slope * logit + intercept``; None when the calibration
            is not affine, and then the page says that its bars cannot end at the risk.
        intercept: see ``slope``.
    """

    method: str
    patients: int
    events: int
    slope: float | None = None
    intercept: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """The number, and what is needed to read it.

    Attributes:
        probability: calibrated risk, 0 … 1.
        calibrated_logit: its log-odds.
        cohort_rate: share of the training cohort that had the outcome, 0 … 1.
        cohort_patients: size of that cohort.
        calibration: how the logit became a risk.
        training: whether this patient was in training; "out_of_fold" when only models that did not see the
            patient were asked.
        low: lower end of an interval around the risk, or None.
        high: upper end of an interval around the risk, or None.
        interval_of: what the interval expresses ("95 % interval over 5 refits"); printed beside it.
        threshold: risk at which the recipe decides, 0 … 1, or None.
        decision: what the threshold gives for this patient ("above the threshold"), or empty.
        sensitivity: share of patients with the outcome that the threshold finds, or None.
        specificity: share of patients without the outcome that it leaves alone, or None.
    """

    probability: float
    calibrated_logit: float
    cohort_rate: float
    cohort_patients: int
    calibration: Calibration
    training: Training
    low: float | None = None
    high: float | None = None
    interval_of: str = ""
    threshold: float | None = None
    decision: str = ""
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedField:
    """One value that reached the model.

    Attributes:
        label: the field as a reader knows it.
        recorded: the cell as recorded ("<0.01", "male").
        value: number in ``unit`` as the model took it, or the category; equal text is printed once.
        unit: UCUM unit, or empty.
        reference: reference range as printed ("0 – 4"), or empty.
        position: "below", "within" or "above" the reference range; empty without a range.
        offset_days: days relative to the prediction time (negative before); None when it has no time.
        undated: used on a person's word that it was known in time.
    """

    label: str
    recorded: str
    value: str
    unit: str = ""
    reference: str = ""
    position: Literal["", "below", "within", "above"] = ""
    offset_days: float | None = None
    undated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedSeries:
    """One image series that reached the model.

    Attributes:
        label: the block's label.
        series: pseudonym of the series.
        slices: number of slices, 1 for a 2-D image.
        spacing: as printed ("0.5 × 0.5 × 3.0 mm"), or empty when not recorded.
        offset_days: as in :class:`UsedField`.
        undated: as in :class:`UsedField`.
    """

    label: str
    series: str
    slices: int
    spacing: str = ""
    offset_days: float | None = None
    undated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InputBlock:
    """What one modality contributed to the input.

    Attributes:
        name: the block's name, the player's name in the modality attribution.
        label: what a reader sees.
        absent: reason of absence in words; empty when the modality was used.
        fields: values used.
        series: series used.
        missing: labels of fields that were not recorded.
        not_used: (label, why) of values that exist and were left out ("later than the prediction time").
    """

    name: str
    label: str
    absent: str = ""
    fields: tuple[UsedField, ...] = ()
    series: tuple[UsedSeries, ...] = ()
    missing: tuple[str, ...] = ()
    not_used: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PlayerText:
    """How one player of an attribution is printed.

    Attributes:
        label: what a reader sees.
        value: raw value, "not recorded", or empty for a modality.
        unit: UCUM unit of value and reference, or empty.
        reference: reference range as printed ("0 – 4"), or empty.
        absent: the modality is absent: its bar is the effect of absence.
    """

    label: str
    value: str = ""
    unit: str = ""
    reference: str = ""
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Waterfall:
    """An attribution and how to print its players.

    Attributes:
        attribution: in log-odds of the logit before calibration, exactly as computed; the page draws it on
            the calibrated scale and prints it as it is in the receipt.
        players: text per name in the attribution; a name without text is printed as it is.
        title: heading ("PSA and age"); empty for the modality level.
    """

    attribution: Attribution
    players: Mapping[str, PlayerText] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HowGood:
    """How the model did on patients with the same modalities available.

    Attributes:
        pattern: the availability pattern in words ("image and PSA").
        source: where the figures come from ("out-of-fold, 5 folds").
        patients: how many such patients.
        events: how many of them had the outcome.
        auroc: discrimination, or None when too few patients.
        slope: calibration slope, 1 when ideal.
        expected: mean predicted risk, 0 … 1, or None.
        observed: observed share of events, 0 … 1, or None.
        site: "all sites" or the site's name.
    """

    pattern: str
    source: str
    patients: int
    events: int
    auroc: Estimate | None = None
    slope: Estimate | None = None
    expected: float | None = None
    observed: float | None = None
    site: str = "all sites"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFacts:
    """The population that the bars are measured against.

    Attributes:
        kind: "population", "medoids" or "centroids".
        size: rows in it.
        of: training patients it stands for.
        sampling_error: standard error of the base in log-odds; 0 when it is the whole population.
        sha256: its digest.
    """

    kind: str
    size: int
    of: int
    sampling_error: float = 0.0
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatientPage:
    """Everything the patient page prints.

    Attributes:
        pseudonym: the only name of the patient on the page.
        question: the outcome asked about, in words ("csPCa (ISUP 2 or higher)").
        intended_use: from the recipe.
        status: "scored", or "refused" or "deferred" with a reason; then no number is printed at all.
        provenance: bundle, version, date, seeds.
        reason: why there is no score, in words.
        study_date: date or offset of the index study as the site may show it; empty prints "not shown".
        risk: None unless scored.
        inputs: one per modality, in the model's order.
        warnings: out-of-range values, unseen categories and the like.
        modalities: modality attribution, or None.
        fields: one per table whose fields were explained, keyed to its block by ``attribution.component``.
        images: one per image block.
        how_good: figures for the same availability pattern, or None when they do not exist.
        reference: the reference population, or None without attributions.
        feedback: where a reader sends agreement or disagreement (text, never made a link).
    """

    pseudonym: str
    question: str
    intended_use: str
    status: Literal["scored", "refused", "deferred"]
    provenance: Provenance
    reason: str = ""
    study_date: str = ""
    risk: Risk | None = None
    inputs: tuple[InputBlock, ...] = ()
    warnings: tuple[str, ...] = ()
    modalities: Waterfall | None = None
    fields: tuple[Waterfall, ...] = ()
    images: tuple[ImageEvidence, ...] = ()
    how_good: HowGood | None = None
    reference: ReferenceFacts | None = None
    feedback: str = ""


def render_patient(page: PatientPage) -> str:
    """Return the page as one self-contained HTML document."""
    raise NotImplementedError(page.pseudonym)
