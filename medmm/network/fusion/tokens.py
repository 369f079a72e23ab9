"""Transformers over tokens: one per modality, or table columns that look at an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from medmm.modality import Form
from medmm.network.fusion.attention import Block
from medmm.network.fusion.base import Fusion, Given
from medmm.network.heads import Head


class Tokens(nn.Module):
    """Every modality's embedding as tokens of one width, and which of them may be attended to.

    Args:
        given: what each modality gives; a vector is one token. Maps are left out.
        width: of a token.
    """

    def __init__(self, given: Sequence[Given], width: int) -> None:
        super().__init__()
        self.given = tuple(given)
        self.parts = tuple(k for k, part in enumerate(given) if part.form != "map")
        self.projections = nn.ModuleList([nn.Linear(self.given[k].pooled, width) for k in self.parts])
        self.first = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, embeddings: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens ``[batch, 1 + token, width]``, the first being [CLS], and which are known."""
        batch = present.shape[0]
        tokens = [self.first.expand(batch, 1, -1)]
        known = [torch.ones_like(present[:, :1])]
        for k, projection in zip(self.parts, self.projections, strict=True):
            m = present[:, k : k + 1]
            if self.given[k].form == "vector":
                tokens.append(projection(m * embeddings[k]).unsqueeze(1))
                known.append(m)
            else:
                shaped = (m * embeddings[k]).reshape(batch, *self.given[k].shape)
                tokens.append(projection(shaped[..., :-1]))
                known.append((shaped[..., -1] > 0.5).to(shaped.dtype))
        return torch.cat(tokens, dim=1), torch.cat(known, dim=1)


class TokenTransformer(Fusion):
    """[CLS] and a token per modality through a transformer; absent ones are masked as keys.

    A token per field of a table would make each coalition of an explanation 30 times as dear, and did not
    learn from hundreds of patients; :class:`TabularCrossAttention` has them.

    Args:
        given: width of each modality's embedding.
        width: of a token.
        heads: of the attention.
        layers: transformer blocks.
        dropout: share dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self,
        given: Sequence[int | Given],
        width: int = 16,
        heads: int = 2,
        layers: int = 1,
        dropout: float = 0.2,
        outputs: int = 1,
    ) -> None:
        super().__init__(given, outputs)
        self.tokens = Tokens(self.given, width)
        self.blocks = nn.ModuleList([Block(width, heads, dropout, across=False) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = Head(width, outputs=outputs)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        tokens, known = self.tokens(embeddings, present)
        for block in self.blocks:
            tokens = block(tokens, known)
        logit: Tensor = self.head(self.norm(tokens[:, 0]))
        return logit


class TabularCrossAttention(Fusion):
    """[CLS] and one token per table column attend to each other, then to the patches of the images.

    The tabular half of TIP (Du et al. 2024): a missing cell is a mask token, and masked out of attention; an
    absent image adds nothing. The patches are the places of each image's last feature map.

    Args:
        given: what each modality gives: tokens, a map, or a vector, which is one more token.
        width: of a token.
        heads: of each attention.
        layers: of self-attention, cross-attention and feed-forward.
        dropout: share dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    takes: ClassVar[tuple[Form, ...]] = ("map", "tokens", "vector")

    def __init__(
        self,
        given: Sequence[int | Given],
        width: int = 16,
        heads: int = 2,
        layers: int = 1,
        dropout: float = 0.2,
        outputs: int = 1,
    ) -> None:
        super().__init__(given, outputs)
        self.tokens = Tokens(self.given, width)
        self.images = tuple(k for k, part in enumerate(self.given) if part.form == "map")
        self.last = nn.ModuleList([_last(self.given[k]) for k in self.images])
        self.patches = nn.ModuleList([nn.Linear(self.given[k].channels, width) for k in self.images])
        across = bool(self.images)
        self.blocks = nn.ModuleList([Block(width, heads, dropout, across=across) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = Head(width, outputs=outputs)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        tokens, known = self.tokens(embeddings, present)
        patches, seen = self._places(embeddings, present)
        for block in self.blocks:
            tokens = block(tokens, known, patches, seen)
        logit: Tensor = self.head(self.norm(tokens[:, 0]))
        return logit

    def _places(self, embeddings: list[Tensor], present: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the places of every image ``[batch, place, width]``, and which the patient has."""
        places, seen = [], []
        for k, last, project in zip(self.images, self.last, self.patches, strict=True):
            m = present[:, k : k + 1]
            mapped = last((m * embeddings[k]).reshape(-1, *self.given[k].shape)).flatten(2).transpose(1, 2)
            places.append(project(mapped))
            seen.append(m.expand(-1, mapped.shape[1]))
        return (torch.cat(places, dim=1), torch.cat(seen, dim=1)) if places else (None, None)


def _last(given: Given) -> nn.Module:
    assert given.last is not None
    return given.last
