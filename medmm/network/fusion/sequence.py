"""Fusion as a sequence: an LSTM that reads one embedding after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmm.network.fusion.base import Fusion, Given
from medmm.network.heads import Head


class SequenceLSTM(Fusion):
    """An LSTM over the sequence of embeddings, absent ones left out (MedFuse, Hayat et al. 2022).

    MedFuse packs the sequence; a packed sequence does not export, so where a modality is absent the state
    passes it by unchanged, which is the same.

    Args:
        given: width of each modality's embedding; each is projected to ``hidden`` first.
        hidden: units of the LSTM.
        dropout: share of its last state dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self, given: Sequence[int | Given], hidden: int = 32, dropout: float = 0.2, outputs: int = 1
    ) -> None:
        super().__init__(given, outputs)
        self.projections = nn.ModuleList([nn.Linear(width, hidden) for width in self.widths])
        self.cell = nn.LSTMCell(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = Head(hidden, outputs=outputs)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        state = torch.zeros_like(self.projections[0](embeddings[0]))
        memory = torch.zeros_like(state)
        for k, (projection, h) in enumerate(zip(self.projections, embeddings, strict=True)):
            m = present[:, k : k + 1]
            after, kept = self.cell(projection(m * h), (state, memory))
            state, memory = m * after + (1 - m) * state, m * kept + (1 - m) * memory
        logit: Tensor = self.head(self.dropout(state))
        return logit
