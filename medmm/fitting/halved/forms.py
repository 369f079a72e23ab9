"""How a tensor lies in memory, and whether bfloat16 is computed in."""

from __future__ import annotations

import torch
from torch import Tensor

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the dimensions of a tensor, the form in which its channels lie last."""


def halving(given: Tensor) -> bool:
    """Tell whether a layer that is given this computes in bfloat16 on a CPU."""
    return given.device.type == "cpu" and torch.is_autocast_enabled("cpu")


def in_rows(x: Tensor) -> Tensor:
    """Return ``[batch, place, channel]`` of ``[batch, channel, *shape]``: a view where channels lie last."""
    return x.movedim(1, -1).flatten(1, -2)


def with_last(x: Tensor) -> Tensor:
    """Return the same ``[batch, channel, *shape]`` with its channels last in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)
