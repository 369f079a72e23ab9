"""What every fusion is: embeddings and presence in, logits out; and what it takes of an encoder.

All of them share one signature, so that coalitions of an explanation and patterns of missing
modalities are the same call: ``forward(embeddings, present) -> logits``. An embedding of an absent
modality may hold anything finite; no fusion lets it through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from medmm.modality import Form


@dataclass(frozen=True)
class Given:
    """What an encoder gives of one modality; it travels flat, as an embedding ``[batch, width]``.

    Attributes:
        form: ``vector``; ``tokens``, whose last column is 1 where the token is known, else 0; or ``map``.
        shape: ``(width,)``, ``(token, width + 1)`` or ``(channel, *smaller)``.
        last: of a map, what the encoder has after it: ``[batch, channel, *smaller]`` to another map.
        channels: of a map, channels after ``last``.
    """

    form: Form
    shape: tuple[int, ...]
    last: nn.Module | None = None
    channels: int = 0

    @property
    def width(self) -> int:
        """Numbers per patient."""
        return prod(self.shape)

    @property
    def pooled(self) -> int:
        """Width of the vector that :func:`pooled` makes of it."""
        return {"vector": self.shape[0], "tokens": self.shape[-1] - 1, "map": self.channels}[self.form]


def as_given(width: int | Given) -> Given:
    """Return what a vector of a width is, or what was given."""
    return Given("vector", (width,)) if isinstance(width, int) else width


def pooled(given: Given, embedding: Tensor) -> Tensor:
    """Return one vector ``[batch, given.pooled]`` of an embedding: the mean token, or the last map's mean."""
    if given.form == "vector":
        return embedding
    shaped = embedding.reshape(-1, *given.shape)
    if given.form == "tokens":
        known = shaped[..., -1:]
        mean: Tensor = (shaped[..., :-1] * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
        return mean
    assert given.last is not None
    mapped: Tensor = given.last(shaped)
    return mapped.flatten(2).mean(dim=2)


class Fusion(nn.Module, ABC):
    """Base of the fusions.

    Attributes:
        takes: forms of an embedding that it can use, the best first.
        given: what each modality's encoder gives, in the network's order.
        widths: width of each modality's embedding.
        outputs: logits per patient.
    """

    takes: ClassVar[tuple[Form, ...]] = ("vector",)

    def __init__(self, given: Sequence[int | Given], outputs: int = 1) -> None:
        super().__init__()
        self.given = tuple(as_given(part) for part in given)
        self.widths = tuple(part.width for part in self.given)
        self.outputs = outputs

    def last_blocks(self, k: int) -> list[nn.Module]:
        """Return what the fusion holds of the encoder of modality ``k``: its last block, or nothing."""
        last = self.given[k].last
        return [] if last is None else [last]

    @abstractmethod
    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits ``[batch]``, or ``[batch, outputs]`` where there are several.

        Args:
            embeddings: one ``[batch, width_k]`` per modality.
            present: float ``[batch, modality]``, 1 where the patient has the modality, else 0.
        """


class Absent(nn.Module):
    """Learned embeddings that stand for absent modalities; they start at zero.

    They are learned from patients who lack the modality and from modality dropout
    (:func:`medmm.network.network.drop_modalities`).
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.embeddings = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in widths])

    def forward(self, embeddings: list[Tensor], present: Tensor) -> list[Tensor]:
        """Return ``m_k h_k + (1 - m_k) e_k`` per modality."""
        filled = []
        for k, (embedding, absent) in enumerate(zip(embeddings, self.embeddings, strict=True)):
            m = present[:, k : k + 1]
            filled.append(m * embedding + (1 - m) * absent)
        return filled
