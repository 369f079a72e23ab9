"""The page about a cohort: who was in it, how well the model does on it, and what it goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING

from markupsafe import Markup

from medmm.evaluation.subgroups import SMALL_CELL
from medmm.report import figures
from medmm.report.checklist import TO_COMPLETE, checklists
from medmm.report.facts import FlowStep, Predictor, Provenance, Table
from medmm.report.figures import Axis, axis_for
from medmm.report.forest import Forest, of_differences, of_groups, of_predictors
from medmm.report.page import render
from medmm.report.wording import number, percent, signed, whole

if TYPE_CHECKING:
    from medmm.evaluation.calibrate import Agreement
    from medmm.evaluation.comparison import Verdict
    from medmm.evaluation.decisions import Operating
    from medmm.evaluation.subgroups import Subgroup


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
        chosen_threshold: the recipe's own among them, or None.
        histogram: score distribution.
        calibration: calibration figures.
        net_benefit: decision curves.
        subgroups: figures by what divides the patients ("centre"), then by group.
        patterns: figures by availability pattern.
        swarm: fields, most important first.
        shares: modalities.
        refused: (reason, series or patients) set aside or refused.
        evidence: what the story knows besides, by checklist item ("TRIPOD+AI 5a"; see
            :mod:`medmm.report.checklist`).
        outcomes: (heading, figures) of outcomes that are not one binary one; ``events`` means nothing then.
        verdicts: (outcome, whether the image earns its place) of these, in a sentence; or of what ships.
        scored_by: which network scores, and explains, whom; None where one does for all.
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
    thresholds: tuple[Operating, ...] = ()
    chosen_threshold: float | None = None
    histogram: Histogram | None = None
    calibration: Agreement | None = None
    net_benefit: NetBenefit | None = None
    subgroups: Mapping[str, tuple[Subgroup, ...]] = field(default_factory=dict)
    patterns: tuple[Subgroup, ...] = ()
    swarm: tuple[SwarmField, ...] = ()
    shares: tuple[Share, ...] = ()
    refused: tuple[tuple[str, int], ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)
    outcomes: tuple[tuple[str, Table], ...] = ()
    verdicts: tuple[tuple[str, str], ...] = ()
    scored_by: Table | None = None


TREAT_NONE = "treat none"

NET_BENEFIT_FLOOR = -0.25
"""Net benefit drawn at most this share of its largest value below zero: below, every policy is a bad one."""


def render_cohort(page: CohortPage) -> str:
    """Return the page as one self-contained HTML document; a section without values is left out."""
    return render(
        "cohort.html.j2",
        page=page,
        sections=_sections(page),
        small_cell=SMALL_CELL,
        to_complete=TO_COMPLETE,
        missingness=[(row, _missing_bar(row)) for row in page.missingness],
        predictors=of_predictors(page.predictors) if page.predictors else None,
        differences=of_differences(page.verdict) if page.verdict else None,
        histogram=_histogram(page),
        calibration=_calibration(page.calibration) if page.calibration else None,
        net_benefit=_net_benefit(page.net_benefit) if page.net_benefit else None,
        families=_families(page),
        shares=_shares(page.shares),
        swarm=_swarm(page.swarm),
        checklists=checklists(_shown(page), page.evidence),
    )


@dataclass(frozen=True, slots=True)
class _Figure:
    """A picture and the numbers drawn in it."""

    drawn: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _sections(page: CohortPage) -> list[tuple[str, str, bool]]:
    """Return (anchor, name, whether the page has it) of the sections, in order."""
    return [
        ("verdict", "The image", page.verdict is not None),
        ("outcomes", "How good it is", bool(page.outcomes)),
        (
            "who",
            "Patients",
            bool(page.flow or page.refused or page.table_one or page.missingness or page.scored_by),
        ),
        ("ranks", "Ranking", bool(page.predictors or page.histogram)),
        ("calibrated", "Calibration", page.calibration is not None),
        ("decisions", "Thresholds", bool(page.thresholds or page.net_benefit)),
        ("groups", "Subgroups", bool(page.subgroups or page.patterns)),
        ("goes-by", "What it goes by", bool(page.shares or page.swarm)),
        ("checklists", "Checklists", True),
    ]


def _missing_bar(row: Missingness) -> Markup:
    share = row.missing / row.patients if row.patients else 0.0
    return figures.share_row(share, row.label, f"{percent(share)} not recorded")


def _histogram(page: CohortPage) -> _Figure | None:
    bins = page.histogram
    if bins is None:
        return None
    drawn = figures.histogram(bins.edges, bins.without, bins.with_outcome)
    rows = tuple(
        (f"{whole(low)} to {whole(high)}", str(without), str(having))
        for low, high, without, having in zip(
            bins.edges[:-1], bins.edges[1:], bins.without, bins.with_outcome, strict=True
        )
    )
    return _Figure(drawn, ("Risk, of 100", "Without the outcome", "With the outcome"), rows)


def _calibration(found: Agreement) -> _Figure:
    points = [
        (float(risk), float(seen)) for risk, seen in zip(found.curve_risk, found.curve_observed, strict=True)
    ]
    rows = tuple((number(risk), number(seen)) for risk, seen in points)
    return _Figure(figures.calibration(points), ("Predicted risk", "Observed share"), rows)


def _net_benefit(found: NetBenefit) -> _Figure:
    curves = {**found.curves, TREAT_NONE: (0.0,) * len(found.thresholds)}
    highest = max((max(values, default=0.0) for values in curves.values()), default=0.0)
    drawn = figures.lines(
        "Net benefit by threshold: " + ", ".join(curves),
        {name: tuple(zip(found.thresholds, values, strict=True)) for name, values in curves.items()},
        ("threshold on the risk", "net benefit per patient"),
        floor=NET_BENEFIT_FLOOR * highest,
    )
    rows = tuple(
        (number(threshold), *(signed(values[place], 3) for values in curves.values()))
        for place, threshold in enumerate(found.thresholds)
    )
    return _Figure(drawn, ("Threshold", *curves), rows)


def _families(page: CohortPage) -> list[tuple[str, Forest[Subgroup]]]:
    """Return each family of groups on one axis, whose line is the whole cohort's AUROC."""
    families = dict(page.subgroups)
    if page.patterns:
        families["Modalities available"] = page.patterns
    estimates = [group.auroc for groups in families.values() for group in groups if group.auroc]
    axis: Axis = axis_for(estimates, page.predictors[0].auroc.value if page.predictors else 0.5)
    return [(family, of_groups(groups, axis)) for family, groups in families.items() if groups]


