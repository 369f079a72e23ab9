"""The encoder of timed results: the results of all codes, merged into one sequence by time.

A row holds, per code, the newest results in slots: values, logarithms of the days before the prediction
time, and whether the slot is filled; then whether the code has no result at all. So every code owns fixed
columns, and a row that mixes the codes of two patients is again a course of results: its events are put in
order here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmm.encoders import MOST_EVENTS
from medmm.encoders.sequence import Sequence, SequenceKind

LONGEST = 12.0
"""Largest ``ln(1 + days)``: 446 years."""

STEPS = 2048
"""Steps of ``ln(1 + days)`` that are told apart: 42 s of the last day, 70 min of a day 100 days ago. Results
closer than this stand in the order of their codes."""


class SeriesEncoder(nn.Module):
    """Events ``value · v_code + e_code + W φ(time)``, oldest first, summarised.

    ``φ`` is a time embedding as mTAN's (Shukla & Marlin 2021), a linear term and a sine with a learned
    frequency per dimension, of ``ln(1 + days)`` before the prediction time; a second one takes the distance
    from the event before, on the same scale.

    Args:
        codes: number of codes.
        slots: results per code.
        kind: how the sequence is summarised.
        width: of an event and of the embedding.
        layers: recurrent layers, or transformer blocks.
        heads: of the transformer.
        dropout: share dropped at training, in [0, 1).
    """

    owner: Tensor
    place: Tensor

    def __init__(
        self,
        codes: int,
        slots: int,
        kind: SequenceKind,
        width: int,
        *,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.codes, self.slots = codes, slots
        self.value = nn.Parameter(torch.randn(codes, width))
        self.shift = nn.Parameter(torch.randn(codes, width))
        self.time, self.since = TimeEmbedding(width), TimeEmbedding(width)
        self.sequence = Sequence(kind, width, layers=layers, heads=heads, dropout=dropout)
        self.out_features = width
        self.register_buffer("owner", torch.arange(codes).repeat_interleave(slots), persistent=False)
        self.register_buffer("place", torch.arange(codes * slots).float(), persistent=False)

    def forward(self, row: Tensor) -> Tensor:
        """Return embeddings ``[batch, width]`` of rows ``[batch, code · (3 · slots + 1)]``."""
        per_code = row.reshape(-1, self.codes, 3 * self.slots + 1)
        value, age, known = (
            per_code[:, :, i * self.slots : (i + 1) * self.slots].flatten(1) for i in range(3)
        )  # each [batch, code · slot]
        known = (known >= 0.5).to(row.dtype)
        age = age.clamp(0.0, LONGEST)
        order = self._order(age, known)
        code = self.owner.expand(order.shape).gather(1, order)
        value, age, known = (x.gather(1, order) for x in (value, age, known))
        since = torch.cat([torch.zeros_like(age[:, :1]), age[:, :-1] - age[:, 1:]], dim=1)
        events = value.unsqueeze(2) * self.value[code] + self.shift[code]
        summary: Tensor = self.sequence(events + self.time(age) + self.since(since), known)
        return summary

    def _order(self, age: Tensor, known: Tensor) -> Tensor:
        """Return the places ``[batch, event]`` of the events from the oldest on, empty slots last.

        Whole numbers, all different and below 2^24: no tie is left to the machine that sorts them.
        """
        young = LONGEST * STEPS - (age * STEPS).round()
        rank = torch.where(known > 0, young, torch.full_like(young, LONGEST * STEPS + 1))
        rank = rank * MOST_EVENTS + self.place
        return rank.topk(rank.shape[1], dim=1, largest=False, sorted=True).indices


class TimeEmbedding(nn.Module):
    """``w t + a + sin(v t + b)`` per dimension: a time as a vector, with learned frequencies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, width)
        self.periodic = nn.Linear(1, width)

    def forward(self, time: Tensor) -> Tensor:
        """Return ``[batch, event, width]`` of times ``[batch, event]``."""
        terms = time.unsqueeze(2)
        embedded: Tensor = self.linear(terms) + torch.sin(self.periodic(terms))
        return embedded
