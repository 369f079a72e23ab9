"""The encoder of tables."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class TableEncoder(nn.Module):
    """A multilayer perceptron over a transformed row.

    Args:
        in_features: width of the transformed row.
        hidden: widths of the hidden layers; the last is the width of the embedding.
        dropout: share of hidden units dropped at training, in [0, 1).
    """

    def __init__(self, in_features: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        self.layers = nn.Sequential(*layers)
        self.out_features = in_features

    def forward(self, row: Tensor) -> Tensor:
        """Return embeddings ``[batch, out_features]`` of rows ``[batch, in_features]``."""
        embedding: Tensor = self.layers(row)
        return embedding
