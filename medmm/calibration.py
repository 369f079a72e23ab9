"""Applying a fitted calibration: an affine map of the logit, in numpy alone.

Affine in the logit (Platt 1999), so that attributions in log-odds stay additive after calibration: every
value is multiplied by the slope, and the intercept joins the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from medmm.arrays import Float64, Floats
from medmm.errors import BundleError

KEYS = frozenset({"method", "slope", "intercept"})
"""The keys of a calibration written as JSON."""


@dataclass(frozen=True, slots=True)
class Platt:
    """Platt scaling: ``calibrated logit = slope * logit + intercept``.

    Attributes:
        slope: not negative, since a calibration never turns the ranking of patients around.
        intercept: in log-odds.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept) and self.slope >= 0):
            raise ValueError(f"a Platt map needs a finite slope >= 0, not {self.slope}, {self.intercept}")

    def apply(self, logit: Floats | float) -> Float64:
        """Return the calibrated logit, of the shape of ``logit``, in log-odds."""
        return np.asarray(self.slope * np.asarray(logit, dtype=np.float64) + self.intercept)

    def probability(self, logit: Floats | float) -> Float64:
        """Return the calibrated risk, between 0 and 1, of an uncalibrated ``logit``."""
        return sigmoid(self.apply(logit))

    def to_json(self) -> dict[str, str | float]:
        """Return the map as JSON values; :meth:`from_json` is the inverse, bit for bit."""
        return {"method": "platt", "slope": self.slope, "intercept": self.intercept}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Platt:
        """Read the map from the JSON values of :meth:`to_json`.

        Raises:
            BundleError: if a key is missing or unknown, or a number cannot be one.
        """
        slope, intercept = values.get("slope"), values.get("intercept")
        if set(values) != KEYS or values["method"] != "platt":
            raise BundleError(
                f"calibration: expected a platt map with {sorted(KEYS)}, found {sorted(values)}"
            )
        if not (_is_number(slope) and _is_number(intercept)):
            raise BundleError("calibration: slope and intercept must be numbers")
        try:
            return cls(float(str(slope)), float(str(intercept)))
        except ValueError as error:
            raise BundleError(f"calibration: {error}") from error


@dataclass(frozen=True, slots=True)
class Shifted:
    """One slope for every logit and an offset for each: ``calibrated logit k = slope * logit k + offset k``.

    Of classes, a temperature and a bias per class (Alexandari et al. 2020); of levels, a slope and the
    thresholds; of hazards, a level per interval; of a quantity, a straight line into its unit.

    Attributes:
        slope: not negative, as in :class:`Platt`.
        offsets: one per calibrated logit.
        spread: whether one logit is spread over all offsets, as levels and proportional hazards are.
    """

    slope: float
    offsets: tuple[float, ...]
    spread: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope >= 0 and all(map(math.isfinite, self.offsets))):
            raise ValueError("a calibration needs a finite slope >= 0 and finite offsets")

    def apply(self, logits: Floats | float) -> Float64:
        """Return calibrated logits: of ``[..., output]``, or of ``[...]`` where one is spread."""
        values = np.asarray(logits, dtype=np.float64)
        if self.spread:
            return np.asarray(self.slope * values[..., None] + np.asarray(self.offsets))
        return np.asarray(
            self.slope * values + (np.asarray(self.offsets) if len(self.offsets) > 1 else self.offsets[0])
        )

    def to_json(self) -> dict[str, object]:
        """Return the map as JSON values."""
        return {
            "method": "shifted",
            "slope": self.slope,
            "offsets": list(self.offsets),
            "spread": self.spread,
        }


Calibration: TypeAlias = Platt | Shifted


def flat_told(calibrations: Mapping[str, Calibration]) -> list[str]:
    """Say of which outcomes every patient is told the same, because the calibration's slope is 0."""
    return [
        f"{outcome}: out-of-fold the fused model does not rank the patients, so its calibration (slope 0)"
        " gives all of them the same; its scores tell nothing"
        for outcome, calibration in calibrations.items()
        if calibration.slope == 0
    ]


def calibration_from_json(values: Mapping[str, object]) -> Calibration:
    """Read either map from its JSON values.

    Raises:
        BundleError: if they are none.
    """
    if values.get("method") != "shifted":
        return Platt.from_json(values)
    offsets, slope = values.get("offsets"), values.get("slope")
    if not (isinstance(offsets, list) and offsets and all(map(_is_number, [*offsets, slope]))):
        raise BundleError("calibration: a slope and a list of offsets, all numbers, are expected")
    try:
        return Shifted(float(str(slope)), tuple(map(float, offsets)), bool(values.get("spread")))
    except ValueError as error:
        raise BundleError(f"calibration: {error}") from error


def sigmoid(logit: Floats | float) -> Float64:
    """Return ``1 / (1 + exp(-logit))``, between 0 and 1, without overflow for any finite logit."""
    values = np.asarray(logit, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1.0, small) / (1.0 + small))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
