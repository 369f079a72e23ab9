"""The plain values that more than one page prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate


@dataclass(frozen=True, slots=True)
class FlowStep:
    """One box of the inclusion flow.

    Attributes:
        label: what the box holds ("subjects in the table", "with a usable series").
        count: how many are in it.
        left_out: who left between this box and the next, as (reason, count).
    """

    label: str
    count: int
    left_out: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text, as it is printed.

    Attributes:
        columns: the headings; the first column names the row and is set to the left.
        rows: one tuple of cells per row, as many cells as headings.
        note: a line under the table.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Predictor:
    """How well one predictor ranks and weighs the patients it was asked about.

    Attributes:
        name: "fused", the block's label, or "trees on the tables".
        patients: how many were scored.
        events: how many of them had the outcome.
        auroc: area under the ROC curve, 0 … 1.
        auprc: area under the precision-recall curve, 0 … 1, or None when it was not computed.
        brier: Brier score, 0 … 1, or None when it was not computed.
    """

    name: str
    patients: int
    events: int
    auroc: Estimate
    auprc: Estimate | None = None
    brier: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a page comes from.

    Attributes:
        bundle_sha256: digest of the bundle's manifest.
        medmm_version: the version that wrote the page.
        created: date and time of writing, ISO 8601.
        recipe: the pipeline's name.
        cohort: the cohort's name.
        cohort_sha256: digest of the cohort's tables and index, or empty.
        seeds: the seeds used, by what they seeded.
    """

    bundle_sha256: str
    medmm_version: str
    created: str
    recipe: str = ""
    cohort: str = ""
    cohort_sha256: str = ""
    seeds: Mapping[str, int] = field(default_factory=dict)
