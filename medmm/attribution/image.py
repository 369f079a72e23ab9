"""Where in an image a logit comes from: integrated gradients from the blurred image itself.

The map is localisation, relative: it is printed with its completeness gap and never rescaled to fit. The
baseline is the patient's own image without its detail, so no other patient's image is needed or stored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medmm.arrays import Bools, Float32, Float64
from medmm.attribution.game import TOLERANCE
from medmm.errors import ExplanationError

if TYPE_CHECKING:
    from torch import Tensor

    from medmm.network.network import Network

BLUR = 0.1
"""Standard deviation of the Gaussian that makes the baseline, as a share of the image's size per axis."""

SMALLEST_CHANGE = 0.05
"""Log-odds: where image and baseline differ by less, the gap is taken against this instead."""

VOXELS_AT_ONCE = 4_000_000
"""Voxels of interpolated images in one gradient pass; keeps the memory of a pass below about 1 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageMap:
    """Attributions of one image.

    Attributes:
        values: log-odds per voxel and channel, of the shape of the network's input.
        change: logit of the patient minus the logit with the blurred image; what the values should sum to.
        gap: ``|sum(values) - change|`` as a share of ``|change|``.
        steps: interpolated images used.
        flagged: the gap stayed above the tolerance.
        logit: the patient's logit as torch computes it.
    """

    values: Float32
    change: float
    gap: float
    steps: int
    flagged: bool
    logit: float

    @property
    def spatial(self) -> Float32:
        """Values summed over channels: log-odds per voxel, of the image's spatial shape."""
        return np.asarray(self.values.sum(axis=0), dtype=np.float32)


def integrated_gradients(
    network: Network,
    inputs: Mapping[str, Float32],
    present: Bools,
    name: str,
    *,
    steps: int = 16,
    max_steps: int = 64,
    tolerance: float = 0.05,
) -> ImageMap:
    """Attribute the fused logit to the voxels of one image; everything else of the patient stays fixed.

    The steps are doubled until the completeness gap is within the tolerance.

    Args:
        network: the fitted network; a frozen copy is used, the network itself is not touched.
        inputs: one patient's inputs by modality, without a batch axis; absent ones need no key.
        present: ``[modality]``, in the network's order.
        name: the image; ``[channel x y]`` or ``[channel x y z]``.
        steps: interpolated images to start with.
        max_steps: interpolated images at most.
        tolerance: completeness gap that is not flagged, as a share of the change.

    Source: Sundararajan et al. 2017; blurred baseline, Sturmfels et al. 2020; midpoint rule.

    Raises:
        ExplanationError: if the patient lacks the image, or a logit is not finite.
    """
    path = LogitOfImage(network, inputs, present, name)
    image = np.asarray(inputs[name], dtype=np.float32)
    baseline = blurred(image)
    logit, blank = path.logits(np.stack([image, baseline]))
    change = float(logit - blank)
    while True:
        values = path.mean_gradient(baseline, image, steps) * (image - baseline)
        missed = abs(float(values.sum(dtype=np.float64)) - change)
        gap = missed / max(abs(change), SMALLEST_CHANGE)
        if gap <= tolerance or 2 * steps > max_steps:
            break
        steps *= 2
    return ImageMap(values, change, gap, steps, flagged=gap > tolerance, logit=float(logit))


def blurred(image: Float32) -> Float32:
    """Return an image ``[channel, *shape]`` without its detail: a Gaussian blur of each channel."""
    from scipy.ndimage import gaussian_filter

    sigma = [0.0, *(BLUR * size for size in image.shape[1:])]
    return np.asarray(gaussian_filter(image, sigma, mode="nearest"), dtype=np.float32)


def check_agreement(image_map: ImageMap, logit: float) -> None:
    """Refuse a map whose network does not give the logit on record, which is ONNX Runtime's.

    Raises:
        ExplanationError: if they differ by more than 1e-5.
    """
    if not abs(image_map.logit - logit) <= TOLERANCE:
        raise ExplanationError(
            f"image: torch is {abs(image_map.logit - logit):.1e} away from the logit on record (allowed "
            f"{TOLERANCE:.0e}), so a map would explain another number"
        )


class LogitOfImage:
    """The fused logit as a function of one image, with everything else of a patient encoded once.

    Args:
        network: copied and frozen.
        inputs: one patient's inputs by modality, without a batch axis.
        present: ``[modality]``, in the network's order.
        name: the image that varies.

    Raises:
        ExplanationError: if the patient lacks the image.
    """

    def __init__(self, network: Network, inputs: Mapping[str, Float32], present: Bools, name: str) -> None:
        import torch

        if name not in inputs or not present[network.names.index(name)]:
            raise ExplanationError(f"{name}: absent for this patient, so there is no image to attribute to")
        self._network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self._present = torch.from_numpy(np.asarray(present, dtype=np.float32))[None]
        self._name = name
        self._fixed: dict[str, Tensor] = {}
        for k, other in enumerate(network.names):
            if other != name and present[k]:
                row = torch.from_numpy(np.asarray(inputs[other], dtype=np.float32))[None]
                self._fixed[other] = self._network.encode(other, row)
            elif other != name:
                self._fixed[other] = torch.zeros(1, network.widths[other])

    def logits(self, images: Float32) -> Float64:
        """Return the logits ``[batch]`` of images ``[batch, channel, *shape]``.

        Raises:
            ExplanationError: if one is not finite.
        """
        import torch

        with torch.no_grad():
            parts = [self._forward(torch.from_numpy(images[rows])) for rows in _batches(images.shape)]
        logits = np.asarray(torch.cat(parts).numpy(), dtype=np.float64)
        if not np.isfinite(logits).all():
            raise ExplanationError(f"{self._name}: the network gave a logit that is not finite")
        return logits

    def mean_gradient(self, start: Float32, end: Float32, steps: int) -> Float32:
        """Return the mean gradient ``[channel, *shape]`` at the midpoints of a straight path."""
        import torch

        at = ((np.arange(steps) + 0.5) / steps).astype(np.float32)
        total = np.zeros(start.shape, dtype=np.float64)
        for rows in _batches((steps, *start.shape)):
            share = at[rows].reshape(-1, *(1 for _ in start.shape))
            images = torch.from_numpy(start + share * (end - start)).requires_grad_()
            (gradient,) = torch.autograd.grad(self._forward(images).sum(), images)
            total += gradient.numpy().sum(axis=0, dtype=np.float64)
        return np.asarray(total / steps, dtype=np.float32)

    def _forward(self, images: Tensor) -> Tensor:
        batch = len(images)
        embeddings = {name: x.expand(batch, -1) for name, x in self._fixed.items()}
        embeddings[self._name] = self._network.encode(self._name, images)
        return self._network.fuse(embeddings, self._present.expand(batch, -1))


def _batches(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, VOXELS_AT_ONCE // int(np.prod(shape[1:])))
    return (slice(start, start + step) for start in range(0, shape[0], step))
