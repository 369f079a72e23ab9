"""Games whose coalitions are dear: references and orders are drawn, and every share has a standard error.

Where a fusion holds an encoder's last block, a coalition costs milliseconds instead of microseconds. The
Shapley value against a population is the mean of the values against each of its members, so members can be
drawn; what the shares must add up to is known without drawing, and corrects them (a regression estimator,
Cochran 1977, chapter 7), so that they add up exactly, whatever was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medmm.arrays import Bools, Float32, Float64, Ints
from medmm.attribution.shapley import all_coalitions, coalition_weights
from medmm.sample import Player

if TYPE_CHECKING:
    from medmm.attribution.game import Encoded, Model, Reference

FEWEST = 20
"""Draws at least, or a standard error would mean little."""

NUMBERS = 16_000_000
"""Numbers of the embeddings in one call of the fusion: 64 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What the fusion is run on, one entry per run.

    Attributes:
        reference: ``[run]``, the member of the reference population.
        inside: ``[run, modality]``, modalities that come from the patient.
        fields: ``[run, player]``, fields of the table that come from the patient, or None.
    """

    reference: Ints
    inside: Bools
    fields: Bools | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The table whose fields are players, and the player ``[feature]`` that owns each of its columns."""

    name: str
    players: Sequence[Player]
    owners: Ints


def from_draws(draws: Float64, total: float, *, error: float = 0.0) -> tuple[Float64, Float64]:
    """Return the mean of drawn shares, corrected to the sum that is known, and its standard errors.

    Args:
        draws: ``[draw, player]``, at least two; each draw's shares add up to what that draw divides.
        total: what the shares add up to on average, known without drawing.
        error: standard error of the total, where it was itself estimated.
    """
    divided = draws.sum(axis=1)
    spread = float(((divided - divided.mean()) ** 2).sum())
    centred = draws - draws.mean(axis=0)
    even = np.full(draws.shape[1], 1 / draws.shape[1])
    slopes = (divided - divided.mean()) @ centred / spread if spread > 0 else even
    slopes = slopes + (1 - slopes.sum()) / len(slopes)  # rounding only: the slopes add up to 1 as they are
    values = draws.mean(axis=0) + slopes * (total - divided.mean())
    left = centred - np.outer(divided - divided.mean(), slopes)
    errors = np.sqrt((left**2).sum(axis=0) / max(1, len(draws) - 2) / len(draws))
    return values, np.hypot(errors, slopes * error)


def modality_draws(
    model: Model, patient: Encoded, reference: Reference, logit: float, runs: int, seed: int
) -> Float64:
    """Return the exact shares of the modalities against drawn members of the reference, ``[draw, modality]``.

    Args:
        logit: of the patient, so that the coalition of everybody is not run again.
        runs: runs of the fusion to spend.
        seed: of the drawing.
    """
    coalitions = all_coalitions(len(reference.names))
    inner = coalitions[:-1]
    count = max(FEWEST, runs // len(inner))
    drawn = np.random.default_rng(seed).choice(len(reference.weights), count, p=reference.weights)
    rows = Rows(np.repeat(drawn, len(inner)), np.tile(inner, (count, 1)))
    values = run(model, patient, reference, rows).reshape(count, len(inner))
    values = np.concatenate([values, np.full((count, 1), logit)], axis=1)
    players, masks = len(reference.names), np.arange(len(coalitions))
    weights = coalition_weights(players - 1)
    found = np.empty((count, players))
    for i in range(players):
        without = masks[(masks >> i) & 1 == 0]
        found[:, i] = (values[:, without | (1 << i)] - values[:, without]) @ weights
    return found


def field_draws(
    model: Model, patient: Encoded, reference: Reference, table: Table, runs: int, seed: int
) -> Float64:
    """Return fields' shares along drawn orders, ``[draw, player]``; each draw is an order and its reverse.

    A draw has one member of the reference and one order of the modalities; the table's fields come one by
    one where the table comes (Owen value by permutations, antithetic: Mitchell et al. 2022).

    Args:
        table: its fields are the players.
        runs: runs of the fusion to spend.
        seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    players, names = len(table.players), reference.names
    k = names.index(table.name)
    count = max(FEWEST, runs // (2 * players + 2))
    drawn = rng.choice(len(reference.weights), count, p=reference.weights)
    place = rng.random((count, len(names))).argsort(axis=1).argsort(axis=1)
    inside = place < place[:, k : k + 1]  # the modalities that come before the table
    orders = rng.random((count, players)).argsort(axis=1)
    walks = np.stack([orders, orders[:, ::-1]], axis=1)  # [draw, 2, step]
    when = walks.argsort(axis=2)  # [draw, 2, player]: the step at which a field comes
    members = when[:, :, None, :] < np.arange(players + 1)[None, None, :, None]
    steps = 2 * (players + 1)
    rows = Rows(
        np.repeat(drawn, steps), np.repeat(inside, steps, axis=0), members.reshape(count * steps, players)
    )
    values = run(model, patient, reference, rows, table).reshape(count, 2, players + 1)
    gains = np.diff(values, axis=2)  # in the order of the walk
    return np.asarray(np.take_along_axis(gains, when, axis=2).mean(axis=1))


def run(
    model: Model, patient: Encoded, reference: Reference, rows: Rows, table: Table | None = None
) -> Float64:
    """Return the logits ``[run]``, in parts that fit the memory."""
    width = sum(x.shape[1] for x in reference.embeddings.values())
    step = max(1, NUMBERS // max(1, width))
    logits = []
    for start in range(0, len(rows.reference), step):
        part = slice(start, start + step)
        fields = None if rows.fields is None else rows.fields[part]
        logits.append(
            _part(model, patient, reference, Rows(rows.reference[part], rows.inside[part], fields), table)
        )
    return np.concatenate(logits)


def _part(model: Model, patient: Encoded, reference: Reference, rows: Rows, table: Table | None) -> Float64:
    present = np.where(rows.inside, patient.present, reference.present[rows.reference])
    embeddings: dict[str, Float32] = {}
    for i, name in enumerate(reference.names):
        if table is not None and name == table.name:
            assert rows.fields is not None
            mixed = np.where(
                rows.fields[:, table.owners], patient.rows[name], reference.rows[name][rows.reference]
            )
            embeddings[name] = model.encode(name, mixed)
            missing = [player.missing_column for player in table.players]
            present[:, i] = (mixed[:, missing] < 1).any(axis=1)
            continue
        embeddings[name] = reference.embeddings[name][rows.reference]
        if patient.present[i]:
            embeddings[name][rows.inside[:, i]] = patient.embeddings[name]
    return model.fuse(embeddings, present)
