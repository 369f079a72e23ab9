"""The encoder of notes: an embedding per token, and a summary of their sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmm.encoders.sequence import Sequence, SequenceKind


class NotesEncoder(nn.Module):
    """Token embeddings, with their places where a transformer reads them, summarised.

    Args:
        vocabulary: tokens, padding (0) among them.
        length: tokens of a row.
        kind: how the sequence is summarised.
        width: of a token and of the embedding.
        layers: recurrent layers, or transformer blocks.
        heads: of the transformer.
        dropout: share dropped at training, in [0, 1).
    """

    place: nn.Parameter | None

    def __init__(
        self,
        vocabulary: int,
        length: int,
        kind: SequenceKind,
        width: int,
        *,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.token = nn.Parameter(0.5 * torch.randn(vocabulary, width))
        self.place = nn.Parameter(0.02 * torch.randn(length, width)) if kind == "transformer" else None
        self.dropout = nn.Dropout(dropout)
        self.sequence = Sequence(kind, width, layers=layers, heads=heads, dropout=dropout)
        self.out_features = width

    def forward(self, row: Tensor) -> Tensor:
        """Return embeddings ``[batch, width]`` of token numbers ``[batch, length]``: floats, 0 is padding."""
        tokens = row.round().clamp(0, self.vocabulary - 1).long()
        known = (tokens > 0).to(row.dtype)
        embedded = self.dropout(self.token[tokens])
        if self.place is not None:
            embedded = embedded + self.place
        summary: Tensor = self.sequence(embedded, known)
        return summary
