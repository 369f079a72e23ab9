"""Layers that are fast in bfloat16 on a CPU, in the place of slow ones while a network is fitted.

Under autocast oneDNN's convolutions run several times as fast on tensors whose channels lie last. Three
things stand in the way, each measured on a Xeon with amx_bf16: weights that lie otherwise; torch's group norm
with few channels in a group, whose way back takes ten times as long as with channels first; and the first
convolution, which has one channel to multiply: of a large image it is folded, of a volume it stays in
float32, where it takes 0.6 of the time. In float32 the layers compute as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the dimensions of a tensor, the form in which its channels lie last."""

VECTOR = 16
"""Channels of a group from which on torch's own group norm is fast with channels last."""

CACHED = 2**18
"""Values of a patient up to which a norm is faster with channels first, the way there and back included."""

FEW, WIDE = 2, 5
"""Channels up to which a convolution is a first one; voxels along an axis from which it gains by folding."""


class _Normed(torch.autograd.Function):
    """Group norm of channels-last tensors, sample by sample on the kernels of batch norm.

    With ``x̂ = (x - μ) / σ`` of a group of ``k`` values and ``δ = γ ∂y`` the gradient is
    ``(δ - Σδ/k - x̂ Σδx̂/k) / σ`` (Wu & He 2018).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Return the normed ``[batch, channel, *shape]``."""
        samples, channels = x.shape[:2]
        zeros, ones = x.new_zeros(channels, dtype=torch.float32), weight.new_ones(channels)
        found = [
            torch.ops.aten.batch_norm_update_stats(one, zeros.clone(), ones.clone(), 0.0)
            for one in torch.split(x, 1)
        ]
        means, spreads = (torch.stack(parts).view(samples, groups, -1) for parts in zip(*found, strict=True))
        mean = means.mean(dim=2, keepdim=True)
        spread = (spreads + (means - mean) ** 2).mean(dim=2, keepdim=True)
        mean, inverse = (
            t.expand_as(means).reshape(samples, channels) for t in (mean, (spread + eps).rsqrt())
        )
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.groups = groups
        scale = inverse * weight
        return _scaled(x, scale, bias - mean * scale)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the weight and the bias."""
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = given[0].contiguous(memory_format=LAST[x.ndim])
        sums = [
            torch.ops.aten.native_batch_norm_backward(
                slope, one, weight, None, None, middle, narrow, True, 0.0, [False, True, True]
            )[1:]
            for slope, one, middle, narrow in zip(
                torch.split(gradient, 1), torch.split(x, 1), mean, inverse, strict=True
            )
        ]
        along, whole = (torch.stack(parts) for parts in zip(*sums, strict=True))  # Σ∂y x̂ and Σ∂y by channel

        def shared(by_channel: Tensor) -> Tensor:
            grouped = (by_channel * weight).view(len(x), ctx.groups, -1)
            count = grouped.shape[2] * x[0, 0].numel()
            means: Tensor = grouped.sum(dim=2, keepdim=True) / count
            return means.expand_as(grouped).reshape(by_channel.shape)

        slope = -(inverse**2) * shared(along)
        found = _scaled(x, slope, -slope * mean - inverse * shared(whole))
        found += _scaled(gradient, inverse * weight, torch.zeros_like(mean))
        return found, along.sum(dim=0), whole.sum(dim=0), None, None


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``x`` times a scale and plus a shift, each ``[batch, channel]``; computed in float32."""
    zeros, ones = torch.zeros_like(scale[0]), torch.ones_like(scale[0])
    found, none = torch.empty_like(x), x.new_empty(0, dtype=torch.float32)
    for one, much, more, out in zip(torch.split(x, 1), scale, shift, torch.split(found, 1), strict=True):
        torch.ops.aten.native_batch_norm.out(
            one, much, more, zeros, ones, False, 0.0, 0.0, out=out, save_mean=none, save_invstd=none
        )
    return found


