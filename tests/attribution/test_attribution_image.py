from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medmm.attribution.image import blurred, check_agreement, integrated_gradients
from medmm.encoders.image import image_encoder
from medmm.encoders.mlp import TableEncoder
from medmm.errors import ExplanationError
from medmm.network.fusion import Concat, Stack
from medmm.network.network import Network

BOTH = np.ones(2, dtype=bool)


class Linear(nn.Module):
    """A logit that is a weighted sum of voxels."""

    out_features = 1

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight))

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weight).flatten(1).sum(dim=1, keepdim=True)


class Step(nn.Module):
    """A logit that jumps: its gradient is 0 wherever there is one."""

    out_features = 1

    def forward(self, image: Tensor) -> Tensor:
        bright: Tensor = (image > 0.5).float() + 0 * image
        return bright.flatten(1).sum(dim=1, keepdim=True)


def two(scan: nn.Module, *, width: int = 1) -> Network:
    """Return a network of an image and a table."""
    torch.manual_seed(0)
    return Network({"scan": scan, "records": TableEncoder(3, (4,), 0.3)}, Concat([width, 4]))


def stacked(scan: nn.Module) -> Network:
    """Return a network whose logit is twice the image's, plus one."""
    fusion = Stack.of(slope=[1.0], shift=[0.0], weight=[2.0], presence_weight=[0.0], intercept=1.0)
    return Network({"scan": scan}, fusion)


def patient(seed: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "scan": rng.normal(size=shape).astype(np.float32),
        "records": rng.normal(size=3).astype(np.float32),
    }


@given(seed=st.integers(0, 1000), shape=st.sampled_from([(1, 8, 9), (2, 5, 6, 7)]))
@settings(max_examples=10, deadline=None)
def test_a_linear_logit_is_attributed_exactly(seed: int, shape: tuple[int, ...]) -> None:
    inputs = patient(seed, shape)
    weight = np.random.default_rng(seed + 1).normal(size=shape).astype(np.float32)
    found = integrated_gradients(stacked(Linear(weight)), inputs, np.ones(1, dtype=bool), "scan")
    detail = inputs["scan"] - blurred(inputs["scan"])
    np.testing.assert_allclose(found.values, 2 * weight * detail, rtol=1e-4, atol=1e-5)
    assert found.steps == 16
    assert not found.flagged
    assert found.gap < 1e-3
    np.testing.assert_allclose(found.spatial, found.values.sum(axis=0))


@pytest.mark.parametrize(("shape", "dims"), [((1, 20, 20), 2), ((2, 12, 12, 10), 3)])
def test_a_network_is_attributed_within_the_gap_it_states(shape: tuple[int, ...], dims: int) -> None:
    encoder = image_encoder("cnn", spatial_dims=dims, in_channels=shape[0], channels=(4, 8), dropout=0.5)
    network = two(encoder, width=8)
    inputs = patient(1, shape)
    found = integrated_gradients(network, inputs, BOTH, "scan", tolerance=0.02)
    assert found.values.shape == shape
    assert not found.flagged
    assert abs(found.values.sum() - found.change) <= 0.02 * max(abs(found.change), 0.05) + 1e-6
    network.eval()
    batch = {name: torch.from_numpy(x)[None] for name, x in inputs.items()}
    with torch.no_grad():
        assert found.logit == pytest.approx(float(network(batch, torch.ones(1, 2))), abs=1e-6)


def test_the_live_network_is_left_as_it_was() -> None:
    network = two(image_encoder("cnn", spatial_dims=2, in_channels=1, channels=(4,), dropout=0.5), width=4)
    network.train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    integrated_gradients(network, patient(0, (1, 12, 12)), BOTH, "scan")
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


def test_an_absent_table_is_no_obstacle() -> None:
    network = two(image_encoder("cnn", spatial_dims=2, in_channels=1, channels=(4,), dropout=0.0), width=4)
    inputs = {"scan": patient(0, (1, 12, 12))["scan"]}
    found = integrated_gradients(network, inputs, np.array([True, False]), "scan")
    with torch.no_grad():
        logit = network.eval()({"scan": torch.from_numpy(inputs["scan"])[None]}, torch.tensor([[1.0, 0.0]]))
    assert found.logit == pytest.approx(float(logit), abs=1e-6)


@pytest.mark.parametrize("present", [[False, True], [False, False]])
def test_an_absent_image_has_no_map(present: list[bool]) -> None:
    with pytest.raises(ExplanationError, match="scan: absent"):
        integrated_gradients(two(Step()), patient(0, (1, 8, 8)), np.array(present), "scan")


def test_a_gap_that_does_not_close_is_flagged_and_not_hidden() -> None:
    image = np.zeros((1, 12, 12), dtype=np.float32)
    image[0, 4:7, 4:7] = 1
    found = integrated_gradients(stacked(Step()), {"scan": image}, np.ones(1, dtype=bool), "scan")
    assert found.flagged
    assert found.steps == 64
    assert found.gap == pytest.approx(1)
    assert found.values.sum() == 0


def test_an_image_without_detail_has_an_empty_map() -> None:
    found = integrated_gradients(
        stacked(Linear(np.ones((1, 8, 8), np.float32))),
        {"scan": np.full((1, 8, 8), 3.0, np.float32)},
        np.ones(1, dtype=bool),
        "scan",
    )
    np.testing.assert_allclose(found.values, 0, atol=1e-5)


def test_small_batches_give_the_same_map(monkeypatch: pytest.MonkeyPatch) -> None:
    network = two(image_encoder("cnn", spatial_dims=2, in_channels=1, channels=(4,), dropout=0.0), width=4)
    inputs = patient(2, (1, 12, 12))
    whole = integrated_gradients(network, inputs, BOTH, "scan")
    monkeypatch.setattr("medmm.attribution.image.VOXELS_AT_ONCE", 300)
    parts = integrated_gradients(network, inputs, BOTH, "scan")
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-6)


def test_a_map_of_another_logit_is_refused() -> None:
    found = integrated_gradients(
        two(Linear(np.ones((1, 8, 8), np.float32))), patient(0, (1, 8, 8)), BOTH, "scan"
    )
    check_agreement(found, found.logit + 5e-6)
    with pytest.raises(ExplanationError, match="away from the logit on record"):
        check_agreement(found, found.logit + 1e-4)
    with pytest.raises(ExplanationError, match="away from"):
        check_agreement(dataclasses.replace(found, logit=float("nan")), 0.0)


def test_a_logit_that_is_not_finite_is_refused() -> None:
    weight = np.full((1, 8, 8), np.nan, dtype=np.float32)
    with pytest.raises(ExplanationError, match="not finite"):
        integrated_gradients(two(Linear(weight)), patient(0, (1, 8, 8)), BOTH, "scan")
