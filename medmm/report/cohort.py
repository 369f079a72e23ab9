"""The page about a cohort: who was in it, how well the model does on it, and what it goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medmm.report.facts import FlowStep, Predictor, Provenance, Table

if TYPE_CHECKING:
    from medmm.evaluation.calibrate import Agreement
    from medmm.evaluation.comparison import Verdict
    from medmm.evaluation.resampling import Estimate


@dataclass(frozen=True, slots=True)
class Missingness:
    """How often one field is not recorded.

    Attributes:
        label: the field.
        missing: patients without a value.
        patients: patients in all.
        block: the modality it belongs to.
    """

    label: str
    missing: int
    patients: int
    block: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What one threshold on the risk gives.

    Attributes:
        threshold: risk, 0 … 1.
        sensitivity: 0 … 1.
        specificity: 0 … 1.
        ppv: positive predictive value, or None when nobody is above.
        npv: negative predictive value, or None when nobody is below.
        above_per_100: patients at or above it, of 100.
        chosen: it is the recipe's.
    """

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate | None
    npv: Estimate | None
    above_per_100: float
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Histogram:
    """Risks of patients with and without the outcome.

    Attributes:
        edges: ascending, one more than the bins, 0 … 1.
        without: patients without the outcome per bin.
        with_outcome: patients with the outcome per bin.
    """

    edges: tuple[float, ...]
    without: tuple[int, ...]
    with_outcome: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NetBenefit:
    """Decision curves (Vickers and Elkin 2006): net benefit per patient by threshold.

    Attributes:
        thresholds: risks, ascending.
        curves: net benefit by predictor, one value per threshold, "treat all" among them; "treat none" is 0.
    """

    thresholds: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Group:
    """The model's figures in one subgroup or availability pattern.

    Attributes:
        family: what divides the patients ("centre", "modalities available").
        category: the group.
        patients: how many; a group under :data:`medmm.report.facts.SMALL_CELL` is printed without figures.
        events: how many of them had the outcome; None when suppressed.
        auroc: None when it cannot be computed or is suppressed.
        slope: calibration slope, or None.
    """

    family: str
    category: str
    patients: int
    events: int | None = None
    auroc: Estimate | None = None
    slope: Estimate | None = None


@dataclass(frozen=True, slots=True)
class SwarmField:
    """Attributions of one field over the cohort.

    Attributes:
        label: the field.
        attributions: log-odds, one per patient.
        ranks: the field's value per patient as a quantile 0 … 1 of the cohort's values; None where it is not
            recorded or has no order.
    """

    label: str
    attributions: tuple[float, ...]
    ranks: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the movement of the logit one modality makes: mean absolute attribution in log-odds."""

    label: str
    mean_absolute: float
    patients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortPage:
    """Everything the cohort page prints; a section without values is left out.

    Attributes:
        title: the pipeline's title.
        question: the outcome asked about, in words.
        intended_use: from the recipe.
        source: whose scores these are ("out-of-fold scores of the training split", "held-out split").
        patients: how many were scored.
        events: how many of them had the outcome.
        provenance: bundle, version, date, seeds.
        flow: inclusion flow, top to bottom.
        table_one: patients by split or outcome, with standardised differences.
        missingness: per field.
        predictors: fused first, then each modality alone, then the trees.
        verdict: whether the image earns its place.
        thresholds: threshold table.
        histogram: score distribution.
        calibration: calibration figures.
        net_benefit: decision curves.
        subgroups: figures by subgroup.
        patterns: figures by availability pattern.
        swarm: fields, most important first.
        shares: modalities.
        refused: (reason, series or patients) set aside or refused.
        evidence: evidence for the reporting checklist by item id (see :mod:`medmm.report.checklist`), besides
            what the page itself shows.
    """

    title: str
    question: str
    intended_use: str
    source: str
    patients: int
    events: int
    provenance: Provenance
    flow: tuple[FlowStep, ...] = ()
    table_one: Table | None = None
    missingness: tuple[Missingness, ...] = ()
    predictors: tuple[Predictor, ...] = ()
    verdict: Verdict | None = None
    thresholds: tuple[Threshold, ...] = ()
    histogram: Histogram | None = None
    calibration: Agreement | None = None
    net_benefit: NetBenefit | None = None
    subgroups: tuple[Group, ...] = ()
    patterns: tuple[Group, ...] = ()
    swarm: tuple[SwarmField, ...] = ()
    shares: tuple[Share, ...] = ()
    refused: tuple[tuple[str, int], ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)


def render_cohort(page: CohortPage) -> str:
    """Return the page as one self-contained HTML document."""
    raise NotImplementedError(page.title)
