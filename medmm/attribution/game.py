"""The games behind a logit: modalities as players, and the fields of one table as players.

A coalition's value is the mean, over a fixed reference population, of the uncalibrated logit in which
the coalition's players come from the patient and all others, *presence included*, from the reference.
Encoders run once per distinct input; coalitions only re-run the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from medmm.arrays import Bools, Float32, Float64, Ints
from medmm.attribution.sampled import Table, field_draws, from_draws, modality_draws
from medmm.attribution.shapley import (
    all_coalitions,
    coalition_weights,
    kernel_shapley,
    sampled_coalitions,
    shapley,
)
from medmm.errors import ExplanationError
from medmm.sample import Attribution, Player

TOLERANCE = 1e-5
"""Log-odds by which an explanation may miss the logit it explains."""

BATCH = 16384
"""Rows per call of an encoder or the fusion."""

MODALITY = "modality"
"""The component of an attribution whose players are the modalities."""

Kind: TypeAlias = Literal["population", "medoids", "centroids"]


class Model(Protocol):
    """The two halves of a fitted network, as numpy functions; :class:`medmm.runtime.Runtime` is one."""

    def encode(self, name: str, x: Float32, /) -> Float32:
        """Return embeddings ``[batch, width]`` of one modality's inputs ``[batch, *shape]``."""

    def fuse(self, embeddings: Mapping[str, Float32], present: Bools, /) -> Float64:
        """Return uncalibrated logits ``[batch]`` of embeddings and presence ``[batch, modality]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One patient, encoded.

    Attributes:
        embeddings: ``[width]`` per modality; an absent modality needs no key.
        rows: transformed row ``[feature]`` per table.
        present: ``[modality]``, in the order of the reference's names.
    """

    embeddings: Mapping[str, Float32]
    rows: Mapping[str, Float32]
    present: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The population against which every score is explained; from the training split only.

    Attributes:
        names: the modalities, in the order of ``present``.
        present: ``[reference, modality]``.
        embeddings: ``[reference, width]`` per modality; finite and without meaning where absent.
        rows: ``[reference, feature]`` per table; the row of a patient without any known field where absent.
        weights: ``[reference]``, positive, sum 1.
        kind: all training patients, weighted real ones, or means of at least 11.
        digest: sha256 of all of the above.
    """

    names: tuple[str, ...]
    present: Bools
    embeddings: Mapping[str, Float32]
    rows: Mapping[str, Float32]
    weights: Float64
    kind: Kind
    digest: str


@dataclass(frozen=True, slots=True)
class Budget:
    """What an explanation may cost.

    Attributes:
        exact_up_to: fields of a table up to which every coalition is computed.
        coalitions: coalitions above that number of fields.
        seed: of what is drawn.
        runs: of the fusion per game, where one costs milliseconds: above it, members of the reference and
            orders of fields are drawn (:mod:`medmm.attribution.sampled`). None where a run costs nothing.
    """

    exact_up_to: int = 10
    coalitions: int = 2000
    seed: int = 0
    runs: int | None = None


def modality_attribution(
    model: Model, patient: Encoded, reference: Reference, *, outcome: str, budget: Budget | None = None
) -> Attribution:
    """Return the Shapley value of each modality, in log-odds; exact unless the budget says what runs cost.

    The share of an absent modality is the effect of its absence.

    Args:
        model: encoder and fusion functions of the fitted network.
        patient: the patient explained.
        reference: the population explained against.
        outcome: name of the outcome.
        budget: as of :func:`field_attribution`.

    Raises:
        ExplanationError: if a logit is not finite or the patient does not fit the reference.
    """
    found = _modalities(model, patient, reference, budget or Budget())
    return Attribution(
        outcome=outcome,
        component=MODALITY,
        names=reference.names,
        base=found.base,
        values=tuple(map(float, found.shares)),
        errors=tuple(map(float, found.errors)),
        logit=found.logit,
    )


def field_attribution(
    model: Model,
    patient: Encoded,
    reference: Reference,
    name: str,
    players: Sequence[Player],
    *,
    outcome: str,
    budget: Budget | None = None,
) -> Attribution:
    """Return the Owen value of each field of one table, in log-odds.

    The players of the result are the table's fields, in the order given, and then the other modalities,
    with the same base as :func:`modality_attribution`: the fields add up to their table's share there, the
    other modalities keep theirs, and base + all values = logit. A field's columns, one-hot and missing
    indicator included, move together; a row that mixes patient and reference counts as present where any
    of its fields is known.

    Args:
        model: encoder and fusion functions of the fitted network.
        patient: the patient explained, who has the table.
        reference: the population explained against.
        name: the table.
        players: its fields; together they own every column of its row, each once.
        outcome: name of the outcome.
        budget: coalitions to spend; exact up to 10 fields by default.

    Raises:
        ExplanationError: if the patient lacks the table, the players do not own its columns, or a logit
            is not finite.
    """
    k = reference.names.index(name)
    if not patient.present[k]:
        raise ExplanationError(f"{name}: absent for this patient, so its share is the effect of absence")
    spend = budget or Budget()
    owners = _owners(players, patient.rows[name], name)
    shared = _modalities(model, patient, reference, spend)
    # The table's own game: coalitions of the other modalities averaged out, as the Owen value does.
    game = _FieldGame(model, patient, reference, name, owners, players)
    if spend.runs is not None and game.runs(spend) > spend.runs:
        draws = field_draws(model, patient, reference, Table(name, players, owners), spend.runs, spend.seed)
        found, errors = from_draws(_finite(draws), float(shared.shares[k]), error=float(shared.errors[k]))
    else:
        found, errors = _field_values(game, *shared.around[k], spend)
    shares = shared.shares
    rest = [i for i in range(len(shares)) if i != k]
    return Attribution(
        outcome=outcome,
        component=name,
        names=(*(player.name for player in players), *(reference.names[i] for i in rest)),
        base=shared.base,
        values=(*map(float, found), *(float(shares[i]) for i in rest)),
        errors=(*map(float, errors), *(float(shared.errors[i]) for i in rest)),
        logit=shared.logit,
    )


def receipt(attribution: Attribution, logit: float) -> float:
    """Return by how much an attribution misses a scored logit, in log-odds.

    Args:
        attribution: base and values.
        logit: the uncalibrated logit on record, from a score.

    Raises:
        ExplanationError: if it misses by more than 1e-5, so that it explains another number.
    """
    missed = logit - attribution.base - sum(attribution.values)
    if not abs(missed) <= TOLERANCE:
        raise ExplanationError(
            f"{attribution.component}: the attributions miss the score's logit by {missed:.2e} (allowed "
            f"{TOLERANCE:.0e}); the model or the input differs from the one that was scored"
        )
    return missed


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """The game of the modalities, solved.

    Attributes:
        around: per modality, the mean value of the others' coalitions without it and with it.
    """

    base: float
    logit: float
    shares: Float64
    errors: Float64
    around: Sequence[tuple[float, float]]


def _modalities(model: Model, patient: Encoded, reference: Reference, spend: Budget) -> _Shares:
    """Solve the game of the modalities, by every coalition or within the budget."""
    count = len(reference.names)
    if spend.runs is None or 2**count * len(reference.weights) <= spend.runs:
        values = _modality_values(model, patient, reference)
        others, members = coalition_weights(count - 1), all_coalitions(count)
        around = [
            (float(others @ values[~members[:, k]]), float(others @ values[members[:, k]]))
            for k in range(count)
        ]
        return _Shares(float(values[0]), float(values[-1]), shapley(values), np.zeros(count), around)
    base, logit = (_value(model, patient, reference, np.full(count, inside)) for inside in (False, True))
    draws = modality_draws(model, patient, reference, logit, spend.runs, spend.seed)
    shares, errors = from_draws(_finite(draws), logit - base)
    return _Shares(base, logit, shares, errors, [(0.0, float(share)) for share in shares])


@dataclass(frozen=True, slots=True, eq=False)
class _FieldGame:
    """The game of one table's fields, with the other modalities averaged over their coalitions."""

    model: Model
    patient: Encoded
    reference: Reference
    name: str
    owners: Ints
    players: Sequence[Player]

    def runs(self, spend: Budget) -> int:
        """Return how often the fusion would be run."""
        inner = 2 ** len(self.players) - 2
        coalitions = inner if len(self.players) <= spend.exact_up_to else min(inner, spend.coalitions)
        return int(coalitions * len(self.reference.weights) * 2 ** (len(self.reference.names) - 1))

    def values(self, members: Bools) -> Float64:
        """Return the value of each coalition ``[coalition, player]``; each is encoded once."""
        step = max(1, BATCH // len(self.reference.weights))
        parts = [self._block(members[start : start + step]) for start in range(0, len(members), step)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _block(self, members: Bools) -> Float64:
        reference, others = self.reference, len(self.reference.names) - 1
        k = reference.names.index(self.name)
        rows = np.where(
            members[:, None, self.owners], self.patient.rows[self.name], reference.rows[self.name][None]
        )
        known = (rows[:, :, [player.missing_column for player in self.players]] < 1).any(axis=2)
        mixed = self.model.encode(self.name, rows.reshape(-1, rows.shape[2]))
        total = np.zeros(len(members))
        for inside, weight in zip(all_coalitions(others), coalition_weights(others), strict=True):
            embeddings, present = _joined(self.patient, reference, np.insert(inside, k, values=False))
            embeddings = {name: np.tile(x, (len(members), 1)) for name, x in embeddings.items()}
            present = np.tile(present, (len(members), 1))
            embeddings[self.name], present[:, k] = mixed, known.ravel()
            logits = _finite(self.model.fuse(embeddings, present)).reshape(len(members), -1)
            total += weight * (logits @ reference.weights)
        return total


def _field_values(game: _FieldGame, empty: float, full: float, spend: Budget) -> tuple[Float64, Float64]:
    players = len(game.players)
    if players <= spend.exact_up_to or 2**players - 2 <= spend.coalitions:
        inner = game.values(all_coalitions(players)[1:-1])
        return shapley(np.concatenate([[empty], inner, [full]])), np.zeros(players)
    drawn = sampled_coalitions(players, spend.coalitions, spend.seed)
    return kernel_shapley(drawn, game.values(drawn.members), empty, full)


def _modality_values(model: Model, patient: Encoded, reference: Reference) -> Float64:
    """Return the value ``[2^modality]`` of every coalition of modalities."""
    return np.array(
        [_value(model, patient, reference, inside) for inside in all_coalitions(len(reference.names))]
    )


def _value(model: Model, patient: Encoded, reference: Reference, inside: Bools) -> float:
    """Return the value of one coalition of modalities."""
    if patient.present.shape != (len(reference.names),):
        raise ExplanationError(
            f"the patient has {patient.present.shape} presence values, the reference {len(reference.names)} "
            "modalities"
        )
    embeddings, present = _joined(patient, reference, inside)
    if inside.all():
        # Nothing is left of the reference: one row is the score itself.
        embeddings, present = {name: x[:1] for name, x in embeddings.items()}, present[:1]
        return float(_finite(model.fuse(embeddings, present))[0])
    return _mean_logit(model, embeddings, present, reference.weights)


def _mean_logit(model: Model, embeddings: Mapping[str, Float32], present: Bools, weights: Float64) -> float:
    total = 0.0
    for start in range(0, len(weights), BATCH):
        rows = slice(start, start + BATCH)
        logits = model.fuse({name: x[rows] for name, x in embeddings.items()}, present[rows])
        total += float(weights[rows] @ _finite(logits))
    return total


def _joined(patient: Encoded, reference: Reference, inside: Bools) -> tuple[dict[str, Float32], Bools]:
    """Return embeddings and presence with the modalities ``inside`` taken from the patient."""
    embeddings = dict(reference.embeddings)
    for i in np.flatnonzero(inside & patient.present):
        name = reference.names[i]
        embeddings[name] = np.broadcast_to(patient.embeddings[name], reference.embeddings[name].shape)
    return embeddings, np.where(inside, patient.present, reference.present)


def _owners(players: Sequence[Player], row: Float32, name: str) -> Ints:
    """Return the player ``[feature]`` that owns each column."""
    owners = np.full(len(row), -1)
    for i, player in enumerate(players):
        columns = np.array(sorted({*player.columns, player.missing_column}))
        if (owners[columns] >= 0).any():
            raise ExplanationError(f"{name}: field {player.name!r} shares a column with another field")
        owners[columns] = i
    if (owners < 0).any():
        raise ExplanationError(f"{name}: {int((owners < 0).sum())} columns of the row belong to no field")
    return owners


def _finite(logits: Float64) -> Float64:
    if not np.isfinite(logits).all():
        raise ExplanationError("the fusion gave a logit that is not finite; the model is damaged")
    return logits
