"""What a recipe says of choosing: ``comparison``, ``folds``, ``routing`` and ``promotion``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medmm.columns import Declared
from medmm.recipe.fusion import Fusion

FEW_EVENTS = 50
"""Events below which one division into folds is no figure to rest on (rules of fusion)."""

AUTO_REPEATS = 3
"""Repeats below :data:`FEW_EVENTS` where a recipe does not say."""


Routing = Literal["none", "never_worse"]
"""Who is scored by what: everybody by the fused network, or by what is surely better on their modalities."""


class Comparison(Declared):
    """What the fused model is compared with, and how, out-of-fold.

    Attributes:
        margin: a gain in AUROC below this is of no clinical use; it separates "does not help" from
            "cannot tell".
        fusions: further fusions, each fitted on the same folds: kinds, or whole blocks as under ``fusion``.
    """

    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 2000
    fusions: Annotated[tuple[Fusion, ...], Field(max_length=24)] = ()

    @field_validator("fusions", mode="before")
    @classmethod
    def _by_kind(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        return [{"kind": one} if isinstance(one, str) else one for one in given]


class Folds(Declared):
    """How often the training patients are divided into outer folds; cohort.yaml says how they are divided.

    Attributes:
        repeats: cross-validations, each with other folds; "auto" is 3 below 50 events (or non-events) and 1
            above.
    """

    repeats: Annotated[int, Field(ge=1, le=50)] | Literal["auto"] = "auto"

    def count(self, events: int) -> int:
        """Return the repeats for so many patients of the rarer class."""
        if self.repeats != "auto":
            return self.repeats
        return AUTO_REPEATS if events < FEW_EVENTS else 1


class Promotion(Declared):
    """What a model must show, out-of-fold, to be registered as ``champion``; every rule that is given.

    Attributes:
        not_worse_than_best_single: margin in AUROC: the lower bound of the paired difference between the
            fused model and the best modality alone must not lie below minus this.
        calibration_slope: bounds of the slope of the cross-fitted risks.
        red_team: the worst grade of finding that a champion may have.
    """

    not_worse_than_best_single: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    calibration_slope: tuple[float, float] | None = None
    red_team: Literal["nothing", "look", "shortcut"] | None = None

    @model_validator(mode="after")
    def _some(self) -> Promotion:
        if not self.model_fields_set:
            raise ValueError("promotion needs a rule: " + ", ".join(type(self).model_fields))
        bounds = self.calibration_slope
        if bounds and not 0 <= bounds[0] < bounds[1]:
            raise ValueError("calibration_slope is [lower, upper], for example [0.8, 1.25]")
        return self
