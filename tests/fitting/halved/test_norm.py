"""Group norm on channels-last bfloat16 beside torch's own in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from medmm.fitting.halved import halve, loops
from medmm.fitting.halved.forms import LAST

ROUNDING = 2.0**-8
"""Of bfloat16, relative."""


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def normed(x: Tensor, slope: Tensor, layer: nn.GroupNorm, *, relu: bool) -> tuple[Tensor, ...]:
    """Return what the halved layer gives, and its gradients of input, weight and bias."""
    ours = nn.Sequential(nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps), *[nn.ReLU()] * relu)
    ours[0].load_state_dict(layer.state_dict())
    halve(ours)
    x = x.clone().contiguous(memory_format=LAST[x.ndim]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=LAST[x.ndim])
    y.backward(slope)
    return y.detach(), x.grad, ours[0].weight.grad, ours[0].bias.grad


def expected(x: Tensor, slope: Tensor, layer: nn.GroupNorm, *, relu: bool) -> tuple[Tensor, ...]:
    x = x.double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in (layer.weight, layer.bias))
    y = F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    y = torch.relu(y) if relu else y
    y.backward(slope.double())
    return y.detach(), x.grad, weight.grad, bias.grad


def made(shape: tuple[int, ...], groups: int, seed: int = 0) -> tuple[Tensor, Tensor, nn.GroupNorm]:
    torch.manual_seed(seed)
    layer = nn.GroupNorm(groups, shape[1])
    nn.init.normal_(layer.weight, 1.0)
    nn.init.normal_(layer.bias)
    places = torch.randn(shape) * (1 + torch.rand(shape[1]).view(-1, *[1] * (len(shape) - 2)))
    return (places + 0.5).bfloat16(), torch.randn(shape).bfloat16(), layer


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 3),
    of_group=st.integers(1, 15),
    groups=st.sampled_from([1, 2, 3, 8]),
    sides=st.lists(st.integers(1, 19), min_size=2, max_size=3),
    relu=st.booleans(),
)
def test_it_agrees_with_torch_in_float64(
    batch: int, of_group: int, groups: int, sides: list[int], relu: bool
) -> None:
    if of_group * np.prod(sides) < 8:  # a group of a few values has no norm worth comparing
        sides = [*sides[:-1], 8]
    x, slope, layer = made((batch, groups * of_group, *sides), groups)
    known = expected(x, slope, layer, relu=relu)
    for one, other in zip(normed(x, slope, layer, relu=relu), known, strict=True):
        scale = other.abs().max().clamp(min=1.0)
        assert torch.allclose(one.double(), other, rtol=ROUNDING, atol=float(4 * ROUNDING * scale))


@pytest.mark.parametrize("relu", [False, True])
def test_it_rounds_once(relu: bool) -> None:
    x, slope, layer = made((4, 16, 24, 24, 16), 8)
    found = normed(x, slope, layer, relu=relu)
    for one, other in zip(found, expected(x, slope, layer, relu=relu), strict=True):
        assert (one.double() - other).norm() <= 0.0018 * other.norm()  # 2^-9 / sqrt(1.2) for equal mantissas


def test_a_mean_far_from_zero_does_not_hide_the_spread() -> None:
    x, slope, layer = made((2, 8, 16, 16), 4)
    far = (x.float() + 100).bfloat16()
    found, known = normed(far, slope, layer, relu=False), expected(far, slope, layer, relu=False)
    for one, other in zip(found, known, strict=True):
        assert (one.double() - other).norm() <= 0.01 * other.norm()


def test_the_bits_are_the_same_on_any_number_of_threads(threads: None) -> None:
    x, slope, layer = made((3, 16, 40, 41), 8)
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(normed(x, slope, layer, relu=True))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("wrong", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_seen_behind_it(wrong: float, relu: bool) -> None:
    x, slope, layer = made((2, 8, 5, 5), 4)
    x[0, 3, 2, 2] = wrong
    y, gradient, *_ = normed(x, slope, layer, relu=relu)
    assert y[0, 2:4].isnan().all()
    assert gradient[0, 2:4].isnan().any()
    assert not y[1].isnan().any()
    assert not y[0, 4:].isnan().any()


def test_every_number_rounds_as_torch_rounds_it() -> None:
    bits = np.arange(0, 2**32, 4999, dtype=np.uint32)  # of all magnitudes, signs, NaN and infinities
    numbers = torch.from_numpy(bits.view(np.float32).copy())
    exact = numbers.bfloat16()
    rounded = np.array([loops._half(number) for number in numbers[::64].numpy()], np.int16)
    ours = torch.from_numpy(rounded).view(torch.bfloat16)
    assert torch.equal(ours.isnan(), exact[::64].isnan())
    kept = ~ours.isnan()
    assert torch.equal(ours[kept].view(torch.int16), exact[::64][kept].view(torch.int16))
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    wide = np.array([loops._wide(half) for half in every.numpy()[::7]], np.float32)
    assert np.array_equal(wide, every.view(torch.bfloat16).float().numpy()[::7], equal_nan=True)


def test_a_wide_group_is_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object, **more: object) -> None:
        raise AssertionError("the loops were called")

    monkeypatch.setattr(loops, "normed", never)
    layer = nn.Sequential(nn.GroupNorm(2, 32), nn.ReLU())
    halve(layer)
    x = torch.randn(2, 32, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), torch.relu(F.group_norm(x, 2, *layer[0].parameters())))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_a_norm_may_lack_weights_or_keep_them_still(affine: bool, frozen: bool) -> None:
    layer = nn.Sequential(nn.GroupNorm(2, 8, affine=affine), nn.ReLU()).requires_grad_(not frozen)
    x = torch.randn(2, 8, 5, 5).bfloat16()
    known = torch.relu(F.group_norm(x.float(), 2))
    halve(layer)
    ours = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(ours)
    found.sum().backward()
    assert torch.allclose(found.float(), known, rtol=0.02, atol=0.02)
    assert ours.grad is not None
    assert [p.grad is None for p in layer.parameters()] == [frozen] * 2 * affine
