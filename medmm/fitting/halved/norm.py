"""Group norm, alone or with the ReLU behind it, on channels-last bfloat16.

Torch's own is fast where a group has many channels. With few, its way back takes ten times as long as with
channels first, and the way there and back between the two layouts longer than both norms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medmm.fitting.halved.forms import LAST, halving, with_last

VECTOR = 16
"""Channels of a group from which on torch's own group norm is fast with channels last."""


class _Normed(torch.autograd.Function):
    """Group norm of channels-last tensors, and a ReLU if it is wanted."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, rectified: bool
    ) -> Tensor:
        """Return the normed ``[batch, channel, *shape]``."""
        from medmm.fitting.halved import loops  # here, since numba takes long to import and few fits need it

        found = torch.empty_like(x)
        numbers = (weight.detach().numpy(), bias.detach().numpy())
        ctx.known = loops.normed(
            loops.rows(x), *numbers, groups, eps, rectified=rectified, found=loops.rows(found)
        )
        ctx.save_for_backward(x, weight, *([found] if rectified else []))
        return found

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the weight and the bias."""
        from medmm.fitting.halved import loops

        x, weight, *rest = ctx.saved_tensors
        slope = with_last(given[0])
        found = torch.empty_like(x)
        steep = loops.rows(slope)
        read = loops.rows(rest[0]) if rest else steep
        ours = loops.way_back(
            steep, loops.rows(x), read, weight.detach().numpy(), ctx.known, found=loops.rows(found)
        )
        return found, *torch.from_numpy(ours).to(weight).unbind(), None, None, None


class Norm(nn.GroupNorm):
    """A group norm that leaves its channels last."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the normed ``[batch, channel, *shape]``."""
        return self._normed(input) if self._few(input) else super().forward(input)

    def _few(self, x: Tensor) -> bool:
        return halving(x) and x.ndim in LAST and self.num_channels // self.num_groups < VECTOR

    def _normed(self, x: Tensor, *, rectified: bool = False) -> Tensor:
        last = with_last(x.to(torch.bfloat16))
        apply: Any = _Normed.apply  # torch gives it no types
        found: Tensor = apply(last, self.weight, self.bias, self.num_groups, self.eps, rectified)
        return found


class RectifiedNorm(Norm):
    """A group norm with the ReLU that followed it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return what is above 0 of the normed ``[batch, channel, *shape]``."""
        if self._few(input):
            return self._normed(input, rectified=True)
        return torch.relu(nn.GroupNorm.forward(self, input))


class Rectified(nn.ReLU):
    """A ReLU that the norm before it has done."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the input."""
        return input


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    Norm: nn.GroupNorm,
    RectifiedNorm: nn.GroupNorm,
    Rectified: nn.ReLU,
}
"""By a fast layer the one whose place it takes."""


def fast(module: nn.Module) -> type[nn.Module] | None:
    """Return the class that computes a norm fast; None for what is none, or one without weights."""
    return Norm if type(module) is nn.GroupNorm and module.affine else None
