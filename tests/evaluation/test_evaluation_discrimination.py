from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from medmm.errors import DataError
from medmm.evaluation.discrimination import auprc, auroc, brier, delong, log_loss, performance

SEEDS = st.integers(0, 2**32 - 1)


def cohort(seed: int, *, patients: int = 40, levels: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, scores with ties, and folds."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(patients) % 3 == 0).astype(int)
    return labels, rng.integers(0, levels, patients) + 1.0 * labels, np.arange(patients) % 4


@given(seed=SEEDS)
@settings(max_examples=50)
def test_without_folds_the_figures_are_scikit_learns(seed: int) -> None:
    labels, scores, _ = cohort(seed)
    assert auroc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert auprc(labels, scores) == pytest.approx(metrics.average_precision_score(labels, scores))
    risk = 0.05 + scores / 10
    assert brier(labels, risk) == pytest.approx(metrics.brier_score_loss(labels, risk))
    assert log_loss(labels, risk) == pytest.approx(metrics.log_loss(labels, risk))


@given(seed=SEEDS)
@settings(max_examples=50)
def test_within_folds_equals_counting_pairs(seed: int) -> None:
    labels, scores, folds = cohort(seed)
    rightly = pairs = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero((labels == 0) & (folds == folds[i])):
            rightly += float(scores[i] > scores[j]) + 0.5 * float(scores[i] == scores[j])
            pairs += 1
    assert auroc(labels, scores, folds) == pytest.approx(rightly / pairs)


@given(seed=SEEDS, shifts=st.lists(st.floats(-100, 100), min_size=4, max_size=4))
@settings(max_examples=50)
def test_a_fold_on_another_scale_changes_nothing(seed: int, shifts: list[float]) -> None:
    labels, scores, folds = cohort(seed)
    moved = 3.0 * scores + np.array(shifts)[folds]
    np.testing.assert_allclose(auroc(labels, moved, folds), auroc(labels, scores, folds))
    np.testing.assert_allclose(auprc(labels, moved, folds), auprc(labels, scores, folds))


def test_pooling_folds_of_different_scales_would_mislead() -> None:
    labels = np.array([0, 1, 0, 1])
    scores = np.array([0.0, 1.0, 10.0, 11.0])
    assert auroc(labels, scores, np.array([0, 0, 1, 1])) == 1.0
    assert auroc(labels, scores) == 0.75


def test_an_interval_is_seeded_holds_its_value_and_agrees_with_delong() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.3
    logits = rng.normal(size=400) + 1.2 * labels - 1
    found = performance(labels, logits, seed=1)
    assert found == performance(labels, logits, seed=1)
    assert found != performance(labels, logits, seed=2)
    for estimate in found.values():
        assert estimate.lower <= estimate.value <= estimate.upper
    analytic = delong(labels, logits)
    assert found["auroc"].value == pytest.approx(analytic.value)
    assert found["auroc"].lower == pytest.approx(analytic.lower, abs=0.01)
    assert found["auroc"].upper == pytest.approx(analytic.upper, abs=0.01)


def test_delong_is_the_published_variance() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    scores = np.array([3.0, 2.0, 1.0, 2.5, 1.0, 0.5, 0.0])
    kernel = (scores[:3, None] > scores[None, 3:]) + 0.5 * (scores[:3, None] == scores[None, 3:])
    variance = kernel.mean(axis=1).var(ddof=1) / 3 + kernel.mean(axis=0).var(ddof=1) / 4
    found = delong(labels, scores)
    assert found.value == pytest.approx(kernel.mean())
    assert found.value - found.lower == pytest.approx(1.959964 * np.sqrt(variance))


def test_threshold_measures_are_scikit_learns() -> None:
    labels, scores, folds = cohort(5, patients=60)
    logits = scores - 4.5
    found = performance(labels, logits, folds, threshold=0.5, resamples=50)
    positive = (logits >= 0).astype(int)
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(labels, positive))
    assert found["recall"].value == pytest.approx(metrics.recall_score(labels, positive))
    assert found["specificity"].value == pytest.approx(metrics.recall_score(labels, positive, pos_label=0))
    assert found["precision"].value == pytest.approx(metrics.precision_score(labels, positive))
    assert found["f1"].value == pytest.approx(metrics.f1_score(labels, positive))


def test_nobody_above_the_threshold_has_no_precision() -> None:
    labels, scores, _ = cohort(0)
    found = performance(labels, scores - 50, resamples=20)
    assert np.isnan(found["precision"].value)
    assert found["recall"].value == 0.0


@pytest.mark.parametrize(
    ("labels", "scores", "folds", "says"),
    [
        ([1, 1], [0.0, 1.0], None, "one class"),
        ([0, 2], [0.0, 1.0], None, "0 or 1"),
        ([0, 1], [0.0], None, "finite scores"),
        ([0, 1], [0.0, np.nan], None, "finite scores"),
        ([0, 1], [0.0, 1.0], [0.5, 1.5], "fold numbers"),
        ([0, 1], [0.0, 1.0], [0, 1], "no pair"),
    ],
)
def test_malformed_arrays_are_refused(labels: list, scores: list, folds: list | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        auroc(labels, scores, folds)
