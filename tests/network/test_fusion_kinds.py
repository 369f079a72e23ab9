"""Each fusion against its paper's formula, written again in numpy, and against the promises that all keep."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from medmm.errors import ConfigError
from medmm.network.fusion import FUSIONS, LATE, Fusion, Given, Mean, fusion
from medmm.network.fusion.attention import Attention, Block
from medmm.network.fusion.late import LateMean, Stack

WIDTHS = (3, 2, 4)
PRESENT = np.array(list(product((1.0, 0.0), repeat=3)))
"""Every pattern of three modalities, [8, 3]."""

MAP = (4, 3, 2)
"""A feature map of four channels and six places."""


def image() -> Given:
    torch.manual_seed(5)
    return Given("map", MAP, nn.Sequential(nn.Conv2d(4, 5, 2, padding=1), nn.ReLU()), 5)


def table() -> Given:
    return Given("tokens", (3, 7))


def made(kind: str, outputs: int = 1, **options: object) -> tuple[Fusion, list[np.ndarray]]:
    """Return a fusion of an image and two tables in the forms that it takes, and embeddings."""
    takes = FUSIONS[kind].takes
    given: list[int | Given] = [outputs] * 3 if kind.startswith("late") else list(WIDTHS)
    if "map" in takes:
        given[0] = image()
    if "tokens" in takes:
        given[1] = table()
    torch.manual_seed(1)
    joined = fusion(kind, given, outputs=outputs, **options).eval()
    for name, parameter in joined.named_parameters():
        if name.startswith("absent"):
            nn.init.normal_(parameter)
    rng = np.random.default_rng(2)
    embeddings = [rng.normal(size=(8, width)).astype(np.float32) for width in joined.widths]
    if "tokens" in takes:
        tokens = embeddings[1].reshape(8, 3, 7)
        tokens[:, :, 6] = rng.integers(0, 2, (8, 3))
        tokens[:, 0, 6] = 1
    return joined, embeddings


def logits(joined: Fusion, embeddings: list[np.ndarray], present: np.ndarray = PRESENT) -> np.ndarray:
    with torch.no_grad():
        found = joined([torch.from_numpy(e) for e in embeddings], torch.from_numpy(present).float())
    return found.numpy().astype(np.float64)


def w(layer: object) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(layer, nn.Linear)
    bias = np.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().numpy()
    return layer.weight.detach().numpy().astype(np.float64), bias.astype(np.float64)


def linear(layer: object, x: np.ndarray) -> np.ndarray:
    weight, bias = w(layer)
    return x @ weight.T + bias


def filled(joined: Fusion, embeddings: list[np.ndarray]) -> list[np.ndarray]:
    absent = [e.detach().numpy() for e in joined.absent.embeddings]
    return [np.where(PRESENT[:, k : k + 1] > 0, e, absent[k]) for k, e in enumerate(embeddings)]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def late_mean(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    joined.weight = torch.tensor([1.0, 2.0, 4.0])
    share = PRESENT * [1.0, 2.0, 4.0]
    total = share.sum(1)
    return np.where(total > 0, (share * np.concatenate(e, 1)).sum(1) / np.maximum(total, 1), 0)


def gated(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    h = filled(joined, e)
    values = np.stack([np.tanh(linear(v, x)) for v, x in zip(joined.values, h, strict=True)], 1)
    scores = np.exp(linear(joined.gate, np.concatenate(h, 1)).reshape(8, 3, -1)) * PRESENT[:, :, None]
    total = scores.sum(1, keepdims=True)
    alpha = np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)
    return linear(joined.head.layers[0], (alpha * values).sum(1))[:, 0]


def lowrank(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    h = filled(joined, e)
    z = np.zeros((8, joined.hidden))
    for r in range(joined.rank):
        term = np.ones((8, joined.hidden))
        for factor, x in zip(joined.factors, h, strict=True):
            weight, bias = w(factor)
            rows = slice(r * joined.hidden, (r + 1) * joined.hidden)
            term *= (
                np.concatenate([x, np.ones((8, 1))], 1) @ np.concatenate([weight, bias[:, None]], 1)[rows].T
            )
        z += term
    return linear(joined.head.layers[0], z)[:, 0]


def poe(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    mean, precision = 0.0, 1.0
    for k, x in enumerate(e):
        m = PRESENT[:, k : k + 1]
        tau = m / np.exp(linear(joined.log_variances[k], x))
        mean, precision = mean + tau * linear(joined.means[k], x), precision + tau
    return linear(joined.head.layers[0], mean / precision)[:, 0]


def moe_missing(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    found = []
    for i, row in enumerate(PRESENT):
        observed = int(row @ [1, 2, 4])
        bank = joined.bank.detach().numpy()[observed]
        h = [linear(joined.projections[k], e[k][i]) if row[k] else bank[k] for k in range(3)]
        x = np.concatenate(h)
        scores = linear(joined.router, x)
        pinned = observed % len(scores)
        others = [j for j in np.argsort(-scores) if j != pinned]
        used = [pinned, *others[: joined.top - 1]]
        weights = np.exp(scores[used]) / np.exp(scores[used]).sum()
        z = sum(
            weight * linear(joined.experts[j][2], np.maximum(linear(joined.experts[j][0], x), 0))
            for weight, j in zip(weights, used, strict=True)
        )
        found.append(linear(joined.head.layers[0], z)[0])
    return np.array(found)


def seq_lstm(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    cell, found = joined.cell, []
    wi, wh = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    bias = (cell.bias_ih + cell.bias_hh).detach().numpy()
    for i, row in enumerate(PRESENT):
        state = memory = np.zeros(cell.hidden_size)
        for k in np.flatnonzero(row):  # the sequence without what is absent
            gates = wi @ linear(joined.projections[k], e[k][i]) + wh @ state + bias
            enter, forget, new, out = np.split(gates, 4)
            memory = sigmoid(forget) * memory + sigmoid(enter) * np.tanh(new)
            state = sigmoid(out) * np.tanh(memory)
        found.append(linear(joined.head.layers[0], state)[0])
    return np.array(found)


def conditioned(joined: Fusion, e: list[np.ndarray], turn: Callable[..., np.ndarray]) -> np.ndarray:
    absent = [x.detach().numpy() for x in joined.absent.embeddings]
    h = [np.where(PRESENT[:, k : k + 1] > 0, e[k], absent[k]) for k in (1, 2)]
    feature_map = e[0].reshape(8, *MAP) * PRESENT[:, 0, None, None, None]
    gamma, beta = np.split(turn(feature_map, np.concatenate(h, 1)), 2, axis=1)
    turned = (1 + gamma)[:, :, None, None] * feature_map + beta[:, :, None, None]
    last = joined.given[0].last
    assert last is not None
    with torch.no_grad():
        vector = last(torch.from_numpy(turned).float()).numpy().mean(axis=(2, 3))
    vector = np.where(PRESENT[:, :1] > 0, vector, absent[0])
    hidden = np.maximum(linear(joined.head.layers[0], np.concatenate([vector, *h, PRESENT], 1)), 0)
    return linear(joined.head.layers[3], hidden)[:, 0]


def film(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    return conditioned(joined, e, lambda feature_map, t: linear(joined.films[0], t))


def daft(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    def turn(feature_map: np.ndarray, t: np.ndarray) -> np.ndarray:
        seen = np.concatenate([feature_map.mean(axis=(2, 3)), t], 1)
        return linear(joined.widen[0], np.maximum(linear(joined.squeeze[0], seen), 0))

    assert joined.squeeze[0].out_features == 7
    return conditioned(joined, e, turn)


def normed(layer: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def attended(layer: Attention, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """One patient's attention over the keys that may be seen, one head after the other."""
    if not len(keys):
        return np.zeros_like(queries)
    q, k, v = linear(layer.query, queries), linear(layer.key, keys), linear(layer.value, keys)
    size, heads = q.shape[1] // layer.heads, []
    for head in range(layer.heads):
        own = slice(head * size, (head + 1) * size)
        scores = np.exp(q[:, own] @ k[:, own].T / np.sqrt(size))
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, own])
    return linear(layer.out, np.concatenate(heads, 1))


def stepped(block: Block, tokens: np.ndarray, known: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    tokens = tokens + attended(
        block.own, normed(block.own_norm, tokens), normed(block.own_norm, tokens)[known]
    )
    if places is not None:
        assert block.across is not None
        assert block.across_norm is not None
        tokens = tokens + attended(block.across, normed(block.across_norm, tokens), places)
    inner = linear(block.feed[0], normed(block.forward_norm, tokens))
    with torch.no_grad():
        inner = block.feed[1](torch.from_numpy(inner)).numpy()
    return tokens + linear(block.feed[2], inner)


def transformed(joined: Fusion, e: list[np.ndarray], *, across: bool) -> np.ndarray:
    found = []
    for i, row in enumerate(PRESENT):
        tokens, known = [joined.tokens.first.detach().numpy()], [True]
        for k, projection in zip(joined.tokens.parts, joined.tokens.projections, strict=True):
            if joined.given[k].form == "vector":
                tokens.append(linear(projection, e[k][i]))
                known.append(bool(row[k]))
                continue
            for token in e[k][i].reshape(joined.given[k].shape):
                tokens.append(linear(projection, token[:-1]))
                known.append(bool(row[k] and token[-1]))
        places = None
        if across:
            last = joined.given[0].last
            assert last is not None
            with torch.no_grad():
                mapped = last(torch.from_numpy(e[0][i].reshape(1, *MAP))).numpy()[0]
            places = linear(joined.patches[0], mapped.reshape(5, -1).T)[: None if row[0] else 0]
        state = np.array(tokens)
        for block in joined.blocks:
            state = stepped(block, state, np.array(known), places)
        found.append(linear(joined.head.layers[0], normed(joined.norm, state[0]))[0])
    return np.array(found)


def token_transformer(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    return transformed(joined, e, across=False)


def tab_cross_attn(joined: Fusion, e: list[np.ndarray]) -> np.ndarray:
    return transformed(joined, e, across=True)


FORMULAS = {
    "daft": (daft, {}),
    "film": (film, {}),
    "gated": (gated, {"hidden": 6}),
    "late_mean": (late_mean, {}),
    "lowrank": (lowrank, {"hidden": 5, "rank": 3}),
    "moe_missing": (moe_missing, {"hidden": 5, "experts": 5, "top": 3}),
    "poe": (poe, {"hidden": 5}),
    "seq_lstm": (seq_lstm, {"hidden": 5}),
    "tab_cross_attn": (tab_cross_attn, {"layers": 2}),
    "token_transformer": (token_transformer, {"layers": 2}),
}
"""The others, concat and late_stack, are held to theirs in test_fusion.py."""


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_fusion_is_its_paper_s_formula_for_every_pattern(kind: str) -> None:
    formula, options = FORMULAS[kind]
    joined, embeddings = made(kind, **options)
    expected = formula(joined, embeddings)
    assert np.std(expected) > 1e-3
    assert logits(joined, embeddings) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("kind", FUSIONS)
def test_nothing_of_an_absent_modality_comes_through(kind: str) -> None:
    joined, embeddings = made(kind)
    other = [np.where(PRESENT[:, k : k + 1] > 0, e, 50).astype(np.float32) for k, e in enumerate(embeddings)]
    assert np.array_equal(logits(joined, embeddings), logits(joined, other))
    everybody = np.ones_like(PRESENT)
    assert not np.allclose(logits(joined, embeddings, everybody), logits(joined, other, everybody))


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_patient_s_logit_is_the_same_alone(kind: str) -> None:
    joined, embeddings = made(kind)
    alone = [logits(joined, [e[i : i + 1] for e in embeddings], PRESENT[i : i + 1])[0] for i in range(8)]
    assert logits(joined, embeddings) == pytest.approx(np.array(alone), abs=1e-6)


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_fusion_gives_as_many_logits_as_are_asked_for(kind: str) -> None:
    assert logits(*made(kind)).shape == (8,)
    joined, embeddings = made(kind, outputs=3)
    found = logits(joined, embeddings)
    assert found.shape == (8, 3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", sorted(set(FUSIONS) - LATE))
def test_everything_of_a_fusion_is_learned(kind: str) -> None:
    joined, embeddings = made(kind)
    joined(
        [torch.from_numpy(e) for e in embeddings], torch.from_numpy(PRESENT).float()
    ).square().sum().backward()
    silent = [n for n, p in joined.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A constant added to every score leaves a softmax as it was.
    assert [name for name in silent if not name.endswith("key.bias")] == []


def test_the_weights_of_a_late_mean_are_of_those_present_by_hand() -> None:
    joined = LateMean.of([1.0, 3.0])
    base = [torch.tensor([[2.0]] * 4), torch.tensor([[-2.0]] * 4)]
    present = torch.tensor([[1.0, 1], [1, 0], [0, 1], [0, 0]])
    # (1·2 + 3·(-2)) / 4 = -1; then either alone; then nobody.
    assert joined(base, present).tolist() == [-1.0, 2.0, -2.0, 0.0]


def test_a_late_stack_of_several_logits_has_coefficients_for_each() -> None:
    joined = Stack([2, 2], outputs=2)
    joined.weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    joined.intercept = torch.tensor([0.5, -0.5])
    base = [torch.tensor([[1.0, 10.0]]), torch.tensor([[2.0, 20.0]])]
    assert joined(base, torch.tensor([[1.0, 0.0]])).tolist() == [[1.5, 19.5]]
    assert joined(base, torch.ones(1, 2)).tolist() == [[7.5, 99.5]]


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="must divide"):
        fusion("token_transformer", [3], width=16, heads=3)
    with pytest.raises(ConfigError, match="9 of 8 experts"):
        fusion("moe_missing", [3, 2], top=9)
    with pytest.raises(ConfigError, match="at most 6 modalities"):
        fusion("moe_missing", [1] * 7)
    with pytest.raises(ConfigError, match="late_mean joins base logits of width 1"):
        fusion("late_mean", [4, 1])


def test_a_fusion_says_what_it_holds_of_an_encoder() -> None:
    film, _ = made("film")
    assert film.last_blocks(0) == [film.given[0].last]
    assert film.last_blocks(1) == []
    both = Mean([film, made("film")[0]])
    assert [block in set(both.modules()) for block in both.last_blocks(0)] == [True, True]
