"""Fusions: from one embedding per modality, and which modalities are present, to a logit.

All of them share one signature, so that coalitions of an explanation and patterns of missing
modalities are the same call: ``forward(embeddings, present) -> logit``. An embedding of an absent
modality may hold anything finite; no fusion lets it through.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medmm.errors import ConfigError
from medmm.network.heads import BinaryHead


class Fusion(nn.Module, ABC):
    """Base of the fusions.

    Attributes:
        widths: width of each modality's embedding, in the network's order.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)

    @abstractmethod
    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits ``[batch]``.

        Args:
            embeddings: one ``[batch, width_k]`` per modality.
            present: float ``[batch, modality]``, 1 where the patient has the modality, else 0.
        """


class Concat(Fusion):
    """``MLP([m_k h_k + (1 - m_k) e_k]_k ⊕ m)``: joint fusion with learned absent embeddings.

    The absent embeddings start at zero and are learned from patients who lack the modality and from
    modality dropout (:func:`medmm.network.network.drop_modalities`).

    Args:
        widths: width of each modality's embedding.
        hidden: widths of the hidden layers of the MLP.
        dropout: share of hidden units dropped at training, in [0, 1).
    """

    def __init__(self, widths: Sequence[int], hidden: Sequence[int] = (32,), dropout: float = 0.2) -> None:
        super().__init__(widths)
        self.absent = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in self.widths])
        self.head = BinaryHead(sum(self.widths) + len(self.widths), hidden, dropout)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits ``[batch]``; see :meth:`Fusion.forward`."""
        parts = []
        for k, (embedding, absent) in enumerate(zip(embeddings, self.absent, strict=True)):
            m = present[:, k : k + 1]
            parts.append(m * embedding + (1 - m) * absent)
        logit: Tensor = self.head(torch.cat([*parts, present], dim=1))
        return logit


class Stack(Fusion):
    """``b + Σ_k m_k (w_k (a_k l_k + c_k) + v_k)``: a fitted logistic regression over base logits.

    ``l_k`` is the logit of base k (an embedding of width 1), ``a_k`` and ``c_k`` its Platt
    calibration, ``w_k`` and ``v_k`` what the stacking regression gives the calibrated logit and the
    presence of the modality (Huang et al. 2020, late fusion). Nothing here is trained by gradient:
    the coefficients are buffers, set by :meth:`of`.

    Args:
        widths: width of each base, all 1.
    """

    slope: Tensor
    shift: Tensor
    weight: Tensor
    presence_weight: Tensor
    intercept: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        if any(width != 1 for width in self.widths):
            raise ConfigError(f"late_stack joins base logits of width 1, not embeddings of {self.widths}")
        n = len(self.widths)
        self.register_buffer("slope", torch.ones(n))
        self.register_buffer("shift", torch.zeros(n))
        self.register_buffer("weight", torch.ones(n))
        self.register_buffer("presence_weight", torch.zeros(n))
        self.register_buffer("intercept", torch.zeros(()))

    @classmethod
    def of(
        cls,
        *,
        slope: Sequence[float],
        shift: Sequence[float],
        weight: Sequence[float],
        presence_weight: Sequence[float],
        intercept: float,
    ) -> Stack:
        """Return the stack with these coefficients, one per modality in the network's order.

        Args:
            slope: ``a_k``, Platt slope of base k.
            shift: ``c_k``, Platt intercept of base k.
            weight: ``w_k``, of the calibrated logit.
            presence_weight: ``v_k``, of being present.
            intercept: ``b``.
        """
        stack = cls([1] * len(weight))
        stack.slope = torch.tensor(slope, dtype=torch.float32)
        stack.shift = torch.tensor(shift, dtype=torch.float32)
        stack.weight = torch.tensor(weight, dtype=torch.float32)
        stack.presence_weight = torch.tensor(presence_weight, dtype=torch.float32)
        stack.intercept = torch.tensor(intercept, dtype=torch.float32)
        return stack

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits ``[batch]``; see :meth:`Fusion.forward`."""
        base = torch.cat(embeddings, dim=1)  # [batch, modality]
        calibrated = self.slope * base + self.shift
        share = present * (self.weight * calibrated + self.presence_weight)
        return self.intercept + share.sum(dim=1)


class Mean(Fusion):
    """The mean logit of several fusions, each of which reads its own part of every embedding.

    This is how an ensemble stays ``encode → fuse``: embedding k is the members' embeddings k side by
    side, and the mean of logits is as explainable as one logit.
    """

    def __init__(self, members: Sequence[Fusion]) -> None:
        super().__init__([sum(parts) for parts in zip(*(member.widths for member in members), strict=True)])
        self.members = nn.ModuleList(members)
        self._parts = tuple(zip(*(member.widths for member in members), strict=True))

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits ``[batch]``; see :meth:`Fusion.forward`."""
        split = [torch.split(e, list(p), dim=1) for e, p in zip(embeddings, self._parts, strict=True)]
        logits = [member([e[i] for e in split], present) for i, member in enumerate(self.members)]
        return torch.stack(logits).mean(dim=0)


FUSIONS: dict[str, type[Fusion]] = {"concat": Concat, "late_stack": Stack}
"""The fusions a recipe can ask for, by kind."""


def fusion(kind: str, widths: Sequence[int], **options: Any) -> Fusion:
    """Return a fresh fusion of a kind.

    Args:
        kind: a key of :data:`FUSIONS`.
        widths: width of each modality's embedding, in the network's order.
        **options: what the fusion's constructor takes besides the widths.

    Raises:
        ConfigError: if there is no such fusion, or it does not take these options.
    """
    if kind not in FUSIONS:
        near = difflib.get_close_matches(kind, FUSIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(FUSIONS))}"
        raise ConfigError(f"no fusion {kind!r}; {hint}")
    try:
        return FUSIONS[kind](widths, **options)
    except TypeError as error:
        raise ConfigError(f"fusion {kind!r} cannot be made with {sorted(options)}: {error}") from error
