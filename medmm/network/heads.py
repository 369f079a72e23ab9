"""What stands behind an encoder or a fusion: from a vector to a logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BinaryHead(nn.Module):
    """A small MLP from a vector to the log-odds of one binary outcome.

    Args:
        in_features: width of the vector.
        hidden: widths of the hidden layers; none makes it a logistic regression.
        dropout: share of hidden units dropped at training, in [0, 1).
    """

    def __init__(self, in_features: int, hidden: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, 1))

    def forward(self, vector: Tensor) -> Tensor:
        """Return logits ``[batch]`` of vectors ``[batch, in_features]``."""
        logit: Tensor = self.layers(vector)
        return logit.squeeze(1)


class Unimodal(nn.Module):
    """An encoder with a head of its own: one modality's logit, as an embedding of width 1.

    The bases of a late fusion, and the "each modality alone" of a comparison.
    """

    out_features = 1

    def __init__(self, encoder: nn.Module, head: BinaryHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, 1]`` of inputs ``[batch, *shape]``."""
        logit: Tensor = self.head(self.encoder(x))
        return torch.unsqueeze(logit, 1)
