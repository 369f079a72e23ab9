"""Series that were chosen and could not be used: how many, why, and what would let them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from medmm.columns import ImageSpec
from medmm.dicom.regrid import RESAMPLED
from medmm.fitting.inputs import Prepared
from medmm.modality import Modality

SAME_ADVICE: Mapping[str, str] = {
    "multiple_volumes": "`volume` in cohort.yaml says which one is meant",
    "no_volume": "`volume` in cohort.yaml names values that they do not have",
    "no_mask": "without `mask` in the recipe they would be used",
}
"""What to do about a reason, whatever the block."""


def refused_series(modality: Modality, prepared: Prepared) -> str:
    """Return one sentence about the series of an image block that were chosen and refused, "" where none was.

    Args:
        modality: of the block.
        prepared: its images, of every patient.
    """
    rows = [row for row in prepared.certificates if row["status"] == "refused"]
    if not rows or not isinstance(modality.declaration, ImageSpec):
        return ""
    counts = Counter(str(row["reason"]) for row in rows)
    told = [
        f"{reason} {count}{_parenthesis(_advice(modality, reason, rows))}"
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    total = len(prepared.certificates)
    return f"{modality.name}: {len(rows)} of {total} chosen series cannot be used: {', '.join(told)}"


def _advice(modality: Modality, reason: str, rows: list[Mapping[str, Any]]) -> str:
    """Return what to do about a reason, and what is wrong with the most of the series that have it."""
    if reason in RESAMPLED and getattr(modality.settings, "resample", None) is False:
        return "`resample: true` in the recipe interpolates what it can"
    details = Counter(str(row["detail"]) for row in rows if row["reason"] == reason)
    detail = max(sorted(details), key=details.__getitem__)
    such_as = f"such as: {detail}" if detail and len(details) > 1 else detail
    return "; ".join(filter(None, (such_as, SAME_ADVICE.get(reason, ""))))


def _parenthesis(text: str) -> str:
    return f" ({text})" if text else ""
