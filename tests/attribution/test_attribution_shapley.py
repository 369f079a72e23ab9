from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.attribution.shapley import (
    ENUMERATED,
    all_coalitions,
    coalition_weights,
    kernel_shapley,
    owen,
    sampled_coalitions,
    shapley,
)

SEEDS = st.integers(0, 2**32 - 1)


def by_definition(values: np.ndarray, orders: list[tuple[int, ...]]) -> np.ndarray:
    """Return mean marginal contributions over the given orders of the players."""
    total = np.zeros(len(orders[0]))
    for order in orders:
        mask = 0
        for player in order:
            total[player] += values[mask | 1 << player] - values[mask]
            mask |= 1 << player
    return total / len(orders)


@given(seed=SEEDS, players=st.integers(1, 6))
@settings(max_examples=30)
def test_shapley_is_the_mean_over_all_orders(seed: int, players: int) -> None:
    values = np.random.default_rng(seed).normal(size=2**players)
    orders = list(permutations(range(players)))
    np.testing.assert_allclose(shapley(values), by_definition(values, orders), atol=1e-12)


@given(seed=SEEDS, players=st.integers(1, 10))
def test_shapley_is_efficient(seed: int, players: int) -> None:
    values = np.random.default_rng(seed).normal(size=2**players)
    assert shapley(values).sum() == pytest.approx(values[-1] - values[0])


@given(seed=SEEDS)
def test_a_player_who_changes_nothing_gets_nothing_and_twins_get_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = all_coalitions(4)
    # Players 0 and 1 count only by how many of them are in; player 3 does not count.
    game = rng.normal(size=(3, 2))[members[:, 0].astype(int) + members[:, 1], members[:, 2].astype(int)]
    found = shapley(game)
    assert found[3] == pytest.approx(0, abs=1e-12)
    assert found[0] == pytest.approx(found[1])


@given(seed=SEEDS, others=st.integers(0, 2), players=st.integers(1, 3))
@settings(max_examples=30)
def test_owen_is_the_mean_over_orders_that_keep_unions_together(seed: int, others: int, players: int) -> None:
    table = np.random.default_rng(seed).normal(size=(2**others, 2**players))
    # Other unions act as one player each, so any order in which the union's players stand together counts.
    orders = [
        order
        for order in permutations(range(players + others))
        if np.ptp([order.index(p) for p in range(players)]) == players - 1
    ]
    # Table rows are the high bits of the joint mask.
    expected = by_definition(table.ravel(), orders)
    np.testing.assert_allclose(owen(table), expected[:players], atol=1e-12)


def test_owen_adds_up_to_the_share_of_the_union() -> None:
    table = np.random.default_rng(0).normal(size=(4, 8))
    unions = shapley(table[:, [0, -1]].ravel())
    assert owen(table).sum() == pytest.approx(unions[0])


@given(others=st.integers(0, 8))
def test_coalition_weights_are_probabilities(others: int) -> None:
    assert coalition_weights(others).sum() == pytest.approx(1)


@given(seed=SEEDS, players=st.integers(2, 14), count=st.integers(2, 600))
@settings(max_examples=50)
def test_sampled_coalitions_are_proper_and_weigh_as_the_kernel(seed: int, players: int, count: int) -> None:
    found = sampled_coalitions(players, count, seed)
    sizes = found.members.sum(axis=1)
    assert sizes.min() >= 1
    assert sizes.max() <= players - 1
    assert found.weights.sum() == pytest.approx(1)
    mass = 1 / (np.arange(1, players) * np.arange(players - 1, 0, -1))
    singles = found.weights[sizes == 1].sum()
    assert singles == pytest.approx(mass[0] / mass.sum())
    # Paired: with every coalition its complement, so each player is in exactly half of the weight.
    np.testing.assert_allclose(found.weights @ found.members, 0.5)


@given(seed=SEEDS, players=st.integers(2, 7))
@settings(max_examples=30)
def test_a_kernel_regression_over_every_coalition_is_exact(seed: int, players: int) -> None:
    values = np.random.default_rng(seed).normal(size=2**players)
    drawn = sampled_coalitions(players, 4 * 2**players, seed)
    assert (drawn.replicate == ENUMERATED).all()
    masks = drawn.members @ (1 << np.arange(players))
    found, errors = kernel_shapley(drawn, values[masks], values[0], values[-1])
    np.testing.assert_allclose(found, shapley(values), atol=1e-9)
    np.testing.assert_array_equal(errors, 0)


def test_the_stated_error_is_the_error_made() -> None:
    rng = np.random.default_rng(0)
    players = 12
    members = all_coalitions(players).astype(float)
    pairs = rng.normal(size=(players, players))
    values = np.tanh(members @ rng.normal(size=players) + ((members @ pairs) * members).sum(axis=1) / 6)
    truth = shapley(values)
    missed, stated = [], []
    for seed in range(40):
        drawn = sampled_coalitions(players, 400, seed)
        masks = drawn.members @ (1 << np.arange(players))
        found, errors = kernel_shapley(drawn, values[masks], values[0], values[-1])
        assert found.sum() == pytest.approx(values[-1] - values[0])
        missed.append(found - truth)
        stated.append(errors)
    ratio = np.sqrt(np.mean(np.square(missed)) / np.mean(np.square(stated)))
    assert 0.7 < ratio < 1.4
    assert np.abs(np.mean(missed, axis=0)).max() < 4 * np.sqrt(np.mean(np.square(stated)) / 40)


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2\\^players"):
        shapley(np.zeros(6))
