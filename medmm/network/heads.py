"""What stands behind an encoder or a fusion: from a vector to a logit, or to several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """A small MLP from a vector to the log-odds of one binary outcome, or to several logits.

    Args:
        in_features: width of the vector.
        hidden: widths of the hidden layers; none makes it a logistic regression.
        dropout: share of hidden units dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int] = (), dropout: float = 0.0, outputs: int = 1
    ) -> None:
        super().__init__()
        self.outputs = outputs
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, outputs))

    def forward(self, vector: Tensor) -> Tensor:
        """Return logits ``[batch]``, or ``[batch, outputs]``, of vectors ``[batch, in_features]``."""
        logits: Tensor = self.layers(vector)
        return logits.squeeze(1) if self.outputs == 1 else logits


class Unimodal(nn.Module):
    """An encoder with a head of its own: one modality's logits, as an embedding of width ``outputs``.

    The bases of a late fusion, and the "each modality alone" of a comparison.
    """

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.out_features = head.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, outputs]`` of inputs ``[batch, *shape]``."""
        logit: Tensor = self.head(self.encoder(x))
        return torch.unsqueeze(logit, 1) if self.head.outputs == 1 else logit
