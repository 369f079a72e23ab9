"""The layers of a whole encoder in bfloat16."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from medmm.encoders.image import Kind, image_encoder
from medmm.fitting import loop
from medmm.fitting.halved import halve, restore
from medmm.fitting.halved.norm import Rectified, RectifiedNorm
from medmm.fitting.loop import fit_network
from tests.fitting.small_fit import small_job


def encoder(kind: Kind, dims: int) -> nn.Module:
    torch.manual_seed(0)
    return image_encoder(kind, spatial_dims=dims, in_channels=1, channels=(16, 32), dropout=0.0)


def gradients(network: nn.Module, image: Tensor, *, half: bool) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = network(image)
    found.float().square().sum().backward()
    return found.detach().float(), {name: p.grad.clone() for name, p in network.named_parameters()}


def near(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("cnn", (21, 18)),
        ("cnn", (9, 12, 10)),
        ("resnet10", (40, 41)),
        ("resnet10", (32, 32)),
        ("resnet10", (16, 19, 18)),
        ("resnet10", (32, 32, 16)),
    ],
)
def test_a_halved_encoder_gives_what_it_gave_and_learns_the_same(kind: Kind, shape: tuple[int, ...]) -> None:
    image = torch.randn(3, 1, *shape)
    plain = encoder(kind, len(shape))
    fast = deepcopy(plain)
    halve(fast)
    expected, slopes = gradients(plain, image, half=False)
    found, own = gradients(fast, image, half=True)
    assert near(found, expected) > 0.999
    assert min(near(own[name], slopes[name]) for name in slopes) > 0.97
    with torch.no_grad():  # in float32 it is the same network
        assert torch.allclose(fast(image), plain(image), atol=1e-5)


def test_a_norm_and_its_relu_are_one_layer_where_nothing_stands_between_them() -> None:
    alone, shared = nn.ReLU(), nn.ReLU()
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU()),
        nn.Sequential(nn.GroupNorm(2, 8), nn.Dropout(0.5), alone),
        nn.Sequential(nn.GroupNorm(2, 8), shared),
        shared,
    )
    halve(network)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(RectifiedNorm) == kinds.count(Rectified) == 1
    assert type(alone) is nn.ReLU
    assert type(shared) is nn.ReLU


def test_what_is_restored_is_as_it_was() -> None:
    network = encoder("resnet10", 3)
    kept, before = deepcopy(network), [type(module) for module in network.modules()]
    halve(network)
    assert [type(module) for module in network.modules()] != before
    restore(network)
    assert [type(module) for module in network.modules()] == before
    for name, value in network.state_dict().items():
        assert torch.equal(value, kept.state_dict()[name])
        assert value.is_contiguous()


def test_a_resumed_fit_in_bf16_ends_in_the_same_bits(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    settings = {"precision": "bf16", "ema": 0.9}

    def stop(name: str, epoch: int, metrics: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    whole, resumed = small_job(settings=settings), small_job(settings=settings)
    fit_network(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_network(small_job(settings=settings), tmp_path / "resumed", on_epoch=stop)
    fit_network(resumed, tmp_path / "resumed")
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])
