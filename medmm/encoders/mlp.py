"""The encoder of tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOST_NUMBERS = 50
"""Widest vector of a category."""


class CategoryVectors(nn.Module):
    """Each category's columns replaced by the vector of its level, learned (Guo & Berkhahn 2016).

    The columns of a category are one-hot over its levels, "other" and "missing" included, so their product
    with the field's table is the vector of the one that is set, exactly: every level has a vector of its
    own, an unseen one and an absent one too. All other columns go through as they are, and come first.

    Args:
        in_features: width of the transformed row.
        categories: columns of each category, next to each other; none twice.
    """

    others: Tensor

    def __init__(self, in_features: int, categories: Sequence[range]) -> None:
        super().__init__()
        taken = {column for columns in categories for column in columns}
        others = torch.tensor([c for c in range(in_features) if c not in taken], dtype=torch.int64)
        self.register_buffer("others", others, persistent=False)
        self.places = [(columns.start, columns.stop) for columns in categories]
        self.vectors = nn.ParameterList(
            [nn.Parameter(torch.randn(len(columns), width_of(len(columns)))) for columns in categories]
        )
        self.out_features = len(others) + sum(vectors.shape[1] for vectors in self.vectors)

    def forward(self, row: Tensor) -> Tensor:
        """Return ``[batch, out_features]`` of rows ``[batch, in_features]``."""
        found = [
            row[:, start:stop] @ vectors
            for (start, stop), vectors in zip(self.places, self.vectors, strict=True)
        ]
        return torch.cat([row.index_select(1, self.others), *found], dim=1)


def width_of(levels: int) -> int:
    """Return how many numbers the vector of a category has: half its levels, at most 50.

    >>> width_of(4), width_of(5), width_of(1000)
    (2, 3, 50)
    """
    return min(MOST_NUMBERS, (levels + 1) // 2)


class TableEncoder(nn.Module):
    """A multilayer perceptron over a transformed row.

    Args:
        in_features: width of the transformed row.
        hidden: widths of the hidden layers; the last is the width of the embedding.
        dropout: share of hidden units dropped at training, in [0, 1).
        categories: columns of each category that enters as a learned vector; see :class:`CategoryVectors`.
            The others enter as they stand in the row.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int], dropout: float, *, categories: Sequence[range] = ()
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if categories:
            vectors = CategoryVectors(in_features, categories)
            layers.append(vectors)
            in_features = vectors.out_features
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        self.layers = nn.Sequential(*layers)
        self.out_features = in_features

    def forward(self, row: Tensor) -> Tensor:
        """Return embeddings ``[batch, out_features]`` of rows ``[batch, in_features]``."""
        embedding: Tensor = self.layers(row)
        return embedding
