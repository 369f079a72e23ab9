from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medmm.errors import BundleError
from medmm.network.weights import load_weights, save_weights


def test_weights_come_back_exactly(tmp_path: Path) -> None:
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(one, tmp_path / "w.safetensors")
    load_weights(two, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.zeros(2, 3)},
        {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)},
        {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
        {"weight": torch.zeros(2, 3).double(), "bias": torch.zeros(2)},
        {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)},
    ],
)
def test_other_weights_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(BundleError):
        load_weights(network, tmp_path / "w.safetensors")
    assert torch.equal(network.weight, before)


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(BundleError, match="cannot read"):
        load_weights(nn.Linear(3, 2), path)
    save_weights(nn.Linear(3, 2), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError, match="cannot read"):
        load_weights(nn.Linear(3, 2), path)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    nn.init.constant_(network.bias, float("inf"))
    with pytest.raises(BundleError, match="bias are not finite"):
        save_weights(network, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []
