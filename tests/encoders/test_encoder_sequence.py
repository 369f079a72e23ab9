from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medmm.encoders.ft_transformer import FTTransformer
from medmm.encoders.notes import NotesEncoder
from medmm.encoders.sequence import Sequence, SequenceKind
from medmm.encoders.series import SeriesEncoder
from medmm.network.export import TOLERANCE, disagreement, graph_of

KINDS = ("lstm", "gru", "transformer")
SLOTS, CODES = 3, 2


def series(kind: SequenceKind = "lstm", **sizes: int) -> SeriesEncoder:
    torch.manual_seed(0)
    wanted = {"layers": 1, "heads": 2} | sizes
    return SeriesEncoder(CODES, SLOTS, kind, 8, dropout=0.3, **wanted).eval()


def notes(kind: SequenceKind = "lstm") -> NotesEncoder:
    torch.manual_seed(0)
    return NotesEncoder(11, 6, kind, 8, layers=1, heads=2, dropout=0.3).eval()


def course(*codes: list[tuple[float, float]]) -> torch.Tensor:
    """Return one row of (value, ln(1 + days)) per code, slots in the order given."""
    parts = []
    for events in codes:
        padded = [*events, *[(0.0, 0.0)] * (SLOTS - len(events))]
        parts += [v for v, _ in padded] + [t for _, t in padded]
        parts += [1.0] * len(events) + [0.0] * (SLOTS - len(events)) + [float(not events)]
    return torch.tensor([parts])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_say(kind: SequenceKind) -> None:
    torch.manual_seed(0)
    sequence = Sequence(kind, 8, layers=2, heads=2, dropout=0.5).eval()
    tokens = torch.randn(2, 5, 8)
    known = torch.tensor([[1.0, 1, 1, 0, 0], [1.0, 1, 1, 1, 1]])
    short = sequence(tokens[:1, :3], known[:1, :3])
    torch.testing.assert_close(sequence(tokens, known)[:1], short, rtol=1e-5, atol=1e-6)
    wild = torch.where(known.unsqueeze(2) > 0, tokens, 1e6)
    torch.testing.assert_close(sequence(wild, known), sequence(tokens, known))


@pytest.mark.parametrize("kind", KINDS)
def test_a_course_is_read_in_the_order_of_time_whatever_slot_it_is_in(kind: SequenceKind) -> None:
    encoder = series(kind)
    one = course([(1.0, 0.5), (2.0, 3.0), (3.0, 5.0)], [(4.0, 1.0)])
    other = course([(3.0, 5.0), (1.0, 0.5), (2.0, 3.0)], [(4.0, 1.0)])
    torch.testing.assert_close(encoder(one), encoder(other), rtol=1e-5, atol=1e-6)
    later = course([(1.0, 5.0), (2.0, 3.0), (3.0, 0.5)], [(4.0, 1.0)])
    assert not torch.allclose(encoder(one), encoder(later), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_slot_has_no_say_and_an_empty_course_is_finite(kind: SequenceKind) -> None:
    encoder = series(kind)
    row = course([(1.0, 0.5)], [(4.0, 1.0), (2.0, 2.0)])
    filled = row.clone()
    filled[0, [1, 2, 4, 5]] = 7.0  # values and times of empty slots
    torch.testing.assert_close(encoder(row), encoder(filled))
    assert torch.isfinite(encoder(course([], []))).all()


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_places_are_a_permutation_from_the_oldest_to_the_youngest(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    age = torch.rand(3, CODES * SLOTS, generator=generator) * 12
    age[:, 1] = age[:, 0]
    known = (torch.rand(3, CODES * SLOTS, generator=generator) < 0.6).float()
    order = series()._order(age, known)
    assert torch.equal(order.sort(dim=1).values, torch.arange(CODES * SLOTS).expand(3, -1))
    for row, places in enumerate(order.tolist()):
        found = [p for p in places if known[row, p]]
        assert places[: len(found)] == found
        assert found == sorted(found, key=lambda p: (-round(float(age[row, p]) * 2048), p))


def test_a_note_is_read_in_order_and_without_its_padding() -> None:
    for kind in KINDS:
        encoder = notes(kind)
        one = encoder(torch.tensor([[3.0, 4, 5, 0, 0, 0]]))
        assert not torch.allclose(one, encoder(torch.tensor([[5.0, 4, 3, 0, 0, 0]])), atol=1e-4)
    lstm = notes("lstm")
    token = lstm.token[torch.tensor([[3, 4, 5]])]
    torch.testing.assert_close(
        lstm(torch.tensor([[3.0, 4, 5, 0, 0, 0]])),
        lstm.sequence(token, torch.ones(1, 3)),
        atol=1e-6,
        rtol=1e-5,
    )


def test_a_field_of_the_ft_transformer_speaks_through_its_own_token_only() -> None:
    torch.manual_seed(0)
    encoder = FTTransformer([0, 0, 1, 1, 1, 2], 8, layers=1, heads=2).eval()
    row = torch.randn(4, 6)
    weight = (encoder.owned.unsqueeze(2) * encoder.weight.unsqueeze(1)).flatten(1)
    tokens = (row @ weight).reshape(4, 3, 8)
    torch.testing.assert_close(tokens[:, 1], row[:, 2:5] @ encoder.weight[2:5])
    assert encoder(row).shape == (4, encoder.out_features)


@pytest.mark.parametrize(
    ("encoder", "width"),
    [
        (series("transformer"), CODES * (3 * SLOTS + 1)),
        (FTTransformer([0, 0, 1, 1, 2], 8, layers=2, heads=2).eval(), 5),
    ],
    ids=["series", "table"],
)
def test_it_exports_with_a_free_batch_and_agrees_with_torch(encoder: nn.Module, width: int) -> None:
    rows = {"rows": torch.randn(5, width, generator=torch.Generator().manual_seed(0)) * 3}
    assert disagreement(encoder, graph_of(encoder, rows, "embedding"), rows) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_a_series_encoder_is_trained(kind: SequenceKind) -> None:
    encoder = series(kind).train()
    encoder(torch.cat([course([(1.0, 0.5), (3.0, 2.0)], [(4.0, 1.0)])] * 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_summary_is_the_mean_of_the_states_of_what_is_known(kind: SequenceKind) -> None:
    torch.manual_seed(0)
    sequence = Sequence(kind, 4, layers=1, heads=2, dropout=0.0).eval()
    tokens = torch.randn(1, 3, 4)
    states = sequence.summary.cell(tokens)[0]
    known = torch.tensor([[1.0, 1, 0]])
    torch.testing.assert_close(sequence(tokens, known), (states[:, 0] + states[:, 1]) / 2)
    assert sequence(tokens, torch.zeros(1, 3)).abs().sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_that_decides_is_learned_from_two_hundred_notes(kind: SequenceKind) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(2, 60, (400, 30), generator=generator).float()
    labels = torch.arange(400) % 2
    place = torch.randint(0, 10, (400,), generator=generator)
    rows[torch.arange(400), place] = torch.where(labels == 1, 60.0, 61.0)
    torch.manual_seed(0)
    encoder = NotesEncoder(62, 30, kind, 16, layers=1, heads=2, dropout=0.3)
    model = nn.Sequential(encoder, nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(40):
        for start in range(0, 200, 20):
            batch = slice(start, start + 20)
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(rows[batch]).squeeze(1), labels[batch].float()
            )
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = ((model(rows[200:]).squeeze(1) > 0) == (labels[200:] == 1)).float().mean()
    assert right > 0.8
