from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medmm.errors import ConfigError
from medmm.network.fusion import Concat, Fusion, Mean, Stack, fusion

WIDTHS = (3, 2, 4)
seeds = st.integers(0, 2**31 - 1)


def drawn(
    seed: int, widths: tuple[int, ...] = WIDTHS, batch: int = 6
) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = [torch.randn(batch, width, generator=generator) for width in widths]
    return embeddings, torch.randint(0, 2, (batch, len(widths)), generator=generator).float()


def concat(seed: int = 0) -> Concat:
    torch.manual_seed(seed)
    joined = Concat(WIDTHS, hidden=(5,), dropout=0.0).eval()
    for absent in joined.absent.embeddings:
        torch.nn.init.normal_(absent)
    return joined


def stack(seed: int) -> Stack:
    draws = np.random.default_rng(seed).normal(size=(4, 3)).tolist()
    return Stack.of(slope=draws[0], shift=draws[1], weight=draws[2], presence_weight=draws[3], intercept=0.25)


@given(seeds)
def test_what_an_absent_modality_holds_does_not_matter(seed: int) -> None:
    cases: list[tuple[Fusion, tuple[int, ...]]] = [(concat(), WIDTHS), (stack(seed), (1, 1, 1))]
    cases.append((Mean([concat(1), concat(2)]), tuple(2 * w for w in WIDTHS)))
    for joined, widths in cases:
        embeddings, present = drawn(seed, widths)
        other = [torch.where(present[:, k : k + 1] > 0, e, 99.0) for k, e in enumerate(embeddings)]
        assert torch.equal(joined(embeddings, present), joined(other, present))


def test_concat_is_what_its_definition_says() -> None:
    joined = concat()
    embeddings, present = drawn(3)
    parts = []
    for k, e in enumerate(embeddings):
        parts.append(
            torch.stack([e[i] if present[i, k] else joined.absent.embeddings[k] for i in range(len(e))])
        )
    expected = joined.head(torch.cat([*parts, present], dim=1))
    torch.testing.assert_close(joined(embeddings, present), expected)


def test_the_learned_absent_embedding_is_learned() -> None:
    joined = concat()
    embeddings, present = drawn(3)
    joined(embeddings, present).sum().backward()
    assert all(absent.grad is not None and absent.grad.abs().sum() > 0 for absent in joined.absent.embeddings)


@given(seeds)
def test_late_stack_is_a_logistic_regression_over_calibrated_base_logits(seed: int) -> None:
    a, c, w, v = np.random.default_rng(seed).normal(size=(4, 3))
    embeddings, present = drawn(seed, (1, 1, 1))
    logits, m = torch.cat(embeddings, dim=1).numpy(), present.numpy()
    expected = 0.25 + (m * w * (a * logits + c)).sum(1) + (v * m).sum(1)
    assert stack(seed)(embeddings, present).numpy() == pytest.approx(expected, abs=1e-4)


def test_a_fresh_stack_of_one_passes_the_base_through() -> None:
    base = torch.tensor([[1.5], [-2.0]])
    assert Stack([1])([base], torch.ones(2, 1)).tolist() == [1.5, -2.0]


def test_the_coefficients_of_a_stack_are_saved_with_the_weights() -> None:
    one, two = stack(1), Stack([1, 1, 1])
    two.load_state_dict(one.state_dict())
    embeddings, present = drawn(0, (1, 1, 1))
    assert torch.equal(one(embeddings, present), two(embeddings, present))
    assert not list(one.parameters())


@given(seeds)
def test_the_mean_is_the_mean_of_its_members(seed: int) -> None:
    members = [concat(1), concat(2), concat(3)]
    first, present = drawn(seed)
    others = [drawn(seed + i, WIDTHS)[0] for i in (1, 2)]
    side_by_side = [torch.cat([first[k], others[0][k], others[1][k]], dim=1) for k in range(3)]
    expected = torch.stack([m(e, present) for m, e in zip(members, [first, *others], strict=True)]).mean(0)
    torch.testing.assert_close(Mean(members)(side_by_side, present), expected)


def test_an_unknown_fusion_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="did you mean 'concat'"):
        fusion("concta", [1])
    with pytest.raises(ConfigError, match="there are: concat, daft"):
        fusion("xyz", [1])
    with pytest.raises(ConfigError, match="cannot be made with"):
        fusion("concat", [1], wings=2)
    with pytest.raises(ConfigError, match="width 1"):
        fusion("late_stack", [4, 1])
