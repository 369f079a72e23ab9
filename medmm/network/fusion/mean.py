"""The ensemble: the mean logit of several fusions of the same modalities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmm.network.fusion.base import Fusion


class Mean(Fusion):
    """The mean logit of several fusions, each of which reads its own part of every embedding.

    This is how an ensemble stays ``encode → fuse``: embedding k is the members' embeddings k side by
    side, and the mean of logits is as explainable as one logit.
    """

    def __init__(self, members: Sequence[Fusion]) -> None:
        parts = tuple(zip(*(member.widths for member in members), strict=True))
        super().__init__([sum(widths) for widths in parts], members[0].outputs)
        self.members = nn.ModuleList(members)
        self._parts = parts

    def last_blocks(self, k: int) -> list[nn.Module]:
        """Return the members' blocks; see :meth:`Fusion.last_blocks`."""
        return [block for member in self._members() for block in member.last_blocks(k)]

    def _members(self) -> list[Fusion]:
        return [member for member in self.members if isinstance(member, Fusion)]

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        split = [torch.split(e, list(p), dim=1) for e, p in zip(embeddings, self._parts, strict=True)]
        logits = [member([e[i] for e in split], present) for i, member in enumerate(self.members)]
        return torch.stack(logits).mean(dim=0)