def _shares(shares: tuple[Share, ...]) -> list[tuple[Share, str, Markup]]:
    total = sum(share.mean_absolute for share in shares) or 1.0
    return [
        (
            share,
            percent(share.mean_absolute / total),
            figures.share_row(
                share.mean_absolute / total, share.label, f"{number(share.mean_absolute)} log-odds"
            ),
        )
        for share in shares
    ]


def _swarm(fields: tuple[SwarmField, ...]) -> dict[str, object] | None:
    drawn = [found for found in fields if found.attributions]
    if not drawn:
        return None
    limit = 1.04 * max(abs(value) for found in drawn for value in found.attributions) or 1.0
    rows = tuple(
        (
            found.label,
            str(len(found.attributions)),
            *(signed(end(found.attributions)) for end in (min, median, max)),
        )
        for found in drawn
    )
    return {
        "axis": Axis(-limit, limit, 0.0),
        "rows": [
            (
                found.label,
                figures.swarm_row(found.label, found.attributions, found.ranks, limit),
                number(fmean(abs(value) for value in found.attributions)),
            )
            for found in drawn
        ],
        "columns": ("Field", "Patients", "Lowest", "Median", "Highest"),
        "table": rows,
    }


def _shown(page: CohortPage) -> dict[str, str]:
    """Return what this page shows, for the items of :mod:`medmm.report.checklist`."""
    having = "" if page.outcomes else f", {page.events} with the outcome"
    count = f"{page.patients} patients{having}"
    measured = {
        "AUROC and AUPRC": page.predictors,
        "calibration in the large, intercept, slope, curve and Brier score": page.calibration,
        "threshold table": page.thresholds,
        "net benefit": page.net_benefit,
    }
    measures = "; ".join(name for name, there in measured.items() if there)
    origin = page.provenance
    found = {
        "question": f"{page.question}; {page.source}",
        "internal": page.source,
        "intended use": page.intended_use,
        "patients": count,
        "flow": f"Who is in it: {count}" if page.flow else "",
        "characteristics": "Table 1" if page.table_one else "",
        "missing": f"How often {len(page.missingness)} inputs are not recorded" if page.missingness else "",
        "measures": measures,
        "intervals": "95 % intervals beside every estimate" if measures else "",
        "discrimination": f"AUROC {page.predictors[0].auroc}" if page.predictors else "",
        "calibration": f"calibration slope {page.calibration.slope}" if page.calibration else "",
        "thresholds": f"Table of {len(page.thresholds)} thresholds" if page.thresholds else "",
        "subgroups": f"figures by {', '.join(page.subgroups)}" if page.subgroups else "",
        "patterns": "Figures by modalities available" if page.patterns else "",
        "comparison": f"does the image earn its place: {page.verdict.word}" if page.verdict else "",
        "attributions": "What the model goes by" if page.swarm or page.shares else "",
        "object": f"Bundle sha256 {origin.bundle_sha256[:12]}…",
        "data": f"cohort sha256 {origin.cohort_sha256[:12]}…" if origin.cohort_sha256 else "",
        "seeds": "Seeds in the small print" if origin.seeds else "",
        "software": f"medmm {origin.medmm_version}",
    }
    return {name: text for name, text in found.items() if text}
