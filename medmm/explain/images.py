"""The image part of a patient's page: the slices as acquired, and where the logit comes from."""

from __future__ import annotations

from typing import Literal

import numpy as np

from medmm.arrays import Float32
from medmm.columns import ImageSpec
from medmm.dicom import Volume
from medmm.explain.explainer import Explainer
from medmm.modalities.image import Image
from medmm.outcome import Component
from medmm.report.images import ImageEvidence, Slice
from medmm.scorer import Observed

SLICES = 6
"""Slices shown of a volume."""

TAIL = 0.05
"""Share of the attribution (or of the image's content) left outside the slices shown, at either end."""

PLANES: tuple[Literal["sagittal", "coronal", "axial"], ...] = ("sagittal", "coronal", "axial")
TOWARDS = ("R", "A", "S")


def image_evidence(
    explainer: Explainer, observed: Observed, name: str, component: Component | None = None
) -> ImageEvidence:
    """Return the original slices of one image with its attribution, withheld where the gate failed.

    Raises:
        ExplanationError: if torch and the scored logit disagree by more than 1e-5.
    """
    modality = explainer.bundle.modalities[name]
    assert isinstance(modality, Image)
    spec: ImageSpec = modality.declaration
    volume: Volume = observed.loaded[name]
    gate = explainer.gate(name, component, explainer.scorer.route(observed))
    found = explainer.image_map(observed, name, component) if gate.get("passed") else None
    heat = modality.on_source_grid(volume, found.spatial) if found else None
    values = volume.array.astype(np.float32)
    values = values if values.ndim == 3 and volume.affine is not None else _grey(values)
    parts, plane = _slices(values, heat, volume)
    low, high = _window(values, volume, modality)
    return ImageEvidence(
        label=spec.label or name,
        kind=spec.kind,
        plane=plane,
        slices=parts,
        count=values.shape[_through(volume)] if values.ndim == 3 else 1,
        window=(low, high),
        window_text=f"{low:g} to {high:g}" if spec.kind == "intensity" else "",
        labels=label_texts(spec),
        gate="passed" if found else "withheld" if gate else "not_run",
        gate_sentence=str(gate.get("sentence", "")),
        gap=found.gap if found else None,
        flagged=found.flagged if found else False,
        method=f"integrated gradients, {found.steps} steps, from the blurred image" if found else "",
    )


def label_texts(spec: ImageSpec) -> tuple[tuple[int, str], ...]:
    """Return (value, what a reader is shown) of the structures of a label map."""
    return tuple((label, spec.label_names.get(label, f"label {label}")) for label in spec.labels)


def _slices(
    values: Float32, heat: Float32 | None, volume: Volume
) -> tuple[tuple[Slice, ...], Literal["sagittal", "coronal", "axial", "projection"]]:
    if values.ndim == 2:
        spacing = (float(volume.spacing_mm[0]), float(volume.spacing_mm[1])) if volume.spacing_mm else None
        return (Slice(pixels=values, number=1, spacing_mm=spacing, axes=None, map=heat),), "projection"
    axis = _through(volume)
    inside = [other for other in range(3) if other != axis]
    steps = [float(volume.spacing_mm[other]) for other in inside] if volume.spacing_mm else None
    content = np.abs(heat) if heat is not None else np.abs(values - np.median(values))
    shown = []
    for index in _chosen(content.sum(axis=tuple(inside))):
        shown.append(
            Slice(
                pixels=np.take(values, index, axis=axis),
                number=index + 1,
                spacing_mm=(steps[0], steps[1]) if steps else None,
                axes=(TOWARDS[inside[0]], TOWARDS[inside[1]]),
                map=np.take(heat, index, axis=axis) if heat is not None else None,
            )
        )
    return tuple(shown), PLANES[axis]


def _chosen(weight: Float32) -> list[int]:
    """Return the indices of up to six slices, evenly spread over where the weight lies."""
    share = np.cumsum(weight) / max(float(weight.sum()), 1e-12)
    first = int(np.searchsorted(share, TAIL))
    last = min(int(np.searchsorted(share, 1 - TAIL)), len(weight) - 1)
    return sorted({round(float(index)) for index in np.linspace(first, max(first, last), SLICES)})


def _through(volume: Volume) -> int:
    """Return the axis across the acquired slices: the one with the largest spacing."""
    return int(np.argmax(volume.spacing_mm)) if volume.spacing_mm else 2


def _grey(values: Float32) -> Float32:
    return values if values.ndim == 2 else np.asarray(values.mean(axis=-1), dtype=np.float32)


def _window(values: Float32, volume: Volume, modality: Image) -> tuple[float, float]:
    """Return the display window: the recipe's, else the middle 98 % of the valid pixels."""
    if modality.settings.window:
        return modality.settings.window
    valid = values[volume.valid] if volume.valid.shape == values.shape else values
    low, high = np.percentile(valid, (1, 99))
    return float(low), float(max(high, low + 1e-6))
