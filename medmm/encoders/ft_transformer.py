"""FT-Transformer: one token per field of a table, and a transformer over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmm.encoders.sequence import Transformer


class FTTransformer(nn.Module):
    """The [CLS] token of a transformer over one token per field (Gorishniy et al. 2021).

    A field's token is a linear map of the columns that it owns, and a bias that says which field it is: of a
    number its value times a vector, of a category the vector of its level, and of either the vector of
    "missing" where it is. So every row has all its tokens, and none is masked.

    Args:
        owners: field of each column, ``[in_features]``, 0 … fields - 1.
        width: of a token and of the embedding.
        layers: transformer blocks.
        heads: of their attention; divide the width.
        dropout: share dropped at training, in [0, 1).
    """

    owned: Tensor

    def __init__(
        self, owners: Sequence[int], width: int = 32, *, layers: int = 2, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.fields, self.width = max(owners) + 1, width
        owned = nn.functional.one_hot(torch.tensor(owners), self.fields).float()  # [feature, field]
        self.register_buffer("owned", owned, persistent=False)
        # Uniform within 1 / sqrt(width), as the paper's tokenizer.
        self.weight = nn.Parameter((2 * torch.rand(len(owners), width) - 1) / width**0.5)
        self.bias = nn.Parameter((2 * torch.rand(self.fields, width) - 1) / width**0.5)
        self.transformer = Transformer(width, layers, heads, dropout)
        self.out_features = width

    def forward(self, row: Tensor) -> Tensor:
        """Return embeddings ``[batch, width]`` of rows ``[batch, in_features]``."""
        weight = (self.owned.unsqueeze(2) * self.weight.unsqueeze(1)).flatten(1)  # [feature, field · width]
        tokens = (row @ weight).reshape(-1, self.fields, self.width) + self.bias
        summary: Tensor = self.transformer(tokens, torch.ones_like(tokens[:, :, 0]))
        return torch.relu(summary)
