"""The blocks ``folds`` and ``promotion`` of a recipe: how a model is chosen, and what makes it champion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medmm.columns import Declared

FEW_EVENTS = 50
"""Events below which one division into folds is no figure to rest on (rules of fusion)."""

AUTO_REPEATS = 3
"""Repeats below :data:`FEW_EVENTS` where a recipe does not say."""


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
