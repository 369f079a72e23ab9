"""The page about one patient's score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from medmm.report.facts import Provenance
from medmm.report.figures import Mark, people, risk_scale
from medmm.report.images import Frame, ImageEvidence, frames, legend
from medmm.report.outcomes import Predicted, drawings, receipts
from medmm.report.page import render
from medmm.report.waterfall import Drawing, PlayerText, Scale, Waterfall, draw
from medmm.report.wording import against_rate, number, signed, thousands, whole

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate

START = "Reference population, average"
END = "This patient"
Training = Literal["not_in_training", "out_of_fold", "in_training", "unknown"]


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
        note: a word under the series.
    """

    label: str
    series: str
    slices: int
    spacing: str = ""
    offset_days: float | None = None
    undated: bool = False
    note: str = ""


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
        outcomes: instead of ``risk``, ``modalities``, ``fields`` and ``images`` where the model does not
            predict one binary outcome alone.
        training: whether this patient was in training, where there are ``outcomes``.
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
    outcomes: tuple[Predicted, ...] = ()
    training: Training = "unknown"


def render_patient(page: PatientPage) -> str:
    """Return the page as one self-contained HTML document.

    Unless the patient was scored, no risk, bar, value or figure of performance is printed.
    """
    scored = page.status == "scored" and (page.risk is not None or bool(page.outcomes))
    hidden = replace(page, risk=None, modalities=None, fields=(), images=(), how_good=None, outcomes=())
    shown = page if scored else hidden
    scale = _scale(shown)
    drawing = draw(shown.modalities, scale, start=START, end=END) if shown.modalities else None
    return render(
        "patient.html.j2",
        page=shown,
        scored=scored,
        undated=_any_undated(page.inputs),
        drawing=drawing,
        field_drawings=[_fields(waterfall, shown, scale, drawing) for waterfall in shown.fields],
        images=[(evidence, _frames(evidence), _swatches(evidence)) for evidence in shown.images],
        receipts=_receipts(shown),
        panels=[_panel(one, shown) for one in shown.outcomes],
        **(_hero(shown.risk, shown.question) if shown.risk else {}),
    )


def _panel(one: Predicted, page: PatientPage) -> dict[str, object]:
    """Return one outcome, its explanations drawn and its images."""
    drawn = [
        (explanation.name, *drawings(explanation, start=START, end=END)) for explanation in one.explanations
    ]
    return {
        "outcome": one,
        "drawn": drawn,
        "images": [(evidence, _frames(evidence), _swatches(evidence)) for evidence in one.images],
    }


def _any_undated(blocks: tuple[InputBlock, ...]) -> bool:
    fields = any(used.undated for block in blocks for used in block.fields)
    return fields or any(series.undated for block in blocks for series in block.series)


def _hero(risk: Risk, question: str) -> dict[str, object]:
    limits = None if risk.low is None or risk.high is None else (risk.low, risk.high)
    marks = [Mark("cohort's rate", risk.cohort_rate)]
    if risk.threshold is not None:
        marks.append(Mark("threshold", risk.threshold))
    return {
        "against": against_rate(risk.probability, risk.cohort_rate),
        "limits": limits,
        "people": people(risk.probability, question),
        "scale": risk_scale(Mark("this patient", risk.probability), limits, marks),
        "same_rounded": risk.threshold is not None and whole(risk.threshold) == whole(risk.probability),
    }


def _scale(page: PatientPage) -> Scale:
    calibration = page.risk.calibration if page.risk else None
    if calibration is None or calibration.slope is None or calibration.intercept is None:
        return Scale(affine=False)
    return Scale(calibration.slope, calibration.intercept)


def _fields(waterfall: Waterfall, page: PatientPage, scale: Scale, modalities: Drawing | None) -> Drawing:
    """Return a drawn field waterfall; players that are whole modalities carry their block's label."""
    component = waterfall.attribution.component
    blocks = {block.name: block for block in page.inputs if block.name != component}
    whole_blocks = {
        name: PlayerText(f"{block.label}, as a whole", absent=bool(block.absent))
        for name, block in blocks.items()
    }
    named = replace(waterfall, players={**whole_blocks, **waterfall.players})
    printed = (
        {name: value for name, value in modalities.printed().items() if name in blocks} if modalities else {}
    )
    return draw(named, scale, start=START, end=END, modalities=printed)


def _frames(evidence: ImageEvidence) -> tuple[Frame, ...]:
    """Return the slices; a map that failed its gate is not drawn, whatever the page was handed."""
    if evidence.gate != "withheld":
        return frames(evidence)
    bare = tuple(replace(part, map=None) for part in evidence.slices)
    return frames(replace(evidence, slices=bare))


def _swatches(evidence: ImageEvidence) -> tuple[tuple[str, str], ...]:
    return legend(evidence.labels) if evidence.kind == "label_map" else ()


def _receipts(page: PatientPage) -> list[tuple[str, str]]:
    """Return the lines by which anyone can check that the bars add up."""
    lines = [line for one in page.outcomes for line in receipts(one)]
    for waterfall in ([page.modalities] if page.modalities else []) + list(page.fields):
        attribution = waterfall.attribution
        lines.append(
            (
                f"Receipt: {waterfall.title or 'inputs'}",
                f"base {number(attribution.base, 6)} + sum {number(sum(attribution.values), 6)} = "
                f"logit {number(attribution.logit, 6)}, residual {attribution.residual:.1e} (1e-5 allowed)",
            )
        )
    if page.risk and page.risk.calibration.slope is not None and page.risk.calibration.intercept is not None:
        slope, intercept = page.risk.calibration.slope, page.risk.calibration.intercept
        told = f"{number(slope, 4)} × logit {signed(intercept, 4)} = {number(page.risk.calibrated_logit, 6)}"
        lines.append(("Calibrated log-odds", told))
    if page.reference:
        lines.append(("Reference population", _reference(page.reference)))
    return lines


def _reference(reference: ReferenceFacts) -> str:
    text = f"{reference.kind}, {thousands(reference.size)} for {thousands(reference.of)} training patients"
    text += f"; sampling error of the base {reference.sampling_error:.3f} log-odds"
    return f"{text}; sha256 {reference.sha256}" if reference.sha256 else text
