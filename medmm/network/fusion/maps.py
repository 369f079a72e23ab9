"""Fusions in which the tables turn the channels of an image's feature map up and down.

The encoder gives the map before its last block; the last block is part of the fusion. So a coalition of an
explanation costs one run of that block, and an image is still encoded only once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from medmm.modality import Form
from medmm.network.fusion.base import Absent, Fusion, Given
from medmm.network.heads import Head


class _Conditioned(Fusion):
    """``MLP([m_k h_k + (1 - m_k) e_k]_k ⊕ m)``, an image's ``h_k`` being conditioned on the others.

    ``h_k = GAP(last((1 + γ) ⊙ F + β))`` of an image's map ``F``, with ``γ`` and ``β`` one number per channel;
    the ``1 +`` lets training start from the encoder as it is (Perez et al. 2018, section 7.2). ``t`` is the
    vectors of all other modalities side by side, with learned embeddings of absent ones, and they also
    reach the head, so that a patient without the image is scored by them.
    """

    takes: ClassVar[tuple[Form, ...]] = ("map", "vector")

    def __init__(
        self, given: Sequence[int | Given], hidden: Sequence[int], dropout: float, outputs: int
    ) -> None:
        super().__init__(given, outputs)
        self.images = tuple(k for k, part in enumerate(self.given) if part.form == "map")
        self.others = tuple(k for k in range(len(self.given)) if k not in self.images)
        self.conditions = sum(self.given[k].width for k in self.others)
        self.last = nn.ModuleList([part.last for part in self.given if part.last is not None])
        self.absent = Absent([part.pooled for part in self.given])
        width = sum(part.pooled for part in self.given) + len(self.given)
        self.head = Head(width, hidden, dropout, outputs)

    @abstractmethod
    def scale_and_shift(self, image: int, feature_map: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``γ`` and ``β``, each ``[batch, channel]``, of the image in place ``image``."""

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        t = self._condition(embeddings, present)
        vectors = list(embeddings)
        for image, (k, last) in enumerate(zip(self.images, self.last, strict=True)):
            feature_map = (present[:, k : k + 1] * embeddings[k]).reshape(-1, *self.given[k].shape)
            gamma, beta = self.scale_and_shift(image, feature_map, t)
            tail = (1,) * (feature_map.ndim - 2)
            turned = (1 + gamma).reshape(*gamma.shape, *tail) * feature_map + beta.reshape(*beta.shape, *tail)
            vectors[k] = last(turned).flatten(2).mean(dim=2)
        filled = self.absent(vectors, present)
        logit: Tensor = self.head(torch.cat([*filled, present], dim=1))
        return logit

    def _condition(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        parts = []
        for k in self.others:
            m = present[:, k : k + 1]
            parts.append(m * embeddings[k] + (1 - m) * self.absent.embeddings[k])
        return torch.cat(parts, dim=1) if parts else present[:, :0]


class Film(_Conditioned):
    """``[γ, β] = W t + b`` (FiLM, Perez et al. 2018); see :class:`_Conditioned`.

    Args:
        given: what each modality gives: a map for an image, else a vector.
        hidden: widths of the head's hidden layers.
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
        super().__init__(given, hidden, dropout, outputs)
        self.films = nn.ModuleList(
            [nn.Linear(self.conditions, 2 * self.given[k].shape[0]) for k in self.images]
        )

    def scale_and_shift(self, image: int, feature_map: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``γ`` and ``β``; see :meth:`_Conditioned.scale_and_shift`."""
        gamma, beta = self.films[image](t).chunk(2, dim=1)
        return gamma, beta


class Daft(_Conditioned):
    """``[γ, β] = W2 ReLU(W1 [GAP(F); t])`` (DAFT, Wolf et al. 2022); see :class:`_Conditioned`.

    Args:
        given: what each modality gives: a map for an image, else a vector.
        bottleneck: rows of ``W1``.
        hidden: widths of the head's hidden layers.
        dropout: share of hidden units dropped at training, in [0, 1).
        outputs: logits per patient.
    """

    def __init__(
        self,
        given: Sequence[int | Given],
        bottleneck: int = 7,
        hidden: Sequence[int] = (32,),
        dropout: float = 0.2,
        outputs: int = 1,
    ) -> None:
        super().__init__(given, hidden, dropout, outputs)
        channels = [self.given[k].shape[0] for k in self.images]
        self.squeeze = nn.ModuleList(
            [nn.Linear(c + self.conditions, bottleneck, bias=False) for c in channels]
        )
        self.widen = nn.ModuleList([nn.Linear(bottleneck, 2 * c, bias=False) for c in channels])

    def scale_and_shift(self, image: int, feature_map: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``γ`` and ``β``; see :meth:`_Conditioned.scale_and_shift`."""
        seen = torch.cat([feature_map.flatten(2).mean(dim=2), t], dim=1)
        gamma, beta = self.widen[image](torch.relu(self.squeeze[image](seen))).chunk(2, dim=1)
        return gamma, beta
