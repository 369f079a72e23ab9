"""Random variation of image batches; a torch generator is the only source of chance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flipped(batch: Tensor, axes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return ``[batch, channel, *shape]`` with each image mirrored along each axis with probability 0.5."""
    for axis in axes:
        mirror = torch.rand(len(batch), generator=generator) < 0.5
        shape = (-1,) + (1,) * (batch.ndim - 1)
        batch = torch.where(mirror.view(shape).to(batch.device), batch.flip(axis), batch)
    return batch


def shifted(batch: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Return ``[batch, channel, *shape]`` with each image moved by up to ``largest`` voxels per axis.

    What moves in at an edge repeats the voxels of that edge.
    """
    if largest == 0:
        return batch
    for axis in range(2, batch.ndim):
        size = batch.shape[axis]
        steps = torch.randint(-largest, largest + 1, (len(batch), 1), generator=generator)
        index = (torch.arange(size) + steps).clamp(0, size - 1).to(batch.device)  # [batch, size]
        shape = [len(batch), *(1 for _ in range(batch.ndim - 1))]
        shape[axis] = size
        batch = batch.gather(axis, index.view(shape).expand(batch.shape))
    return batch
