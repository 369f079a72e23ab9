"""Convolutions in bfloat16, torch's and ours, beside float64: ``python -m tests.sweeps.half_convolutions``.

Draws convolutions as networks have them (steps of one and two) with small maps, runs each forward and back,
and counts whose results or gradients point elsewhere. Exit 1 when one of ours does, with ``--places 0`` too,
where ours are products of matrices only for maps of one voxel along an axis.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmm.fitting.halved import convolution, halve
from medmm.fitting.halved.forms import with_last

NEAR = 0.998
SIDES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17)


def main() -> None:
    """Sweep for some seconds and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", type=int, default=convolution.PLACES)
    asked = parser.parse_args()
    convolution.PLACES = asked.places
    torch.set_num_threads(1)
    rng, until = random.Random(asked.seed), time.monotonic() + asked.seconds
    torch.manual_seed(asked.seed)
    drawn, wrong, where = 0, Counter[str](), Counter[str]()
    while time.monotonic() < until:
        layer, x = _drawn(rng)
        slope = torch.randn_like(layer(x)).bfloat16()
        expected = _results(deepcopy(layer).double(), x.double(), slope, half=False)
        ours = nn.Sequential(deepcopy(layer))
        halve(ours)
        torchs = deepcopy(layer)
        torchs.weight.data = with_last(torchs.weight.data)
        drawn += 1
        for name, network in (("torch", torchs), ("medmm", ours)):
            if not _alike(_results(network, x, slope, half=True), expected):
                wrong[name] += 1
                if name == "torch":
                    kind = "grouped, " if layer.groups > 1 else ""
                    where[f"{x.ndim - 2}-D, {kind}step {layer.stride[-1]}, {_flat(slope)}"] += 1
                else:
                    print(f"wrong: {layer} of {tuple(x.shape)}")
    print(f"{drawn} convolutions: {wrong['torch']} of torch's wrong, {wrong['medmm']} of medmm's")
    for what, count in sorted(where.items()):
        print(f"  torch, {what}: {count}")
    sys.exit(wrong["medmm"] > 0)


def _flat(slope: Tensor) -> str:
    sides = slope.shape[2:]
    flat = [
        name for name, side in zip(("deep", "high", "wide")[-len(sides) :], sides, strict=True) if side == 1
    ]
    return f"one voxel {' and '.join(flat)}" if flat else "more than one voxel"


def _drawn(rng: random.Random) -> tuple[nn.Module, Tensor]:
    while True:
        dims, kernel, stride = rng.choice((1, 2, 2, 3, 3)), rng.choice((1, 3, 3, 3, 5)), rng.choice((1, 2))
        channels = rng.choice((3, 8, 12, 16, 24, 32, 64, 128, 256))
        more = rng.choice((8, 12, 16, 24, 32, 64, 128, 256, 512))
        groups = rng.choice((1, 1, 1, channels))
        more = more if groups == 1 else channels
        if channels * more / groups * kernel**dims > 4e6:
            continue
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        layer = kind(channels, more, kernel, stride, kernel // 2, groups=groups, bias=False)
        x = torch.randn(rng.choice((1, 2, 3, 4, 8, 16)), channels, *(rng.choice(SIDES) for _ in range(dims)))
        return layer, x.bfloat16().float()


def _results(network: nn.Module, x: Tensor, slope: Tensor, *, half: bool) -> list[Tensor]:
    """Return what it gives and the gradients of input and weights."""
    x = (with_last(x) if half else x).clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = network(x)
    y.backward(slope.to(y.dtype))
    found = [y.detach(), x.grad, *(p.grad for p in network.parameters())]
    network.zero_grad()
    return [one.double().flatten() for one in found if one is not None]


def _alike(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        bool(F.cosine_similarity(one, other, dim=0) > NEAR) or float(other.norm()) < 1e-3
        for one, other in zip(found, expected, strict=True)
    )


if __name__ == "__main__":
    main()
