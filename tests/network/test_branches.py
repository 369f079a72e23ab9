from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medmm.encoders.mlp import TableEncoder
from medmm.network.branches import Branched, coefficients, modulate
from medmm.network.fusion import Given, fusion, pooled
from medmm.network.network import Network


def network() -> Network:
    torch.manual_seed(0)
    encoders = {"a": TableEncoder(4, (5, 3), 0.0), "b": TableEncoder(2, (3,), 0.0)}
    return Network(encoders, fusion("concat", [3, 3]))


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = {"a": torch.randn(6, 4, generator=generator), "b": torch.randn(6, 2, generator=generator)}
    return inputs, torch.tensor([[1.0, 1], [1, 0], [0, 1], [1, 1], [1, 1], [1, 0]])


def test_the_modality_that_is_ahead_is_slowed_by_hand() -> None:
    # 0.8 is twice the other: 1 - tanh(0.5 · 2); the other is behind and keeps its pace.
    assert coefficients(torch.tensor([0.8, 0.4]), 0.5).tolist() == pytest.approx([1 - math.tanh(1.0), 1.0])
    # Of three: 0.9 against a mean of 0.5, 0.6 against 0.65, 0.4 against 0.75.
    found = coefficients(torch.tensor([0.9, 0.6, 0.4]), 0.5).tolist()
    assert found == pytest.approx([1 - math.tanh(0.9), 1.0, 1.0])
    # Nobody in the batch has the second: the first is compared with the third alone.
    found = coefficients(torch.tensor([0.9, math.nan, 0.6]), 1.0).tolist()
    assert found == pytest.approx([1 - math.tanh(1.5), 1.0, 1.0])
    assert coefficients(torch.tensor([0.9, math.nan]), 1.0).tolist() == [1.0, 1.0]
    assert coefficients(torch.tensor([0.9, 0.1]), 0.0).tolist() == [1.0, 1.0]


def test_gradients_are_multiplied_and_get_back_their_spread() -> None:
    joined = network()
    for parameter in joined.parameters():
        parameter.grad = torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape)
    before = {name: p.grad.clone() for name, p in joined.named_parameters() if p.grad is not None}
    scores = torch.tensor([0.8, 0.4])
    modulate(joined, scores, 0.5, torch.Generator().manual_seed(3))
    noise = torch.Generator().manual_seed(3)
    for name, parameter in joined.named_parameters():
        expected = before[name]
        if name.startswith("encoders.a") and parameter.ndim > 1:
            drawn = torch.randn(parameter.shape, generator=noise)
            expected = (1 - math.tanh(1.0)) * expected + drawn * expected.std()
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("taught", [True, False])
def test_heads_teach_the_encoders_or_only_watch_them(taught: bool) -> None:
    branched = Branched(network(), taught=taught).eval()
    inputs, present = batch()
    fused, own = branched(inputs, present)
    torch.testing.assert_close(fused, branched.network(inputs, present))
    assert own.shape == (6, 2)
    own.sum().backward()
    learned = [p.grad is not None for p in branched.network.encoders.parameters()]
    assert all(learned) if taught else not any(learned)
    assert all(p.grad is not None for p in branched.heads.parameters())


def test_a_modality_s_own_logit_is_read_from_its_own_vector() -> None:
    branched = Branched(network(), taught=True)
    inputs, _ = batch()
    _, own = branched(inputs, torch.ones(6, 2))
    head = branched.heads[1].layers[0]
    torch.testing.assert_close(own[:, 1], head(branched.network.encode("b", inputs["b"])).squeeze(1))


def test_tokens_and_maps_are_pooled_by_hand() -> None:
    tokens = torch.tensor([[1.0, 2, 1, 3, 4, 1, 9, 9, 0], [5.0, 6, 0, 7, 8, 0, 9, 9, 0]])
    found = pooled(Given("tokens", (3, 3)), tokens)
    assert found.tolist() == [[2.0, 3.0], [0.0, 0.0]]  # the mean of known tokens; none known is zeros
    double = nn.Conv1d(1, 1, 1, bias=False)
    nn.init.constant_(double.weight, 2)
    assert pooled(Given("map", (1, 3), double, 1), torch.tensor([[1.0, 2, 6]])).tolist() == [[6.0]]
