"""Torch encoders, one file per kind of input; each has an integer attribute ``out_features``."""

from __future__ import annotations

MOST_EVENTS = 512
"""Results of one course, all codes together: their places in time then fit the 24 exact bits of a float32."""
