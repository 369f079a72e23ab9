"""Attention with keys that may be masked, and the transformer block made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmm.errors import ConfigError
from medmm.network.fusion.joint import MASKED


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) that gives zeros where every key is masked.

    Args:
        width: of queries, keys and values.
        heads: dividing ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"attention of width {width} cannot have {heads} heads; they must divide it")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, known: Tensor) -> Tensor:
        """Return ``[batch, query, width]``.

        Args:
            queries: ``[batch, query, width]``.
            keys: ``[batch, key, width]``, which also give the values.
            known: ``[batch, key]``, 1 where a key may be attended to, else 0.
        """
        q, k, v = (
            self._split(f(x)) for f, x in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        scores = q @ k.transpose(2, 3) / (q.shape[-1] ** 0.5)  # [batch, head, query, key]
        masked = scores + (1 - known[:, None, None, :]) * MASKED
        mixed = (torch.softmax(masked, dim=3) @ v).transpose(1, 2).flatten(2)
        anything = (known.sum(dim=1) > 0).to(mixed.dtype)[:, None, None]
        out: Tensor = self.out(mixed)
        return anything * out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, cross-attention where there is something to look at, and a feed-forward step.

    Each is added to what it read, normalised first.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, across: bool) -> None:
        super().__init__()
        self.own = Attention(width, heads)
        self.own_norm = nn.LayerNorm(width)
        self.across = Attention(width, heads) if across else None
        self.across_norm = nn.LayerNorm(width) if across else None
        self.forward_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, known: Tensor, patches: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Return tokens ``[batch, token, width]``.

        Args:
            tokens: ``[batch, token, width]``.
            known: ``[batch, token]``, 1 where a token may be attended to.
            patches: ``[batch, patch, width]`` of images, if the block looks at any.
            seen: ``[batch, patch]``, 1 where the patch is of an image that the patient has.
        """
        normed = self.own_norm(tokens)
        tokens = tokens + self.dropout(self.own(normed, normed, known))
        if self.across is not None and self.across_norm is not None and patches is not None:
            assert seen is not None
            tokens = tokens + self.dropout(self.across(self.across_norm(tokens), patches, seen))
        fed: Tensor = tokens + self.dropout(self.feed(self.forward_norm(tokens)))
        return fed
