"""The measures of each kind, by hand on a few patients, and calibrations that find the planted truth."""

from __future__ import annotations

import numpy as np
import pytest

from medmm.evaluation.classes import confusion, decided_measures, ovr_measures
from medmm.evaluation.discrimination import auroc
from medmm.evaluation.kinds import figures, ranking
from medmm.evaluation.recalibrate import cross_fitted_map, fit_map
from medmm.evaluation.times import concordance_measure, integrated_brier, kaplan_meier
from medmm.fitting.baselines import martingale
from medmm.outcome import Task, read, softmax

ONCE = np.ones((1, 6))
NAMES = ("home", "ward", "icu")
WARD = Task("ward", "multiclass", classes=NAMES)
GRADE = Task("grade", "ordinal", classes=("low", "middle", "high"))


def test_decisions_between_classes_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    chosen = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.full((6, 3), 0.1)
    probabilities[np.arange(6), chosen] = 0.8
    found = {name: float(m(ONCE)[0]) for name, m in decided_measures(labels, probabilities, NAMES).items()}
    assert confusion(labels, probabilities).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == found["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert found["log_loss"] == pytest.approx(-(4 * np.log(0.8) + 2 * np.log(0.1)) / 6)
    assert found["brier"] == pytest.approx((4 * 0.06 + 2 * (0.81 + 0.64 + 0.01)) / 6)


def test_one_against_the_rest_is_the_mean_of_binary_aurocs() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(3, size=60), rng.normal(size=(60, 3))
    found = ovr_measures(labels, scores, np.zeros(60, int), NAMES)
    each = [auroc(labels == k, scores[:, k]) for k in range(3)]
    assert [float(found[f"auroc.{name}"](np.ones((1, 60)))[0]) for name in NAMES] == pytest.approx(each)
    assert float(found["auroc"](np.ones((1, 60)))[0]) == pytest.approx(np.mean(each))


def test_concordance_by_hand() -> None:
    labels = np.array([2.0, -3.0, 5.0, 4.0, -4.0, 9.0])
    scores = np.array([0.9, 0.1, 0.8, 0.8, 0.0, 0.2])
    # day 2 against all five; day 4 against days 5, 9 and who was censored on day 4; day 5 against day 9
    rightly = 5 + (0.5 + 1 + 1) + 1
    found = concordance_measure(labels, scores, np.zeros(6, int))
    assert float(found(ONCE)[0]) == pytest.approx(rightly / 9)


def test_the_integrated_brier_score_without_censoring_is_an_integral_of_squares() -> None:
    labels, ends = np.array([5.0, 15.0, 25.0]), (10.0, 20.0)
    survival = np.array([[0.5, 0.2], [0.9, 0.4], [0.8, 0.7]])
    by_hand = []
    for alive, (first, second) in zip(((0, 0), (1, 0), (1, 1)), survival, strict=True):
        a, b = (alive[0] - first) ** 2, (alive[1] - second) ** 2
        by_hand.append((10 * a / 2 + 10 * (a + b) / 2) / 20)
    assert integrated_brier(labels, survival, ends) == pytest.approx(by_hand)


def test_kaplan_meier_by_hand() -> None:
    times, events = np.array([1.0, 2, 2, 3, 4]), np.array([True, True, False, False, True])
    assert kaplan_meier(times, events, np.array([0.5, 1, 2, 3.5])) == pytest.approx([1, 0.8, 0.6, 0.6])
    assert kaplan_meier(times, events, np.array([1.0, 2.0]), before=True) == pytest.approx([1, 0.8])


def test_martingale_residuals_add_up_to_nothing() -> None:
    rng = np.random.default_rng(3)
    labels = rng.exponential(10, 50) * np.where(rng.random(50) < 0.6, 1, -1)
    assert martingale(labels).sum() == pytest.approx(0, abs=1e-9)


def test_a_quantity_has_its_error_and_its_bias() -> None:
    labels = np.arange(40.0)
    said = labels + np.where(np.arange(40) % 2, 3.0, -1.0)
    task = Task("stay", "regression", unit="d")
    found = figures(task, labels, (said, said), np.zeros(40, int), resamples=200)
    assert found["mae"].value == pytest.approx(2)
    assert found["bias"].value == pytest.approx(1)
    assert found["r2"].value == pytest.approx(1 - 5 / labels.var())
    assert found["mae"].lower <= 2 <= found["mae"].upper


def test_classes_are_calibrated_back_to_their_temperature() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(size=(3000, 3))
    true -= true.mean(axis=1, keepdims=True)
    labels = np.array([rng.choice(3, p=share) for share in softmax(true)], dtype=float)
    found = fit_map(WARD, 2.5 * true + np.array([0.5, 0.0, -0.5]), labels)
    assert found.slope == pytest.approx(1 / 2.5, rel=0.1)
    assert found.offsets == pytest.approx([-0.2, 0, 0.2], abs=0.12)
    assert sum(found.offsets) == pytest.approx(0, abs=1e-9)


def test_levels_find_their_thresholds() -> None:
    rng = np.random.default_rng(2)
    score = rng.normal(size=3000)
    noisy = 2 * score + rng.logistic(size=3000)
    labels = np.digitize(noisy, [-1.0, 1.5]).astype(float)
    found = fit_map(GRADE, score, labels)
    assert found.slope == pytest.approx(2, rel=0.1)
    assert found.offsets == pytest.approx([1.0, -1.5], abs=0.2)
    assert float(ranking(GRADE, labels, score, np.zeros(3000, int))(np.ones((1, 3000)))[0]) > 0.85


def planted_times(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    score = rng.normal(size=count)
    times, watched = rng.exponential(10 * np.exp(-0.8 * score)), rng.uniform(2, 30, count)
    return score, np.where(times <= watched, times, -watched)


def test_proportional_hazards_are_calibrated_to_the_true_curve() -> None:
    score, labels = planted_times(2000)
    task = Task("death", "cox", ends=(2.0, 5.0, 10.0))
    found = fit_map(task, 2 * score, labels)
    assert found.slope == pytest.approx(0.4, rel=0.1)
    curve = read(task, found.apply(np.array(0.0)))
    assert curve == pytest.approx(np.exp(-np.array([0.2, 0.5, 1.0])), abs=0.03)


def test_hazards_are_calibrated_to_the_true_curve() -> None:
    score, labels = planted_times(2000)
    ends = (2.0, 4.0, 6.0, 8.0, 10.0)
    task = Task("death", "survival", ends=ends)
    found = fit_map(task, np.repeat(score[:, None], 5, axis=1), labels)
    at_risk = read(task, found.apply(np.zeros(5)))
    assert at_risk == pytest.approx(np.exp(-np.array(ends) / 10), abs=0.05)


def test_a_score_that_ranks_the_wrong_way_gives_everybody_the_same() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(size=300)
    labels = np.digitize(truth, [-0.5, 0.5]).astype(float)
    found = fit_map(GRADE, -3 * truth, labels)
    assert found.slope == 0
    assert read(GRADE, found.apply(np.array(0.0)))[0] == pytest.approx((labels == 0).mean(), abs=0.05)


def test_nobody_calibrates_himself() -> None:
    rng = np.random.default_rng(7)
    logits, folds = rng.normal(size=(90, 3)), np.arange(90) % 3
    labels = rng.integers(3, size=90).astype(float)
    before = cross_fitted_map(WARD, logits, labels, folds)
    labels[0] = (labels[0] + 1) % 3  # patient 0 is in fold 0
    after = cross_fitted_map(WARD, logits, labels, folds)
    assert np.array_equal(before[folds == 0], after[folds == 0])
    assert not np.array_equal(before[folds == 1], after[folds == 1])
