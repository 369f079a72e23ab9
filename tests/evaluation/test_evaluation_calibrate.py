from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from medmm.calibration import sigmoid
from medmm.errors import DataError
from medmm.evaluation.calibrate import agreement, cross_fitted, fit_platt, smoothed_curve

SEEDS = st.integers(0, 2**32 - 1)


def miscalibrated(seed: int, patients: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return logits twice too extreme and shifted, and labels."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(-0.5, 1.5, patients)
    labels = rng.random(patients) < sigmoid(honest)
    labels[:2] = [True, False]
    return 2 * honest + 1, labels


def test_platt_undoes_a_known_distortion() -> None:
    logits, labels = miscalibrated(0, patients=20_000)
    platt = fit_platt(logits, labels)
    assert platt.slope == pytest.approx(0.5, abs=0.02)
    assert platt.intercept == pytest.approx(-0.5, abs=0.06)


@given(seed=SEEDS)
@settings(max_examples=30)
def test_platt_maximises_its_likelihood(seed: int) -> None:
    logits, labels = miscalibrated(seed)
    platt = fit_platt(logits, labels)
    events, others = labels.sum(), (~labels).sum()
    targets = np.where(labels, (events + 1) / (events + 2), 1 / (others + 2))
    wrong = targets - platt.probability(logits)
    np.testing.assert_allclose([wrong.sum(), wrong @ logits], 0, atol=1e-5)


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
@settings(max_examples=30)
def test_risks_do_not_depend_on_the_logits_scale(seed: int, scale: float, shift: float) -> None:
    logits, labels = miscalibrated(seed)
    moved = scale * logits + shift
    np.testing.assert_allclose(
        fit_platt(moved, labels).probability(moved), fit_platt(logits, labels).probability(logits), atol=1e-6
    )


@pytest.mark.parametrize("gap", [1.0, 1e4])
def test_separable_logits_give_a_finite_map(gap: float) -> None:
    labels = np.arange(20) >= 10
    risk = fit_platt(gap * (labels - 0.5), labels).probability(gap * (labels - 0.5))
    np.testing.assert_allclose(risk, np.where(labels, 11 / 12, 1 / 12), atol=1e-6)


def test_a_ranking_worse_than_chance_gives_everyone_the_prevalence() -> None:
    labels = np.arange(20) >= 10
    platt = fit_platt(-labels.astype(float), labels)
    assert platt.slope == 0
    assert platt.probability(3.0) == pytest.approx(0.5)
    assert fit_platt(np.zeros(20), labels).slope == 0


@pytest.mark.parametrize("labels", [np.zeros(5), np.ones(5)])
def test_one_class_is_refused(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="one class"):
        fit_platt(np.arange(5.0), labels)


def test_cross_fitting_never_lets_a_fold_calibrate_itself() -> None:
    logits, labels = miscalibrated(1)
    folds = np.arange(len(labels)) % 5
    before = cross_fitted(logits, labels, folds)
    own = folds == 2
    changed = labels.copy()
    changed[own] = ~changed[own]
    after = cross_fitted(logits, changed, folds)
    np.testing.assert_array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])


def test_agreement_is_an_unpenalised_logistic_regression() -> None:
    logits, labels = miscalibrated(2, patients=2000)
    found = agreement(labels, logits)
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], labels)
    assert found.slope.value == pytest.approx(oracle.coef_[0, 0], abs=1e-5)
    assert found.slope.lower < 0.5 < found.slope.upper
    assert np.mean(sigmoid(logits + found.intercept.value)) == pytest.approx(labels.mean(), abs=1e-9)
    assert found.observed == labels.mean()


def test_agreement_of_a_platt_fit_is_nearly_ideal() -> None:
    logits, labels = miscalibrated(3, patients=5000)
    found = agreement(labels, fit_platt(logits, labels).apply(logits))
    assert found.slope.value == pytest.approx(1, abs=0.01)
    assert found.intercept.value == pytest.approx(0, abs=0.01)
    inside = (found.curve_risk > 0.1) & (found.curve_risk < 0.9)
    np.testing.assert_allclose(found.curve_observed[inside], found.curve_risk[inside], atol=0.1)


@pytest.mark.parametrize("logits", [np.zeros(20), np.where(np.arange(20) >= 10, 1.0, -1.0)])
def test_a_slope_that_does_not_exist_is_nan(logits: np.ndarray) -> None:
    assert np.isnan(agreement(np.arange(20) >= 10, logits).slope.value)


def test_the_smoothed_curve_follows_a_straight_line_exactly() -> None:
    labels = np.tile([0, 1], 50)
    at, share = smoothed_curve(labels, np.full(100, 0.3) + 0.2 * labels)
    np.testing.assert_allclose(share[[0, -1]], [0, 1], atol=1e-6)
    assert at[0] == 0.3
    assert np.all((share >= 0) & (share <= 1))
