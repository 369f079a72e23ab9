"""Random variation of image batches; a torch generator is the only source of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def flipped(batch: Tensor, axes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return ``[batch, channel, *shape]`` with each image mirrored along each axis with probability 0.5."""
    mirrors = [(torch.rand(len(batch), generator=generator) < 0.5).tolist() for _ in axes]
    turned = torch.empty_like(batch)
    # Image by image each voxel is moved once, while it is in the processor's cache.
    for place, image, *mirrored in zip(turned, batch, *mirrors, strict=True):
        along = [axis - 1 for axis, mirror in zip(axes, mirrored, strict=True) if mirror]
        place.copy_(image.flip(along) if along else image)
    return turned


def shifted(batch: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Return ``[batch, channel, *shape]`` with each image moved by up to ``largest`` voxels per axis.

    What moves in at an edge repeats the voxels of that edge.
    """
    if largest == 0:
        return batch
    drawn = [
        torch.randint(-largest, largest + 1, (len(batch),), generator=generator) for _ in batch.shape[2:]
    ]
    limits = [size - 1 for size in batch.shape[2:]]
    moved = torch.empty_like(batch)
    for place, image, *steps in zip(moved, batch, *(axis.tolist() for axis in drawn), strict=True):
        _move(place, image, [min(max(step, -most), most) for step, most in zip(steps, limits, strict=True)])
    return moved


def _move(place: Tensor, image: Tensor, steps: Sequence[int]) -> None:
    """Write ``[channel, *shape]`` to ``place``, voxel ``i`` of each axis from voxel ``i + step``."""
    kept, found = place, image
    for axis, step in enumerate(steps, start=1):
        length = place.shape[axis] - abs(step)
        kept, found = kept.narrow(axis, max(-step, 0), length), found.narrow(axis, max(step, 0), length)
    kept.copy_(found)
    for axis, step in enumerate(steps, start=1):
        bare, edge = (place.shape[axis] - step, place.shape[axis] - step - 1) if step > 0 else (0, -step)
        place.narrow(axis, bare, abs(step)).copy_(place.narrow(axis, edge, 1))


def turned(batch: Tensor, degrees: float, zoom: float, generator: torch.Generator) -> Tensor:
    """Return ``[batch, channel, *shape]`` with each image rotated and zoomed about its middle.

    One rotation in 2-D and one about each axis in 3-D, each even within ``±degrees``; the size is changed by
    a factor even within ``1 ± zoom``, the same along all axes. Interpolated linearly in one call for the
    whole batch, by MONAI's AffineTransform; the voxels of the edge are repeated.
    """
    if not degrees and not zoom:
        return batch
    from monai.networks.layers import AffineTransform

    axes = batch.ndim - 2
    angles = (2 * torch.rand(len(batch), axes, generator=generator) - 1) * math.radians(degrees)
    factor = 1 + (2 * torch.rand(len(batch), 1, 1, generator=generator) - 1) * zoom
    planes = [(0, 1)] if axes == 2 else [(1, 2), (0, 2), (0, 1)]
    theta = torch.eye(axes).repeat(len(batch), 1, 1)
    for angle, plane in zip(angles.unbind(1), planes, strict=False):
        theta = theta @ _rotation(angle, plane, axes)
    theta = torch.cat([theta / factor, torch.zeros(len(batch), axes, 1)], dim=2)
    move = AffineTransform(mode="bilinear", padding_mode="border", normalized=False, zero_centered=True)
    moved: Tensor = move(batch, theta.to(batch), spatial_size=tuple(batch.shape[2:]))
    return moved


def intensified(
    batch: Tensor, generator: torch.Generator, *, contrast: float, blur_voxels: float, noise: float
) -> Tensor:
    """Return ``[batch, channel, *shape]`` with changed contrast, blur and noise, each drawn per image.

    Args:
        batch: the images.
        generator: the only source of chance.
        contrast: the deviations from an image's mean are scaled by a factor even within ``1 ± contrast``.
        blur_voxels: standard deviation of a Gaussian (MONAI's GaussianFilter), even within 0 and this; one
            width for the whole batch, so that it is one convolution.
        noise: standard deviation of added Gaussian noise.
    """
    per_image = (len(batch), *(1,) * (batch.ndim - 1))
    if contrast:
        factor = 1 + (2 * torch.rand(per_image, generator=generator) - 1) * contrast
        mean = batch.flatten(1).mean(dim=1).view(per_image)
        batch = mean + (batch - mean) * factor.to(batch)
    if blur_voxels:
        from monai.networks.layers import GaussianFilter

        sigma = float(torch.rand(1, generator=generator)) * blur_voxels
        batch = GaussianFilter(batch.ndim - 2, max(sigma, 1e-3))(batch)
    if noise:
        batch = batch + noise * torch.randn(batch.shape, generator=generator).to(batch)
    return batch


def _rotation(angle: Tensor, plane: tuple[int, int], axes: int) -> Tensor:
    """Return rotations ``[batch, axes, axes]`` by an angle per image, in the plane of two axes."""
    first, second = plane
    turn = torch.eye(axes).repeat(len(angle), 1, 1)
    turn[:, first, first] = turn[:, second, second] = angle.cos()
    turn[:, first, second], turn[:, second, first] = -angle.sin(), angle.sin()
    return turn
