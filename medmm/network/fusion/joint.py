"""Joint fusions of one vector per modality: concatenation, gates, low-rank products, experts of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmm.network.fusion.base import Absent, Fusion, Given
from medmm.network.heads import Head

MASKED = -1e9
"""Score of what must not be attended to; finite, so that a row without anything gives no NaN."""


class Concat(Fusion):
    """``MLP([m_k h_k + (1 - m_k) e_k]_k ⊕ m)``: joint fusion with learned absent embeddings.

    Args:
        given: width of each modality's embedding.
        hidden: widths of the hidden layers of the MLP.
        dropout: share of hidden units dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self,
        given: Sequence[int | Given],
        hidden: Sequence[int] = (32,),
        dropout: float = 0.2,
        outputs: int = 1,
    ) -> None:
        super().__init__(given, outputs)
        self.absent = Absent(self.widths)
        self.head = Head(sum(self.widths) + len(self.widths), hidden, dropout, outputs)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        logit: Tensor = self.head(torch.cat([*self.absent(embeddings, present), present], dim=1))
        return logit


class Gated(Fusion):
    """``z = Σ_k α_k ⊙ tanh(V_k h_k)``, with ``α`` a softmax over the present modalities of ``W [h]``.

    The gated multimodal unit (Arevalo et al. 2017), one gate per hidden unit; its sigmoid over two
    modalities is here a softmax over any number. The gate sees learned embeddings of what is absent.

    Args:
        given: width of each modality's embedding.
        hidden: units of the fused vector.
        dropout: share of the fused vector dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self, given: Sequence[int | Given], hidden: int = 32, dropout: float = 0.2, outputs: int = 1
    ) -> None:
        super().__init__(given, outputs)
        self.hidden = hidden
        self.absent = Absent(self.widths)
        self.values = nn.ModuleList([nn.Linear(width, hidden, bias=False) for width in self.widths])
        self.gate = nn.Linear(sum(self.widths), len(self.widths) * hidden, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.head = Head(hidden, outputs=outputs)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        filled = self.absent(embeddings, present)
        values = torch.stack([torch.tanh(v(h)) for v, h in zip(self.values, filled, strict=True)], dim=1)
        scores = self.gate(torch.cat(filled, dim=1)).reshape(-1, len(self.widths), self.hidden)
        m = present.unsqueeze(2)
        alpha = torch.softmax(scores + (1 - m) * MASKED, dim=1) * m  # [batch, modality, hidden]
        logit: Tensor = self.head(self.dropout((alpha * values).sum(dim=1)))
        return logit


class LowRank(Fusion):
    """``z = Σ_r ⊙_k W_k^r [h_k; 1]``: the tensor product of all embeddings, factorised (Liu et al. 2018).

    Learned embeddings stand for absent modalities.

    Args:
        given: width of each modality's embedding.
        hidden: units of the fused vector.
        rank: terms of the sum.
        dropout: share of the fused vector dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self,
        given: Sequence[int | Given],
        hidden: int = 32,
        rank: int = 4,
        dropout: float = 0.2,
        outputs: int = 1,
    ) -> None:
        super().__init__(given, outputs)
        self.hidden, self.rank = hidden, rank
        self.absent = Absent(self.widths)
        self.factors = nn.ModuleList([nn.Linear(width, rank * hidden) for width in self.widths])
        for factor in self.factors:
            assert isinstance(factor, nn.Linear)
            nn.init.ones_(factor.bias)  # products of factors near 0 would neither say nor learn anything
        self.dropout = nn.Dropout(dropout)
        self.head = Head(hidden, outputs=outputs)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        filled = self.absent(embeddings, present)
        product = torch.ones_like(filled[0][:, :1])
        for factor, h in zip(self.factors, filled, strict=True):
            product = product * factor(h)
        z = product.reshape(-1, self.rank, self.hidden).sum(dim=1)
        logit: Tensor = self.head(self.dropout(z))
        return logit


class ProductOfExperts(Fusion):
    """The mean of a product of Gaussians: one per present modality, and the prior N(0, I).

    ``z = Σ_k m_k τ_k μ_k / (1 + Σ_k m_k τ_k)`` with precisions ``τ_k = exp(-log σ_k²)`` (Wu & Goodman 2018).
    An absent modality has no Gaussian, so nothing stands for it. The logits are read from the mean; the
    generative half of the paper (decoders, sampling, its bound) is not part of a classifier.

    Args:
        given: width of each modality's embedding.
        hidden: dimensions of the Gaussians.
        dropout: share of the fused vector dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self, given: Sequence[int | Given], hidden: int = 32, dropout: float = 0.2, outputs: int = 1
    ) -> None:
        super().__init__(given, outputs)
        self.means = nn.ModuleList([nn.Linear(width, hidden) for width in self.widths])
        self.log_variances = nn.ModuleList([nn.Linear(width, hidden) for width in self.widths])
        self.dropout = nn.Dropout(dropout)
        self.head = Head(hidden, outputs=outputs)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        weighted = torch.zeros_like(self.means[0](embeddings[0]))
        precision = torch.ones_like(weighted)
        for k, h in enumerate(embeddings):
            m = present[:, k : k + 1]
            h = m * h  # noqa: PLW2901  what an absent embedding holds must not overflow the exponential
            # Clamped, so that one modality cannot silence the others for good.
            own = m * torch.exp(-self.log_variances[k](h).clamp(-8, 8))
            weighted = weighted + own * self.means[k](h)
            precision = precision + own
        logit: Tensor = self.head(self.dropout(weighted / precision))
        return logit
