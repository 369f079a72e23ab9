"""Images for a page: slices as they were acquired, the attribution on them, and what a network sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medmm.arrays import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One plane of an image, and the attribution on it.

    Attributes:
        pixels: values, ``Float[a b]``; see ``axes``.
        number: 1-based slice number n, counted from the inferior, posterior or left end; 1 in 2-D.
        spacing_mm: along the two axes of ``pixels``, or None when not recorded (then no scale is drawn).
        axes: where each array axis increases to: ("R", "A") for an axial plane of a RAS+ volume, ("R", "S")
            for a coronal, ("A", "S") for a sagittal one; None for [row, column] as displayed.
        edges: letters (left, right, top, bottom) of an image "as displayed"; empty where not recorded.
        map: attribution in log-odds, same shape, or None where it is withheld or was not computed.
    """

    pixels: Floats
    number: int
    spacing_mm: tuple[float, float] | None
    axes: tuple[str, str] | None
    edges: tuple[str, str, str, str] = ("", "", "", "")
    map: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageEvidence:
    """What one image block looked like, and what the model took from where.

    Attributes:
        label: the block's label.
        kind: "intensity" or "label_map".
        plane: "axial", "coronal", "sagittal" or "projection".
        slices: the slices to show, in order.
        count: N, slices of the series.
        window: (low, high) of the display, in the units of ``pixels``; ignored for a label map.
        window_text: the window in words ("soft tissue, level 40 HU, width 400 HU"), or empty.
        labels: (value, name) of the structures of a label map.
        gate: "passed", "withheld" or "not_run".
        gate_sentence: what the sanity gate found.
        gap: completeness gap of the map as a share of the logit change, or None without a map.
        flagged: the gap is above what was allowed.
        method: how the map was made ("integrated gradients, 32 steps, from the blurred image").
        note: anything a reader must know before looking.
    """

    label: str
    kind: Literal["intensity", "label_map"]
    plane: Literal["axial", "coronal", "sagittal", "projection"]
    slices: tuple[Slice, ...]
    count: int
    window: tuple[float, float] = (0.0, 1.0)
    window_text: str = ""
    labels: tuple[tuple[int, str], ...] = ()
    gate: Literal["passed", "withheld", "not_run"] = "not_run"
    gate_sentence: str = ""
    gap: float | None = None
    flagged: bool = False
    method: str = ""
    note: str = ""
