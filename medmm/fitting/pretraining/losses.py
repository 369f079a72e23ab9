"""The losses of pretraining: which of a batch belongs to whom, and what a hidden field held."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medmm.modalities.tables import Entry


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the symmetric cross-entropy of finding each patient's other half in the batch.

    Row i of both belongs to patient i (CLIP, Radford et al. 2021; image and table, Hager et al. 2023).

    Args:
        first: ``[batch, width]``, of one kind of input; need not be normalised.
        second: ``[batch, width]``, of the other.
        temperature: divides the cosine similarities.
    """
    similar = similarities(first, second) / temperature
    own = torch.arange(len(similar), device=similar.device)
    return 0.5 * (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of finding the other view of the same image among both views of the batch.

    Normalised temperature-scaled cross-entropy (SimCLR, Chen et al. 2020, equation 1); an image is no
    candidate for itself.

    Args:
        first: ``[batch, width]``, of one view; need not be normalised.
        second: ``[batch, width]``, of the other.
        temperature: divides the cosine similarities.
    """
    both = torch.cat([first, second])
    similar = similarities(both, both) / temperature
    similar = similar.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), -torch.inf)
    other = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(similar, other)


def hidden_fields(predicted: Tensor, rows: Tensor, hidden: Tensor, entries: Sequence[Entry]) -> Tensor:
    """Return the summed loss of every hidden entry, ``[2]``: the sum, and how many entries were counted.

    Squared error of standardised numbers, cross-entropy of categories and flags (Du et al. 2024). What was
    missing before it was hidden is not counted.

    Args:
        predicted: ``[batch, feature]``; logits where the entry is a category or a flag.
        rows: ``[batch, feature]``, as they were.
        hidden: ``[batch, feature]``, whether a column was hidden.
        entries: of the rows.
    """
    total = rows.new_zeros(2)
    for entry in entries:
        asked = hidden[:, entry.missing] & (rows[:, entry.missing] == 0)
        columns = list(entry.columns)
        guess, truth = predicted[asked][:, columns], rows[asked][:, columns]
        if entry.column.kind == "category":
            loss = F.cross_entropy(guess, truth.argmax(dim=1), reduction="sum")
        elif entry.column.kind == "flag":
            loss = F.binary_cross_entropy_with_logits(guess, truth, reduction="sum")
        else:
            loss = F.mse_loss(guess, truth, reduction="sum")
        total = total + torch.stack([loss, asked.sum().to(loss)])
    return total


def similarities(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine similarity of each row of one with each row of the other."""
    return F.normalize(first, dim=1) @ F.normalize(second, dim=1).T


@torch.no_grad()
def retrieved(first: Tensor, second: Tensor) -> float:
    """Return the share of rows whose other half is the most similar of the batch; chance is 1 / batch."""
    nearest = similarities(first, second).argmax(dim=1)
    return float((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())
