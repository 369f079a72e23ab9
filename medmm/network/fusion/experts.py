"""A mixture of experts that knows which modalities it was not given (Flex-MoE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmm.errors import ConfigError
from medmm.network.fusion.base import Fusion, Given
from medmm.network.fusion.joint import MASKED
from medmm.network.heads import Head

MOST_MODALITIES = 6
"""The bank has 2^modalities rows per modality; above this most of them would never be trained."""


class MissingExperts(Fusion):
    """Absent embeddings from a bank by (observed set, modality); sparse top-k experts over all of them.

    The first expert of a patient is the one of the patient's own combination of modalities; the others are
    the best of a learned router. The experts chosen are weighed by a softmax of their router scores
    (Flex-MoE, Yun et al. 2024; its losses that balance the load of experts are left out).

    Args:
        given: width of each modality's embedding; each is projected to ``hidden`` first.
        hidden: units of a projected embedding, and of an expert.
        experts: how many; combination ``c`` (bit k is modality k) belongs to expert ``c mod experts``.
        top: experts that a patient uses.
        dropout: share of the fused vector dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self,
        given: Sequence[int | Given],
        hidden: int = 32,
        experts: int = 8,
        top: int = 2,
        dropout: float = 0.2,
        outputs: int = 1,
    ) -> None:
        super().__init__(given, outputs)
        count = len(self.widths)
        if count > MOST_MODALITIES:
            raise ConfigError(f"moe_missing joins at most {MOST_MODALITIES} modalities, not {count}")
        if not 1 <= top <= experts:
            raise ConfigError(f"moe_missing cannot use {top} of {experts} experts; lower `top`")
        self.experts_count, self.top = experts, top
        self.projections = nn.ModuleList([nn.Linear(width, hidden) for width in self.widths])
        self.bank = nn.Parameter(0.02 * torch.randn(2**count, count, hidden))
        self.router = nn.Linear(count * hidden, experts)
        self.experts = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(count * hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
                for _ in range(experts)
            ]
        )
        self.dropout = nn.Dropout(dropout)
        self.head = Head(hidden, outputs=outputs)
        self.register_buffer("bits", 2 ** torch.arange(count), persistent=False)

    bits: Tensor

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        observed = (present > 0).long() @ self.bits  # [batch], the combination as a number
        bank = self.bank[observed]  # [batch, modality, hidden]
        m = present.unsqueeze(2)
        projected = [p(present[:, k : k + 1] * embeddings[k]) for k, p in enumerate(self.projections)]
        h = (m * torch.stack(projected, dim=1) + (1 - m) * bank).flatten(1)
        weights = self.weights(self.router(h), observed)
        mixed = torch.stack([expert(h) for expert in self.experts], dim=1)  # [batch, expert, hidden]
        logit: Tensor = self.head(self.dropout((weights.unsqueeze(2) * mixed).sum(dim=1)))
        return logit

    def weights(self, scores: Tensor, observed: Tensor) -> Tensor:
        """Return the weight of each expert ``[batch, expert]``; 0 but for ``top`` of them."""
        own = nn.functional.one_hot(observed % self.experts_count, self.experts_count).to(scores.dtype)
        _, chosen = torch.topk(scores - own * MASKED, self.top, dim=1)
        used = nn.functional.one_hot(chosen, self.experts_count).sum(dim=1).to(scores.dtype)
        return torch.softmax(scores + (1 - used) * MASKED, dim=1)
