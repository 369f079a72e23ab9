"""Convolutions of channels-last bfloat16 where oneDNN's are slow or wrong: the first, small maps, groups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmm.fitting.halved.forms import halving, in_rows, with_last

FEW, WIDE = 2, 3
"""Channels up to which a convolution is a first one; voxels along an axis from which it gains by folding."""

PLACES = 2048
"""Places of a batch's map up to which a volume's convolution is faster as a product of matrices."""


def _folded(weight: Tensor) -> Tensor:
    """Return ``[batch, channel · 2^n, *half]``, channels last: each 2-voxel block becomes channels."""
    spatial = range(weight.ndim - 2)
    blocks = weight.view(*weight.shape[:2], *(part for size in weight.shape[2:] for part in (size // 2, 2)))
    order = [0, *(2 + 2 * axis for axis in spatial), 1, *(3 + 2 * axis for axis in spatial)]
    last = blocks.permute(order).flatten(weight.ndim - 1)
    return last.movedim(-1, 1)


def _folded_image(image: Tensor, front: Sequence[int], blocks: Sequence[int]) -> Tensor:
    """Return the same of an image, with empty blocks in front and behind, ``blocks`` along each axis.

    A corner of all blocks at a time, and two voxels of the last axis as one number of 32 bits: a permutation
    takes up to ten times as long.
    """
    pairs = F.pad(image, [0, image.shape[-1] % 2]).to(torch.bfloat16).contiguous().view(torch.int32)
    corners = list(product(range(image.shape[1]), *[(0, 1)] * (image.ndim - 3)))
    found = pairs.new_zeros(len(image), *blocks, len(corners))
    everyone = slice(None)
    for place, (channel, *corner) in enumerate(corners):
        part = pairs[:, channel][(everyone, *(slice(begin, None, 2) for begin in corner))]
        many = [min(size, much - at) for size, much, at in zip(part.shape[1:], blocks, front, strict=True)]
        window = [slice(at, at + size) for at, size in zip(front, many, strict=True)]
        found[..., place][(everyone, *window)] = part[(everyone, *(slice(size) for size in many))]
    return found.view(torch.bfloat16).movedim(-1, 1)


class _Product(torch.autograd.Function):
    """A convolution as a product of matrices, and so the gradient of its weights.

    oneDNN takes 18 ms for the latter of 256 to 512 channels on a batch of 4 maps of 4 x 16 x 16, this 4.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> Tensor:
        """Return ``[batch, channel, *shape]``, bfloat16."""
        half, shift = weight.to(torch.bfloat16), None if bias is None else bias.to(torch.bfloat16)
        ctx.save_for_backward(x, half)
        ctx.how = stride, padding, bias is not None
        columns, taps = _columns(x, half.shape[2:], stride, padding), in_rows(half).flatten(1)
        shape = (len(x), *_shape(x, weight, stride, padding), len(half))
        return F.linear(columns, taps, shift).view(shape).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the weight and the bias."""
        x, weight = ctx.saved_tensors
        stride, padding, biased = ctx.how
        slope = with_last(given[0])
        dims, wanted = x.ndim - 2, [ctx.needs_input_grad[0], False, False]
        down, *_ = torch.ops.aten.convolution_backward(
            slope, x, weight, None, stride, padding, [1] * dims, False, [0] * dims, 1, wanted
        )
        rows = in_rows(slope).flatten(0, 1)
        flat = rows.t() @ _columns(x, weight.shape[2:], stride, padding)
        steep = flat.view(len(weight), *weight.shape[2:], -1).movedim(-1, 1).float()
        return down, steep, rows.sum(dim=0, dtype=torch.float32) if biased else None, None, None


def _shape(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> torch.Size:
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    return torch.Size((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sizes)


def _columns(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Return what each place of the map is computed from, ``[batch · place, *kernel · channel]``."""
    around = [side for pad in reversed(padding) for side in (pad, pad)]
    windows = F.pad(x.movedim(1, -1), [0, 0, *around])
    for axis, (size, step) in enumerate(zip(kernel, stride, strict=True)):
        windows = windows.unfold(axis + 1, size, step)
    last = windows.movedim(x.ndim - 1, -1)  # unfolding has put the channels before the windows
    return last.reshape(last.shape[: x.ndim - 1].numel(), -1)


