"""Applying a fitted calibration: an affine map of the logit, in numpy alone.

Affine in the logit (Platt 1999), so that attributions in log-odds stay additive after calibration: every
value is multiplied by the slope, and the intercept joins the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


def sigmoid(logit: Floats | float) -> Float64:
    """Return ``1 / (1 + exp(-logit))``, between 0 and 1, without overflow for any finite logit."""
    values = np.asarray(logit, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1.0, small) / (1.0 + small))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