class _Norm(nn.GroupNorm):
    """A group norm that leaves its channels last."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the normed ``[batch, channel, *shape]``."""
        form = LAST.get(input.ndim)
        if input.dtype != torch.bfloat16 or form is None or input.device.type != "cpu":
            return super().forward(input)
        few = self.num_channels // self.num_groups < VECTOR
        if few and input[0].numel() > CACHED and not input.is_contiguous():
            last = input.contiguous(memory_format=form)
            apply: Any = _Normed.apply  # torch gives it no types
            found: Tensor = apply(last, self.weight, self.bias, self.num_groups, self.eps)
            return found
        return super().forward(input.contiguous() if few else input).contiguous(memory_format=form)


def _folded(x: Tensor) -> Tensor:
    """Return ``[batch, channel · 2^n, *half]``, channels last: each 2-voxel block becomes channels."""
    spatial = range(x.ndim - 2)
    blocks = x.view(*x.shape[:2], *(part for size in x.shape[2:] for part in (size // 2, 2)))
    order = [0, *(2 + 2 * axis for axis in spatial), 1, *(3 + 2 * axis for axis in spatial)]
    last = blocks.permute(order).flatten(x.ndim - 1)
    return last.movedim(-1, 1)


class _Begun:
    """Mixed into a convolution of stride 2 that begins a network: the same sums over folded channels."""

    weight: Tensor
    bias: Tensor | None
    padding: Any

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return ``[batch, channel, *shape]``."""
        if not (input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            found: Tensor = super().forward(input)  # type: ignore[misc]
            return found
        before: list[int] = []
        behind: list[int] = []
        for size, kernel, pad in zip(input.shape[2:], self.weight.shape[2:], self.padding, strict=True):
            half = -(-kernel // 2)
            steps = (size + 2 * pad - kernel) // 2 + 1
            before = [pad, 2 * (steps + half - 1) - size - pad, *before]
            behind = [0, 2 * half - kernel, *behind]
        half_type = torch.bfloat16
        image, weight = F.pad(input.to(half_type), before), F.pad(self.weight.to(half_type), behind)
        convolve = F.conv2d if input.ndim == 4 else F.conv3d
        return convolve(_folded(image), _folded(weight), self.bias)


class _Begun2d(_Begun, nn.Conv2d):
    """In two dimensions."""


class _Begun3d(_Begun, nn.Conv3d):
    """In three."""


class _Whole3d(nn.Conv3d):
    """A convolution of one or two channels in float32; what it gives is in bfloat16."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return ``[batch, channel, *shape]``."""
        if not (input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.bfloat16)


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    _Norm: nn.GroupNorm,
    _Begun2d: nn.Conv2d,
    _Begun3d: nn.Conv3d,
    _Whole3d: nn.Conv3d,
}
"""By a fast layer the one whose place it takes."""


def halve(network: nn.Module) -> None:
    """Lay the network's weights channels-last, and give its layers their fast forward passes."""
    for module in network.modules():
        module.__class__ = _fast(module)
    _laid(network, LAST)


def restore(network: nn.Module) -> None:
    """Undo :func:`halve`, where it was done; the weights keep their values."""
    for module in network.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    _laid(network, dict.fromkeys(LAST, torch.contiguous_format))


def _fast(module: nn.Module) -> type[nn.Module]:
    """Return the class that computes a layer fast in bfloat16; its own where there is no other."""
    kind = type(module)
    if kind is nn.GroupNorm:
        return _Norm
    if not isinstance(module, nn.Conv2d | nn.Conv3d) or kind not in PLAIN.values():
        return kind
    if _begins(module):
        return _Begun2d if isinstance(module, nn.Conv2d) else _Begun3d
    return _Whole3d if isinstance(module, nn.Conv3d) and module.in_channels <= FEW else kind


def _laid(network: nn.Module, forms: dict[int, torch.memory_format]) -> None:
    for parameter in network.parameters():
        if parameter.ndim in forms:
            parameter.data = parameter.data.contiguous(memory_format=forms[parameter.ndim])


def _begins(module: nn.Conv2d | nn.Conv3d) -> bool:
    """Tell whether it is a large convolution of few channels, by steps of two, that folding changes not."""
    if isinstance(module.padding, str):
        return False
    plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    return (
        plain and set(module.stride) == {2} and module.in_channels <= FEW and min(module.kernel_size) >= WIDE
    )
