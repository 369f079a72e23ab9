"""One token per field of a table, for fusions that attend to fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmm.sample import Player

WIDTH = 16
"""Width of a field's token."""


class ColumnTokens(nn.Module):
    """A linear map per field, with a bias that says which field it is; a missing field is the mask token.

    Each token carries one number more: 1 where the field is known, 0 where it is missing. The tokens travel
    flat, ``[batch, field · (width + 1)]``. Source: TIP, Du et al. 2024.

    Args:
        players: the fields; each owns columns of the row and one of them says that it is missing.
        in_features: width of the row.
        width: of a token.
    """

    owned: Tensor
    missing: Tensor

    def __init__(self, players: Sequence[Player], in_features: int, width: int = WIDTH) -> None:
        super().__init__()
        self.fields, self.width = len(players), width
        self.out_features = len(players) * (width + 1)
        owned = torch.zeros(len(players), in_features)
        for i, player in enumerate(players):
            owned[i, list(player.columns)] = 1
        self.register_buffer("owned", owned, persistent=False)
        missing = torch.tensor([player.missing_column for player in players])
        self.register_buffer("missing", missing, persistent=False)
        scale = owned.sum(dim=1).clamp(min=1).rsqrt()
        self.weight = nn.Parameter(torch.randn(len(players), in_features, width) * scale[:, None, None])
        self.bias = nn.Parameter(0.1 * torch.randn(len(players), width))
        self.mask = nn.Parameter(torch.zeros(width))

    def forward(self, row: Tensor) -> Tensor:
        """Return tokens ``[batch, field · (width + 1)]`` of rows ``[batch, in_features]``."""
        weight = (
            (self.owned.unsqueeze(2) * self.weight).permute(1, 0, 2).flatten(1)
        )  # [feature, field · width]
        tokens = (row @ weight).reshape(-1, self.fields, self.width) + self.bias
        known = (row[:, self.missing] < 1).to(row.dtype).unsqueeze(2)
        return torch.cat([known * tokens + (1 - known) * self.mask, known], dim=2).flatten(1)
