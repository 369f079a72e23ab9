"""DeLong against its O(n²) definition, net benefit against counting, and repeats that make no patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.errors import DataError
from medmm.evaluation.decisions import net_benefit
from medmm.evaluation.paired import (
    auroc_of_repeats,
    benefit_of_deciding,
    delong_difference,
    net_benefit_gains,
)
from medmm.evaluation.resampling import bootstrap

SEEDS = st.integers(0, 2**32 - 1)


def patients(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3 == 0
    scores = np.round(rng.normal(size=(2, count)) + labels, 1)  # with ties
    return labels, scores[0], scores[1]


def directly(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The gain and its variance by DeLong's own double sums over every pair."""
    areas, by_event, by_other = [], [], []
    for scores in (one, other):
        events, others = scores[labels], scores[~labels]
        wins = (events[:, None] > others[None]) + 0.5 * (events[:, None] == others[None])
        areas.append(wins.mean())
        by_event.append(wins.mean(axis=1))
        by_other.append(wins.mean(axis=0))
    contrast = np.array([1, -1])
    covariance = np.cov(by_event) / labels.sum() + np.cov(by_other) / (~labels).sum()
    return areas[0] - areas[1], float(contrast @ covariance @ contrast)


@given(seed=SEEDS)
@settings(max_examples=40)
def test_delong_is_its_double_sum(seed: int) -> None:
    labels, one, other = patients(seed)
    gain, variance = directly(labels, one, other)
    found = delong_difference(labels, one, other)
    np.testing.assert_allclose(found.gain.value, gain, atol=1e-12)
    np.testing.assert_allclose(found.gain.upper - gain, 1.959963984540054 * np.sqrt(variance), atol=1e-12)


@given(seed=SEEDS)
@settings(max_examples=20)
def test_delong_within_folds_weighs_folds_by_their_pairs(seed: int) -> None:
    labels, one, other = patients(seed)
    folds = np.arange(60) // 3 % 4
    parts = [directly(labels[folds == f], one[folds == f], other[folds == f]) for f in range(4)]
    found = delong_difference(labels, one, other, folds)
    np.testing.assert_allclose(found.gain.value, np.mean([gain for gain, _ in parts]), atol=1e-12)
    error = np.sqrt(sum(variance for _, variance in parts)) / 4
    np.testing.assert_allclose(found.gain.value - found.gain.lower, 1.959963984540054 * error, atol=1e-12)


def test_delong_agrees_with_the_bootstrap_and_calls_chance_rarely() -> None:
    significant = 0
    for seed in range(200):
        labels, one, other = patients(seed, 150)
        significant += delong_difference(labels, one, other).p < 0.05
    assert 2 <= significant <= 20
    truth = labels
    measure = {
        "gain": lambda w: (
            auroc_of_repeats(truth, one[None], np.zeros((1, 150), int))(w)
            - auroc_of_repeats(truth, other[None], np.zeros((1, 150), int))(w)
        )
    }
    drawn = bootstrap(measure, truth, np.zeros(150, int), seed=1)["gain"]
    found = delong_difference(truth, one, other).gain
    assert found.upper - found.lower == pytest.approx(drawn.upper - drawn.lower, rel=0.15)


def test_what_delong_cannot_tell_is_not_a_number() -> None:
    labels, one, other = patients(0)
    assert delong_difference(labels, one, one).p == 1
    alone = np.where(np.arange(60) == 0, 0, np.where(labels, 1, np.arange(60) % 2))
    found = delong_difference(labels, one, other, alone)
    assert np.isfinite(found.gain.value)
    assert np.isnan([found.gain.lower, found.p]).all()
    with pytest.raises(DataError, match="no pair"):
        delong_difference(labels, one, other, labels.astype(int))


def test_repeats_are_no_new_patients() -> None:
    """Ten copies of one repeat say exactly what one says, with the same interval."""
    labels, one, other = patients(3)
    folds = np.arange(60) // 3 % 4
    once = delong_difference(labels, one, other, folds)
    again = delong_difference(labels, np.tile(one, (10, 1)), np.tile(other, (10, 1)), np.tile(folds, (10, 1)))
    np.testing.assert_allclose(
        [again.gain.value, again.gain.lower, again.p], [once.gain.value, once.gain.lower, once.p], atol=1e-12
    )
    single, tenfold = (
        bootstrap(
            {"auroc": auroc_of_repeats(labels, np.tile(one, (n, 1)), np.tile(folds, (n, 1)))},
            labels,
            folds,
            resamples=200,
        )["auroc"]
        for n in (1, 10)
    )
    assert (single.lower, single.upper) == pytest.approx((tenfold.lower, tenfold.upper))


@given(seed=SEEDS, risk=st.floats(0.05, 0.95))
@settings(max_examples=25)
def test_net_benefit_is_the_decision_curve_at_that_risk(seed: int, risk: float) -> None:
    labels, one, other = patients(seed)
    risks = {name: 1 / (1 + np.exp(-scores)) for name, scores in (("fused", one), ("single", other))}
    curve = net_benefit(labels, risks, [risk])
    odds = risk / (1 - risk)
    parts = {name: benefit_of_deciding(labels, values >= risk, odds) for name, values in risks.items()}
    parts["treat all"] = benefit_of_deciding(labels, np.ones(60, bool), odds)
    for name, values in parts.items():
        assert values.mean() == pytest.approx(float(np.ravel(curve[name])[0]))
    found = net_benefit_gains(labels, parts.pop("fused"), parts, resamples=200)
    for name, benefit in found.items():
        assert benefit.gain.value == pytest.approx(benefit.fused.value - benefit.own.value, abs=1e-9)
        assert benefit.own.value == pytest.approx(parts[name].mean(), abs=1e-9)
        assert benefit.gain.lower <= benefit.gain.value <= benefit.gain.upper


def test_net_benefit_compares_those_whom_both_score() -> None:
    labels, one, _ = patients(0)
    own = np.where(np.arange(60) < 20, np.nan, 0.0)
    fused = benefit_of_deciding(labels, one > 0, 1.0)
    found = net_benefit_gains(labels, fused, {"rare": own, "none": own + np.nan})
    assert set(found) == {"rare"}
    assert found["rare"].patients == 40
    assert found["rare"].fused.value == pytest.approx(fused[20:].mean())


def test_a_policy_that_decides_by_fold_is_not_known_without_error() -> None:
    """Whoever treats whole folds has a net benefit that varies with who is in them."""
    labels = np.arange(60) % 3 == 0
    whole = benefit_of_deciding(labels, np.arange(60) < 24, 0.5)
    found = net_benefit_gains(labels, np.zeros(60), {"by fold": whole})["by fold"]
    assert found.own.upper > found.own.lower
