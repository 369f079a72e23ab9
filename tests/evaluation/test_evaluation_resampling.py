from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.evaluation.discrimination import auprc_measure, auroc_measure
from medmm.evaluation.resampling import Estimate, bootstrap, resampled_weights

SEEDS = st.integers(0, 2**32 - 1)


def cohort(patients: int, events: int, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and folds, events and the others spread evenly."""
    labels = np.arange(patients) < events
    return labels, np.concatenate([np.arange(events), np.arange(patients - events)]) % folds


def test_an_interval_of_few_patients_per_fold_holds_the_truth_as_often_as_it_says() -> None:
    labels, folds = cohort(30, 7, 5)
    rng = np.random.default_rng(0)
    truth, covered, repeats = 0.5 * (1 + math.erf(1 / 2)), 0, 400
    for _ in range(repeats):
        scores = rng.normal(size=len(labels)) + 1.0 * labels
        found = bootstrap({"auroc": auroc_measure(labels, scores, folds)}, labels, folds, resamples=300)
        covered += found["auroc"].lower <= truth <= found["auroc"].upper
    # redrawing n of n within fold x class covers 83 %
    assert 0.91 <= covered / repeats <= 0.98


@given(patients=st.integers(4, 40), seed=SEEDS)
@settings(max_examples=30)
def test_the_mean_of_a_class_varies_as_its_patients_do(patients: int, seed: int) -> None:
    labels = np.arange(2 * patients) < patients
    values = np.random.default_rng(seed).normal(size=2 * patients)
    (weights,) = resampled_weights(labels, np.zeros(2 * patients, dtype=np.int64), 4000, seed)
    drawn = weights[:, labels] @ values[labels] / patients
    assert drawn.var() == pytest.approx(values[labels].var(ddof=1) / patients, rel=0.2)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12), SEEDS)
def test_everybody_varies_who_is_not_the_only_one_of_a_class(
    patients: list[tuple[int, bool]], seed: int
) -> None:
    folds = np.array([fold for fold, _ in patients])
    labels = np.array([label for _, label in patients])
    (weights,) = resampled_weights(labels, folds, 400, seed)
    assert (weights >= 0).all()
    for label in (False, True):
        members = labels == label
        if members.any():
            np.testing.assert_allclose(weights[:, members].sum(axis=1), members.sum())
            assert (weights[:, members].std(axis=0) > 0).all() == (members.sum() > 1)


@given(SEEDS)
@settings(max_examples=20)
def test_a_stratum_of_several_keeps_its_weight(seed: int) -> None:
    labels, folds = cohort(30, 11, 4)
    (weights,) = resampled_weights(labels, folds, 20, seed)
    for fold in range(4):
        for label in (False, True):
            stratum = (folds == fold) & (labels == label)
            np.testing.assert_allclose(weights[:, stratum].sum(axis=1), stratum.sum())


@given(SEEDS, st.floats(0.1, 7))
def test_measures_take_weights_that_are_no_whole_numbers(seed: int, factor: float) -> None:
    labels, folds = cohort(24, 9, 3)
    rng = np.random.default_rng(seed)
    scores, weights = rng.normal(size=24), rng.integers(1, 4, size=(3, 24))
    for measure in (auroc_measure, auprc_measure):
        by_weight = measure(labels, scores, folds)
        once = np.repeat(np.arange(24), weights[0])
        counted = measure(labels[once], scores[once], folds[once])(np.ones((1, len(once))))
        np.testing.assert_allclose(by_weight(weights * factor), by_weight(weights * 1.0))
        np.testing.assert_allclose(by_weight(weights * factor)[0], counted[0])


def test_a_resample_without_a_pair_counts_for_nothing() -> None:
    labels, folds = np.array([True, True, False]), np.array([0, 1, 0])
    scores = np.array([2.0, 0.0, 1.0])
    found = bootstrap({"auroc": auroc_measure(labels, scores, folds)}, labels, folds, resamples=50)
    assert (found["auroc"].lower, found["auroc"].upper) == (1.0, 1.0)


@given(SEEDS)
def test_two_perfect_models_do_not_differ_in_their_last_bits(seed: int) -> None:
    labels, folds = cohort(30, 11, 4)
    rng = np.random.default_rng(seed)
    one, other = (auroc_measure(labels, rng.random(30) + 2.0 * labels, folds) for _ in range(2))
    found = bootstrap(
        {"one": one, "gain": lambda weights: one(weights) - other(weights)}, labels, folds, resamples=50
    )
    assert (found["one"].lower, found["one"].upper) == (1.0, 1.0)
    assert (found["gain"].lower, found["gain"].upper) == (0.0, 0.0)


def test_a_figure_that_is_none_is_not_defined() -> None:
    assert str(Estimate(float("nan"), float("nan"), float("nan"))) == "not defined"
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.50 (0.25 to 0.75)"
