"""Shapley and Owen values from tables of coalition values, and from sampled coalitions.

A coalition of M players is a row of M booleans; in a table of all 2^M coalitions, player ``i`` is in
coalition ``mask`` where bit ``i`` of ``mask`` is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb, factorial

import numpy as np

from medmm.arrays import Bools, Float64, Ints

REPLICATES = 20
"""Groups of sampled coalitions; leaving each out in turn gives the standard error."""

ENUMERATED = -1
"""The replicate of a coalition that was not drawn but listed: it carries no sampling error."""


@dataclass(frozen=True, slots=True, eq=False)
class Coalitions:
    """Coalitions for a kernel regression, neither the empty nor the full one among them.

    Attributes:
        members: ``[coalition, player]``.
        weights: ``[coalition]``, the share of the Shapley kernel that each stands for; sum 1.
        replicate: ``[coalition]``, 0 … ``REPLICATES`` - 1, or ``ENUMERATED``.
    """

    members: Bools
    weights: Float64
    replicate: Ints


def all_coalitions(players: int) -> Bools:
    """Return the members ``[2^players, player]`` of every coalition, in the order of a value table."""
    masks = np.arange(2**players)[:, None]
    return np.asarray((masks >> np.arange(players)) & 1, dtype=np.bool_)


def coalition_weights(others: int) -> Float64:
    """Return ``[2^others]``: how likely a player meets each coalition of the others in a random order.

    For a coalition of s of the n others this is ``s! (n - s)! / (n + 1)!``; the weights sum to 1.
    """
    by_size = [factorial(s) * factorial(others - s) / factorial(others + 1) for s in range(others + 1)]
    return np.asarray(np.array(by_size)[all_coalitions(others).sum(axis=1)], dtype=np.float64)


def shapley(values: Float64) -> Float64:
    """Return the Shapley value of each player, exactly (Shapley 1953).

    Args:
        values: ``[2^players]``, the value of every coalition.

    Returns:
        ``[player]``, summing to ``values[-1] - values[0]``.
    """
    players = _players(len(values))
    weights = coalition_weights(players - 1) if players else np.empty(0)
    masks = np.arange(len(values))
    found = np.empty(players)
    for i in range(players):
        without = masks[(masks >> i) & 1 == 0]
        found[i] = weights @ (values[without | (1 << i)] - values[without])
    return found


def owen(values: Float64) -> Float64:
    """Return the Owen value of each player of one union, exactly (Owen 1977).

    The players of a union act within it; every other union acts as one. The values add up to what the
    union gets as one player in the Shapley value over unions.

    Args:
        values: ``[2^others, 2^players]``, by coalition of the other unions and of the union's players.
    """
    return shapley(coalition_weights(_players(len(values))) @ values)


def sampled_coalitions(players: int, count: int, seed: int) -> Coalitions:
    """Return about ``count`` coalitions for a kernel regression over many players.

    Sizes that the budget covers are listed in full, from the outside in (the kernel weighs small and
    large coalitions most); the rest is drawn in pairs of a coalition and its complement.

    Args:
        players: at least 2.
        count: coalitions wanted; at least ``2 * players``, so that single players are all listed.
        seed: of the drawing.

    Source: Lundberg & Lee 2017; paired drawing, Covert & Lee 2021.
    """
    mass = {s: _layer_mass(players, s) for s in range(1, players // 2 + 1)}
    total = sum(mass.values())
    members: list[Bools] = []
    weights: list[Float64] = []
    left, rest = max(count, 2 * players), 1.0
    for size in list(mass):
        layer = _layer(players, size)
        share = mass[size] / total
        if size > 1 and left * share / rest < layer:
            break
        listed = _listed(players, size)
        members.append(listed)
        weights.append(np.full(layer, share / layer))
        left, rest = left - layer, rest - share
        del mass[size]
    listed_count = sum(len(m) for m in members)
    if mass:
        pairs = max(REPLICATES, left // 2)
        members.append(_drawn_pairs(players, mass, pairs, seed))
        weights.append(np.full(2 * pairs, rest / (2 * pairs)))
    drawn = sum(len(m) for m in members) - listed_count
    replicate = np.concatenate([np.full(listed_count, ENUMERATED), (np.arange(drawn) // 2) % REPLICATES])
    return Coalitions(np.concatenate(members), np.concatenate(weights), replicate)


def kernel_shapley(
    coalitions: Coalitions, values: Float64, empty: float, full: float
) -> tuple[Float64, Float64]:
    """Return Shapley values ``[player]`` by kernel regression, and their standard errors.

    The values sum to ``full - empty`` whatever was drawn. The errors are a jackknife over replicates
    and speak of the drawing of coalitions alone; they are 0 where every coalition was listed.

    Args:
        coalitions: from :func:`sampled_coalitions`.
        values: ``[coalition]``, the value of each.
        empty: value of the coalition of nobody.
        full: value of the coalition of everybody.
    """
    z = coalitions.members.astype(np.float64)
    gain = full - empty

    def normal(of: Bools) -> tuple[Float64, Float64]:
        weighted = z[of] * coalitions.weights[of, None]
        return weighted.T @ z[of], weighted.T @ (values[of] - empty)

    listed = normal(coalitions.replicate == ENUMERATED)
    drawn = [normal(coalitions.replicate == r) for r in range(REPLICATES)]
    matrix, target = sum(m for m, _ in drawn), sum(t for _, t in drawn)
    found = _constrained(listed[0] + matrix, listed[1] + target, gain)
    if (coalitions.replicate == ENUMERATED).all():
        return found, np.zeros(len(found))
    scale = REPLICATES / (REPLICATES - 1)
    left_out = np.stack(
        [
            _constrained(listed[0] + scale * (matrix - m), listed[1] + scale * (target - t), gain)
            for m, t in drawn
        ]
    )
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return found, np.sqrt(spread / scale)


def _constrained(matrix: Float64, target: Float64, gain: float) -> Float64:
    """Solve the weighted least squares whose solution sums to ``gain``."""
    ones = np.ones(len(target))
    free, along = np.linalg.solve(matrix, np.stack([target, ones], axis=1)).T
    return np.asarray(free - along * (free.sum() - gain) / along.sum())


def _layer(players: int, size: int) -> int:
    """Coalitions of ``size`` members or of ``size`` non-members."""
    return comb(players, size) * (1 if 2 * size == players else 2)


def _layer_mass(players: int, size: int) -> float:
    return (1 if 2 * size == players else 2) / (size * (players - size))


def _listed(players: int, size: int) -> Bools:
    chosen = np.array(list(combinations(range(players), size)))
    members = np.zeros((len(chosen), players), dtype=np.bool_)
    np.put_along_axis(members, chosen, values=True, axis=1)
    return members if 2 * size == players else np.concatenate([members, ~members])


def _drawn_pairs(players: int, mass: dict[int, float], pairs: int, seed: int) -> Bools:
    rng = np.random.default_rng(seed)
    share = np.array(list(mass.values()))
    sizes = rng.choice(list(mass), size=pairs, p=share / share.sum())
    order = rng.random((pairs, players)).argsort(axis=1).argsort(axis=1)
    drawn = order < sizes[:, None]
    return np.stack([drawn, ~drawn], axis=1).reshape(2 * pairs, players)


def _players(coalitions: int) -> int:
    players = coalitions.bit_length() - 1
    if coalitions != 2**players:
        raise ValueError(f"a table of coalitions has 2^players values, not {coalitions}")
    return players
