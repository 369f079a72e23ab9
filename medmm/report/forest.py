"""Rows of estimates on one shared axis (a forest plot); the page prints the numbers beside the bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from markupsafe import Markup

from medmm.report.figures import Axis, axis_for, interval_row

if TYPE_CHECKING:
    from medmm.evaluation.comparison import Verdict
    from medmm.evaluation.resampling import Estimate
    from medmm.evaluation.subgroups import Subgroup
    from medmm.report.facts import Predictor

Shown = TypeVar("Shown")


@dataclass(frozen=True, slots=True)
class Forest(Generic[Shown]):
    """A forest plot ready for the page.

    Attributes:
        axis: shared by all rows.
        rows: name, what is described, and its bar; the bar is empty where there is no estimate.
    """

    axis: Axis
    rows: tuple[tuple[str, Shown, Markup], ...]


def of_predictors(predictors: Sequence[Predictor]) -> Forest[Predictor]:
    """Return the AUROC of each predictor against chance."""
    axis = axis_for([predictor.auroc for predictor in predictors], 0.5)
    return _forest(((found.name, found, found.auroc) for found in predictors), axis)


def of_differences(verdict: Verdict) -> Forest[Estimate]:
    """Return what the fused model gains over each other one, against no difference."""
    axis = axis_for(list(verdict.differences.values()), 0.0)
    return _forest(((name, gain, gain) for name, gain in verdict.differences.items()), axis)


def of_groups(groups: Sequence[Subgroup], axis: Axis) -> Forest[Subgroup]:
    """Return the AUROC of each group on an axis shared with other families of groups."""
    return _forest(((group.category, group, group.auroc) for group in groups), axis)


def _forest(rows: Iterable[tuple[str, Shown, Estimate | None]], axis: Axis) -> Forest[Shown]:
    return Forest(
        axis,
        tuple(
            (name, shown, interval_row(figure, axis, name) if figure else Markup(""))
            for name, shown, figure in rows
        ),
    )
