from __future__ import annotations

import numpy as np
import pytest

from medmm.errors import DataError
from medmm.evaluation.calibrate import agreement
from medmm.evaluation.discrimination import auroc, performance
from medmm.evaluation.subgroups import availability, by_group


def cohort(patients: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(patients) % 3 == 0
    return labels, rng.normal(size=patients) + labels, np.arange(patients) % 5


def test_each_group_has_the_figures_of_its_patients() -> None:
    labels, logits, folds = cohort()
    groups = np.where(np.arange(200) < 120, "north", "south")
    north, south = by_group(labels, logits, list(groups), folds, resamples=200)
    assert (north.category, south.category) == ("north", "south")
    own = groups == "south"
    assert south.patients == 80
    assert south.events == labels[own].sum()
    assert south.auroc.value == pytest.approx(auroc(labels[own], logits[own], folds[own]))
    assert south.auroc == performance(labels[own], logits[own], folds[own], resamples=200)["auroc"]
    assert south.agreement.slope == agreement(labels[own], logits[own]).slope


def test_a_small_group_shows_nothing() -> None:
    labels, logits, folds = cohort()
    groups = ["rare" if i < 10 else "common" for i in range(200)]
    common, rare = by_group(labels, logits, groups, folds, resamples=50)
    assert common.patients == 190
    assert (rare.patients, rare.events, rare.auroc, rare.agreement) == (None, None, None, None)


def test_few_events_are_not_counted_out() -> None:
    labels, logits, folds = cohort()
    few = ["few" if i < 30 else "many" for i in range(200)]
    found = {g.category: g for g in by_group(labels, logits, few, folds, resamples=50)}
    assert found["few"].patients == 30
    assert found["few"].events is None
    assert found["few"].agreement is None
    assert found["few"].auroc is not None


def test_a_group_of_one_class_has_no_figures() -> None:
    labels, logits, _ = cohort()
    groups = ["event" if label else "none" for label in labels]
    for group in by_group(labels, logits, groups, resamples=50):
        assert group.patients in {67, 133}
        assert group.events is None
        assert group.auroc is None


def test_a_group_without_a_pair_in_a_fold_has_no_auroc() -> None:
    labels, logits, _ = cohort()
    (found,) = by_group(labels, logits, ["all"] * 200, labels.astype(int), resamples=50)
    assert found.auroc is None
    assert found.agreement is not None


def test_patterns_read_as_words() -> None:
    present = np.array([[True, True], [False, True], [False, False]])
    assert availability(present, ("Zones", "PSA")) == ["Zones + PSA", "PSA", "nothing"]


def test_a_group_per_patient_is_needed() -> None:
    with pytest.raises(DataError, match="group names"):
        by_group([0, 1], [0.0, 1.0], ["a"])