class _Small:
    """Mixed into a convolution that is a product of matrices where its map is small.

    Of a map of one voxel along an axis oneDNN's results, and the gradient of the weights, can be of memory
    that nobody has written (torch 2.13): by steps of two along the last axis, or of flat volumes
    (``tests/sweeps/half_convolutions.py``).
    """

    weight: Tensor
    bias: Tensor | None
    stride: Any
    padding: Any

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return ``[batch, channel, *shape]``."""
        shape = _shape(input, self.weight, self.stride, self.padding)
        small = 1 in shape or (input.ndim == 5 and len(input) * shape.numel() <= PLACES)
        if not (small and min(shape) > 0 and halving(input)):
            found: Tensor = super().forward(input)  # type: ignore[misc]
            return found
        last = with_last(input.to(torch.bfloat16))
        apply: Any = _Product.apply  # torch gives it no types
        product: Tensor = apply(last, self.weight, self.bias, self.stride, self.padding)
        return product


class _Small1d(_Small, nn.Conv1d):
    """In one dimension."""


class _Small2d(_Small, nn.Conv2d):
    """In two."""


class _Small3d(_Small, nn.Conv3d):
    """In three."""


class _Begun(_Small):
    """Mixed into a convolution of stride 2 that begins a network: the same sums over folded channels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return ``[batch, channel, *shape]``."""
        flat = 1 in _shape(input, self.weight, self.stride, self.padding)
        if flat or input.requires_grad or not halving(input):  # with a gradient it is not the first
            return super().forward(input)
        front: list[int] = []
        blocks: list[int] = []
        around: list[int] = []
        for size, kernel, pad in zip(input.shape[2:], self.weight.shape[2:], self.padding, strict=True):
            odd = pad % 2  # blocks begin at even voxels, so the weights move by one
            half = -(-(kernel + odd) // 2)
            steps = (size + 2 * pad - kernel) // 2 + 1
            front.append((pad + odd) // 2)
            blocks.append(steps + half - 1)
            around = [odd, 2 * half - kernel - odd, *around]
        weight = _folded(F.pad(self.weight.to(torch.bfloat16), around))
        convolve = F.conv2d if input.ndim == 4 else F.conv3d
        return convolve(_folded_image(input, front, blocks), weight, self.bias)


class _Begun2d(_Begun, nn.Conv2d):
    """In two dimensions."""


class _Begun3d(_Begun, nn.Conv3d):
    """In three."""


class _Whole:
    """Mixed into a convolution that is in float32; what it gives is in bfloat16.

    Volumes of one or two channels are faster so, and the gradients of grouped convolutions' weights right.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return ``[batch, channel, *shape]``."""
        if not halving(input):
            found: Tensor = super().forward(input)  # type: ignore[misc]
            return found
        with torch.autocast("cpu", enabled=False):
            whole: Tensor = super().forward(input.float())  # type: ignore[misc]
        return whole.to(torch.bfloat16)


class _Whole1d(_Whole, nn.Conv1d):
    """In one dimension."""


class _Whole2d(_Whole, nn.Conv2d):
    """In two."""


class _Whole3d(_Whole, nn.Conv3d):
    """In three."""


BEGUN: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _Begun2d, nn.Conv3d: _Begun3d}
SMALL: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: _Small1d,
    nn.Conv2d: _Small2d,
    nn.Conv3d: _Small3d,
}
WHOLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: _Whole1d,
    nn.Conv2d: _Whole2d,
    nn.Conv3d: _Whole3d,
}
PLAIN = {fast: plain for kinds in (BEGUN, SMALL, WHOLE) for plain, fast in kinds.items()}
"""By a fast layer the one whose place it takes."""


def fast(module: nn.Module) -> type[nn.Module] | None:
    """Return the class that computes a convolution fast, and right; None for what is none."""
    kind = type(module)
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    few = module.in_channels <= FEW
    if not _plain(module):
        return WHOLE[kind]
    if few and kind in BEGUN and set(module.stride) == {2} and min(module.kernel_size) >= WIDE:
        return BEGUN[kind]
    return WHOLE[kind] if few and kind is nn.Conv3d else SMALL[kind]


def _plain(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    """Tell whether it has zeros around, no groups and no holes."""
    if isinstance(module.padding, str):
        return False
    return module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
