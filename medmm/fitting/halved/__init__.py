"""Layers that are fast in bfloat16 on a CPU, in the place of slow ones while a network is fitted.

Under autocast oneDNN's convolutions run several times as fast on tensors whose channels lie last. What stands
in the way, each measured on a Xeon with amx_bf16: weights that lie otherwise; torch's group norm of few
channels in a group (:mod:`medmm.fitting.halved.norm`); the first convolution, which has one channel to
multiply, and the gradient of weights of a volume's small maps (:mod:`medmm.fitting.halved.convolution`). In
float32 the layers compute as before.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import torch
from torch import nn

from medmm.fitting.halved import convolution, norm
from medmm.fitting.halved.forms import LAST

PLAIN = convolution.PLAIN | norm.PLAIN
"""By a fast layer the one whose place it takes."""


def halve(network: nn.Module) -> None:
    """Lay the network's weights channels-last, and give its layers their fast forward passes."""
    for one, other in _rectified(network):
        one.__class__, other.__class__ = norm.RectifiedNorm, norm.Rectified
    for module in network.modules():
        if type(module) in PLAIN.values():
            module.__class__ = convolution.fast(module) or norm.fast(module) or type(module)
    _laid(network, LAST)


def restore(network: nn.Module) -> None:
    """Undo :func:`halve`, where it was done; the weights keep their values."""
    for module in network.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    _laid(network, dict.fromkeys(LAST, torch.contiguous_format))


def _rectified(network: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return the group norms whose only reader is the ReLU behind them in a sequence, and these ReLUs."""
    used = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    found: list[tuple[nn.Module, nn.Module]] = []
    for parent in network.modules():
        if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
            found += [
                (one, other)
                for one, other in pairwise(parent)
                if norm.fast(one) and type(other) is nn.ReLU and used[id(one)] == used[id(other)] == 1
            ]
    return found


def _laid(network: nn.Module, forms: dict[int, torch.memory_format]) -> None:
    for parameter in network.parameters():
        if parameter.ndim in forms:
            parameter.data = parameter.data.contiguous(memory_format=forms[parameter.ndim])
