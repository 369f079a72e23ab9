"""Convolutions in bfloat16 beside torch's in float64, on the maps that oneDNN's are wrong on too."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medmm.fitting.halved import convolution, halve
from medmm.fitting.halved.forms import with_last

ROUNDING = 2.0**-7
"""Of the sum of all products' sizes: a weight and the sum are each rounded to 8 bits."""


def made(*given: int, padding: int = 1, bias: bool = True) -> nn.Module:
    """Return a convolution of ``channels, more, kernel, stride, dimensions``."""
    torch.manual_seed(0)
    channels, more, kernel, stride, dims = given
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    layer = kind(channels, more, kernel, stride, padding, bias=bias)
    return nn.Sequential(layer)


def results(network: nn.Module, x: Tensor, slope: Tensor, *, half: bool) -> list[Tensor]:
    """Return what it gives and the gradients of weights and, if it wants one, input."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = network(x)
    y.backward(slope.to(y.dtype))
    found = (y.detach(), x.grad, *(p.grad for p in network.parameters()))
    return [one.double() for one in found if one is not None]


def assert_alike(network: nn.Module, x: Tensor, *, first: bool = False) -> None:
    x = x.bfloat16().float()
    plain = deepcopy(network).double()  # float32 is oneDNN's, and wrong for a kernel of 7 on 5 to 7 voxels
    slope = torch.randn_like(plain(x.double())).bfloat16()
    expected = results(plain, x.double().requires_grad_(not first), slope, half=False)
    halve(network)
    found = results(network, with_last(x).clone().requires_grad_(not first), slope, half=True)
    for weight in plain.parameters():
        weight.grad, weight.data = None, weight.data.abs()
    sizes = results(plain, x.double().abs().requires_grad_(not first), slope.abs(), half=False)
    for one, other, size in zip(found, expected, sizes, strict=True):
        assert one.isfinite().all()
        assert ((one - other).abs() <= ROUNDING * size + 1e-6).all()


@pytest.mark.parametrize(
    ("channels", "more", "shape", "batch"),
    [
        (256, 512, (2, 2, 1), 1),  # the gradient of the weights was 0, or NaN
        (128, 256, (4, 4, 2), 4),  # the result was of memory that nobody had written
        (12, 128, (12, 1), 1),
        (32, 256, (4, 2), 8),
        (64, 64, (2, 1), 4),
        (256, 128, (8, 2), 8),
        (24, 16, (7, 2), 3),
        (16, 64, (2,), 4),
        (12, 24, (1, 40, 60), 3),  # a flat volume, and more places than a product is faster for
    ],
)
def test_maps_that_onednn_is_wrong_on(channels: int, more: int, shape: tuple[int, ...], batch: int) -> None:
    for _ in range(3):  # what it read was left by others
        assert_alike(made(channels, more, 3, 2, len(shape)), torch.randn(batch, channels, *shape))


@settings(deadline=None, max_examples=60)
@given(
    channels=st.sampled_from([1, 2, 3, 8, 24]),
    more=st.sampled_from([8, 12, 32]),
    kernel=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 2),
    sides=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    padded=st.booleans(),
    first=st.booleans(),
    batch=st.integers(1, 3),
)
def test_it_agrees_with_float64(
    channels: int,
    more: int,
    kernel: int,
    stride: int,
    sides: list[int],
    padded: bool,
    first: bool,
    batch: int,
) -> None:
    padding = kernel // 2 if padded else 0
    sides = [max(side, kernel - 2 * padding) for side in sides]
    network = made(channels, more, kernel, stride, len(sides), padding=padding)
    assert_alike(network, torch.randn(batch, channels, *sides), first=first)


@pytest.mark.parametrize(
    ("shape", "channels"), [((33, 30), 1), ((12, 9, 11), 1), ((8, 8, 8), 2), ((31, 17), 2)]
)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_a_first_convolution_is_folded(shape: tuple[int, ...], channels: int, kernel: int) -> None:
    network = made(channels, 16, kernel, 2, len(shape), padding=kernel // 2)
    layer = deepcopy(network)
    halve(layer)
    assert isinstance(layer[0], convolution._Begun)
    assert_alike(network, torch.randn(3, channels, *shape), first=True)


@pytest.mark.parametrize("shape", [(12, 10), (12, 2), (8, 8, 8)])
def test_one_of_few_channels_that_is_not_the_first_passes_its_gradient_on(shape: tuple[int, ...]) -> None:
    assert_alike(made(2, 16, 3, 2, len(shape)), torch.randn(3, 2, *shape))


@pytest.mark.parametrize("places", [0, convolution.PLACES])
def test_a_product_is_the_convolution(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "PLACES", places)
    for bias in (False, True):
        assert_alike(made(16, 24, 3, 1, 3, bias=bias), torch.randn(2, 16, 8, 7, 6))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv3d(24, 24, 3, padding=1, groups=24), (2, 8, 2)),  # the gradient of the weights was wrong
        (nn.Conv3d(16, 16, 5, padding=2, groups=16), (3, 9, 9)),
        (nn.Conv2d(8, 8, 5, 2, 2, groups=8), (3, 1)),
        (nn.Conv1d(8, 8, 5, 2, 2, groups=8), (3,)),
        (nn.Conv3d(8, 8, 3, padding=2, dilation=2), (6, 6, 6)),
        (nn.Conv3d(8, 8, 3, padding="same"), (6, 6, 6)),
        (nn.Conv2d(8, 8, 3, padding_mode="reflect", padding=1), (7, 8)),
    ],
)
def test_what_is_no_plain_convolution_is_in_float32(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert_alike(nn.Sequential(layer), torch.randn(3, layer.in_channels, *shape))


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_recording_may_end_in_one_place(length: int) -> None:
    assert_alike(nn.Sequential(nn.Conv1d(32, 64, 3, 2, 1)), torch.randn(4, 32, length))


def test_an_image_smaller_than_the_kernel_is_refused_as_torch_refuses_it() -> None:
    network = made(8, 8, 3, 1, 3, padding=0)
    halve(network)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="Kernel size"):
        network(torch.randn(1, 8, 2, 2, 2))
