"""What a step sees of a table: some fields are another patient's, or hidden."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medmm.modalities.tables import Entry
from medmm.sample import Player


def owners(players: Sequence[Player], features: int) -> Tensor:
    """Return the field that each column of a transformed row belongs to, ``[feature]``."""
    owner = torch.zeros(features, dtype=torch.long)
    for index, player in enumerate(players):
        owner[list(player.columns)] = index
    return owner


def blank(entries: Sequence[Entry], features: int) -> Tensor:
    """Return the row of a patient of whom nothing is known, ``[feature]``.

    What is in no entry's columns is a missing indicator.
    """
    row = torch.ones(features)
    for entry in entries:
        row[list(entry.columns)] = torch.tensor(entry.blank)
    return row


def corrupted(
    rows: Tensor, owner: Tensor, donors: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """Return rows ``[batch, feature]`` with fields replaced by draws from their marginal distribution.

    Each field is replaced with probability ``share``, all its columns by those of one donor drawn evenly
    (Bahri et al. 2022).

    Args:
        owner: ``[feature]``, the field of each column.
        donors: ``[donor, feature]``.
        generator: the only source of chance.
    """
    fields = int(owner.max()) + 1
    replaced = torch.rand(len(rows), fields, generator=generator) < share
    drawn = torch.randint(len(donors), (len(rows), fields), generator=generator)
    others = donors[drawn[:, owner], torch.arange(len(owner))]
    return torch.where(replaced[:, owner], others, rows)


def chosen(known: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return which known fields are hidden, ``[batch, field]``.

    Each with probability ``share``, but at least one of every patient who has any, and never all of a patient
    who has several.

    Args:
        known: ``[batch, field]``.
    """
    draw = torch.rand(known.shape, generator=generator)
    lowest = torch.where(known, draw, 2.0).argmin(dim=1, keepdim=True)
    highest = torch.where(known, draw, -1.0).argmax(dim=1, keepdim=True)
    hidden = (draw < share).scatter(1, lowest, value=True)
    several = known.sum(dim=1, keepdim=True) > 1
    return hidden.scatter(1, highest, hidden.gather(1, highest) & ~several) & known
